"""An MCP server of the official package, for processes of their own.

Usage: python mcp_official.py stdio | PORT
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

OLD = False
try:
    from mcp.server.mcpserver import Context, Image
    from mcp.server.mcpserver import MCPServer as Server
except ImportError:  # before 2.0
    from mcp.server.fastmcp import Context, FastMCP, Image

    OLD, Server = True, FastMCP

HOST = {"host": "127.0.0.1", "port": int(sys.argv[1])} if sys.argv[1] != "stdio" else {}
server: Any = Server("official", instructions="Be kind.", **(HOST if OLD else {}))
runs: list[str] = []


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def fail() -> str:
    """Fail."""
    raise ValueError("it failed")


@server.tool()
def picture() -> Image:
    """Draw."""
    return Image(data=b"\x89PNG", format="png")


@server.tool()
async def slowly(count: int, context: Context) -> str:
    """Count, and say so."""
    for number in range(count):
        await context.report_progress(number, count, f"step {number}")
        await asyncio.sleep(0.06)
    runs.append("slowly")
    return "counted"


@server.tool()
def finished() -> str:
    """Say what has run to its end."""
    return ",".join(runs)


@server.tool()
async def ask(context: Context) -> str:
    """Ask the user."""
    from pydantic import BaseModel

    class Name(BaseModel):
        name: str

    given = await context.elicit("Who are you?", Name)
    return f"{given.action}: {given.data.name if given.action == 'accept' else ''}"


@server.resource("note://one")
def note() -> str:
    """A note."""
    return "the note"


@server.prompt()
def greeting(name: str) -> str:
    """Greet."""
    return f"Greet {name}."


if not HOST:
    server.run("stdio")
elif OLD:
    server.run("streamable-http")
else:
    server.run("streamable-http", **HOST)
