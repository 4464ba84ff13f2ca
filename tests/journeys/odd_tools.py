"""Tools that test what a tool in a file may do; `test_tool_files.py` loads them."""

import asyncio
import contextlib
import enum
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from perdure.tools import Context, Later, ToolError, tool


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


@dataclass
class Point:
    x: int
    y: float = 2.5


class Shape(msgspec.Struct):
    corners: list[Point]
    mood: Mood


@tool
async def echo_types(ctx, number: int, point: Point, mood: Mood = Mood.GOOD, when: datetime | None = None):
    """Say which Python types arrive."""
    values = {"number": number, "point": point, "mood": mood, "when": when}
    return {name: type(value).__name__ for name, value in values.items()}


@tool
async def give(what: str) -> Any:
    """Return a value of a kind."""
    return {
        "text": "plain",
        "nothing": None,
        "struct": Shape([Point(1)], Mood.BAD),
        "time": datetime(2026, 5, 1, tzinfo=UTC),
        "number": 3,
        "set": {1},
        "object": object(),
    }[what]


@tool
async def fail(how: str) -> str:
    """Fail in some way."""
    match how:
        case "refuse":
            raise ToolError("Not today.")
        case "bug":
            raise KeyError("a private detail")
        case "exit":
            sys.exit(3)
        case "cancel":
            raise asyncio.CancelledError
        case _:
            await asyncio.Event().wait()
    raise AssertionError


@tool(timeout=0.1, name="slow-tool")
async def slow() -> str:
    """Never end."""
    await asyncio.Event().wait()
    raise AssertionError


@tool
async def defer(ctx: Context, how: str) -> Later:
    """Defer the result, with a mistake."""
    callback = await ctx.callback(60)
    kinds: dict[str, Any] = {"kind": "warehouse", "nobody": "client"}
    deadlines: dict[str, Any] = {"seconds": 60, "text": "tomorrow", "yes": True}
    message: Any = {"message": 3}.get(how)
    return Later(kinds.get(how, "callback"), deadlines.get(how, callback.deadline), message)


@tool
async def send(ctx: Context, url: str, step: bool = False) -> str:
    """Send something that may have an effect."""

    async def work() -> str:
        return (await ctx.http.post(url, json={}, timeout=0.5, max_bytes=10)).text

    return str(await ctx.step("send", work)) if step else await work()


@tool
async def leak(ctx: Context, which: str) -> dict[str, Any]:
    """Try to get a secret out."""
    secret = await ctx.secret(which)
    ctx.progress(f"It is {secret}")
    await ctx.files.write("/leak.txt", f"It is {secret}.")
    await ctx.files.write("/leak.bin", f"It is {secret}.".encode())
    await ctx.storage.set("leak", secret)
    await ctx.session.update(title=f"It is {secret}", metadata={"leak": secret})
    for attempt in (ctx.files.write(f"/{secret}.txt", "x"), ctx.storage.set(secret, "x")):
        with contextlib.suppress(ToolError):  # a name cannot be blanked
            await attempt
    if which == "RAISED":
        raise ToolError(f"It is {secret}")
    return {"secret": [secret], "inside": f"<{secret}>", secret: 1}


@tool
async def use_everything(ctx: Context) -> dict[str, Any]:
    """Use the session's files, storage and facts."""
    files, storage = ctx.files, ctx.storage
    await files.write("/a/one.txt", "ä")
    await files.write("/a/two.bin", b"\xff\x00")
    await storage.set("k", "v")
    await storage.set("l", "w")
    await ctx.session.update(title="Named", tags=["x", "y"], metadata={"a": "1", "b": "2"})
    await ctx.session.update(metadata={"b": None})
    session = await ctx.session.read()
    return {
        "text": await files.read_text("a/one.txt"),
        "bytes": list(await files.read("/a/two.bin")),
        "exists": [await files.exists("/a"), await files.exists("/b")],
        "list": [each.path for each in await files.list("/", recursive=True)],
        "deleted": [await files.delete("/a/one.txt"), await files.delete("/a/one.txt")],
        "values": [await storage.get("k"), await storage.get("none")],
        "keys": await storage.list(),
        "removed": [await storage.delete("k"), await storage.delete("k")],
        "session": [session.title, session.tags, session.metadata, session.id == ctx.session_id],
    }


@tool(read_only=True)
async def list_everything(ctx: Context) -> dict[str, list[str]]:
    """List all names that the session has."""
    files = await ctx.files.list("/", recursive=True)
    return {"files": [each.path for each in files], "keys": await ctx.storage.list()}
