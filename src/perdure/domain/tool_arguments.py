"""What stands in the log in place of a tool call's arguments that were too long to keep."""

from __future__ import annotations

_BEGIN = "[arguments left out: "


def arguments_left_out(size: int, limit: int) -> str:
    """The text in place of arguments with this many characters, given the limit."""
    return (
        f"{_BEGIN}they have {size} characters, and the calls of one answer may have {limit} together. "
        "Write less at a time]"
    )


def why_not_an_object(arguments: str) -> str:
    """The error for the model when a call's arguments are a text instead of an object."""
    if arguments.startswith(_BEGIN):
        return f"The call was not made, because its arguments are too long: {arguments[len(_BEGIN) : -1]}."
    return "The arguments are not valid JSON."
