"""Tools with the mistakes that authors make; `test_careless_tools.py` loads them."""

import asyncio
import threading
from typing import Any

from perdure.capabilities.port import Later, ToolOutcome
from perdure.tools import Context, ToolError, tool


class Unmade(ToolError):
    """An error that forgets what it inherits."""

    def __init__(self) -> None:
        pass


class Unreadable(Exception):
    """An error that fails when it is looked at."""

    def __str__(self) -> str:
        raise LookupError("no text")


class UnreadableToolError(ToolError):
    """A tool's error without a text."""

    def __init__(self) -> None:
        super().__init__("text")
        self.message = Unreadable()  # type: ignore[assignment]


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@tool
async def misbehave(ctx: Context, how: str) -> Any:
    """Do what no tool should do."""

    async def give(value: Any) -> Any:
        return value

    async def refuse() -> None:
        raise ToolError("refused " * 1_000_000)

    match how.split():
        case ["raise", "cause"]:
            raise ToolError(KeyError("order"))  # type: ignore[arg-type]
        case ["raise", "unmade"]:
            raise Unmade
        case ["raise", "unreadable"]:
            raise Unreadable
        case ["raise", "textless"]:
            raise UnreadableToolError
        case ["raise", "number"]:
            raise ToolError(7)  # type: ignore[arg-type]
        case ["raise", "huge"]:
            raise ToolError("x" * 5_000_000)
        case ["raise", "group"]:
            raise BaseExceptionGroup("several", [ToolError("one"), SystemExit(1)])
        case ["files", "text"]:
            return ToolOutcome("x", files=("/a.txt",))  # type: ignore[arg-type]
        case ["files", "none"]:
            return ToolOutcome("x", files=None)  # type: ignore[arg-type]
        case ["later", kind]:
            callback = await ctx.callback(60)
            return Later(kind, callback.deadline)  # type: ignore[arg-type]
        case ["step", "deep", levels]:
            return len(str(await ctx.step("deep", lambda: give(nested(int(levels))))))
        case ["step", "refuse"]:
            return await ctx.step("refuse", refuse)
        case ["step", "half"]:
            return await ctx.step("half", lambda: give({"half \udcff": ["\ud800", "\x00"]}))
        case ["step", "number"]:
            return await ctx.step("number", lambda: give(1 << 80))
        case ["step", "object"]:
            return await ctx.step("object", lambda: give(object()))
        case ["deep", levels]:
            return nested(int(levels))
        case ["number"]:
            return [1 << 80]
        case ["itself"]:
            value: list[Any] = []
            value.append(value)
            return value
    raise AssertionError(how)


@tool
async def show(ctx: Context, how: str) -> str:
    """Show what no follower can read."""
    shown: Any = {
        "half": "half \udcff\x00",
        "bytes": b"bytes",
        "list": ["a"],
        "number": 7,
        "long": "x" * 9_000_000,
    }
    if how == "thread":
        await asyncio.to_thread(_show_all, ctx)
        return f"shown by {threading.active_count() > 1}"
    ctx.progress(shown[how])
    ctx.output("stdout", shown[how][:1_000])
    return "shown"


def _show_all(ctx: Context) -> None:
    for number in range(100):
        ctx.progress(f"line {number}")
    ctx.output("stderr", "the end")
