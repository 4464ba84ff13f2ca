"""A capability with a tool that defers its result, and one that does not, for the server of a measure."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path

from perdure.capabilities import READ_ONLY, Capability, Later, Tool, ToolContext, ToolOutcome, schema
from perdure.domain.messages import JsonObject

PORT = "BENCH_CALLBACK_PORT"
"""The environment variable with the UDP port that URLs are sent to."""
ROOT = Path(__file__).parents[1]


async def _defer(context: ToolContext, arguments: JsonObject) -> Later:
    callback = await context.callback(3600.0)
    _sender().sendto(callback.url.encode(), ("127.0.0.1", int(os.environ[PORT])))
    return Later("callback", callback.deadline)


@cache
def _sender() -> socket.socket:
    """Open the socket once: opening one for each call would be measured as a part of the callback."""
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


async def _plain(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    return ToolOutcome("done")


DEFERRING = Capability(
    id="deferring",
    name="Deferring",
    description="For measures.",
    category="test",
    tools=lambda config: (
        Tool("defer", "Defer.", schema({}), _defer, hints=READ_ONLY),
        Tool("plain", "Answer.", schema({}), _plain, hints=READ_ONLY),
    ),
)


def installed(folder: Path, port: int) -> dict[str, str]:
    """Install the capability for a server; returns the environment that the server needs."""
    info = folder / "perdure_bench-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: perdure-bench\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[perdure.capabilities]\ndeferring = bench.deferring:DEFERRING\n")
    return {"PYTHONPATH": f"{folder}:{ROOT}", PORT: str(port)}
