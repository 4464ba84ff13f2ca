"""The log of a server that writes JSON."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.server import Server
from tests.talk import PATIENCE

JSON_LOG = {"PERDURE_LOG_FORMAT": "json"}


def lines_of(server: Server, *, others: bool = False) -> list[dict[str, Any]]:
    """Every line of the server's log; each is one object.

    Args:
        others: whether there may be other lines, which are left out: of a server that could not start.
    """
    lines = server.log.read_text().splitlines()
    return [json.loads(line) for line in lines if not others or line.startswith("{")]


async def line_with(server: Server, **wanted: object) -> dict[str, Any]:
    """Wait for a line with these fields, and return it."""
    async with asyncio.timeout(PATIENCE):
        while True:
            for line in lines_of(server):
                if wanted.items() <= line.items():
                    return line
            await asyncio.sleep(0.02)  # nothing tells that a file has grown
