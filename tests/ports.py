"""Ports of this machine for the programs that tests start."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path


def free_port() -> int:
    """A port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def until_open(
    port: int, process: asyncio.subprocess.Process, *, log: Path | None = None, seconds: float = 20
) -> None:
    """Wait until a program listens on its port.

    Args:
        log: what the program says, for the error if it ends instead.
    """
    async with asyncio.timeout(seconds):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                said = "" if log is None or not log.exists() else log.read_text()[-2000:]
                assert process.returncode is None, f"the program has ended: {said}"
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
