"""How a tool call is shown to the person who decides about it: whole, and so that nothing in it is hidden.

Every line is exact: characters that are invisible or reorder text are escaped. No line can look like one of
the program that shows it, because each has its sign before it.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec
from msgspec import Struct

from perdure.domain.line_diffs import diff, lines_of
from perdure.domain.messages import JsonObject, JsonValue
from perdure.domain.visible import exact, exact_line

LineKind = Literal["note", "code", "added", "removed", "same"]
"""What a line is: a remark of this program's own, or a line of code or of a file."""

SCRIPTS = ("command", "code", "sql", "script", "query")
"""Arguments that are programs: they are shown in lines of their own."""

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
"""Names of arguments that are shown without quotes: others could look like a name with a value."""

_NEEDED: dict[str, dict[str, type]] = {
    "write_file": {"path": str, "content": str},
    "edit_file": {"path": str, "old_text": str, "new_text": str},
    "delete_file": {"path": str},
}
_ALLOWED: dict[str, dict[str, type]] = {
    "write_file": {"encoding": str, "expected_hash": str},
    "edit_file": {"replace_all": bool, "expected_hash": str},
    "delete_file": {"recursive": bool, "expected_hash": str},
}
"""The tools that change files: the arguments that they need, and those that they may have."""


class ViewLine(Struct, frozen=True):
    """A line of a call, ready to be shown."""

    kind: LineKind
    text: str


class FileNow(Struct, frozen=True):
    """What is at the path of a file's change.

    Attributes:
        text: the file's content; None if it is not shown.
        note: why the content is not shown, or what else there is to know; empty if nothing.
    """

    text: str | None = None
    note: str = ""


def edits_file(tool_name: str, arguments: JsonValue) -> bool:
    """Whether a call is exactly one of the built-in changes of a file: then a diff shows all of it.

    A tool of the same name with other arguments is shown like any other call.
    """
    if tool_name not in _NEEDED or not isinstance(arguments, dict):
        return False
    needed = _NEEDED[tool_name]
    fields = needed | _ALLOWED[tool_name]
    return needed.keys() <= arguments.keys() <= fields.keys() and all(
        type(value) is fields[name] for name, value in arguments.items()
    )


def has_view(tool_name: str, arguments: JsonValue) -> bool:
    """Whether a call is easier to read in lines than as JSON: a change of a file, or a program."""
    return edits_file(tool_name, arguments) or _script_in(arguments) is not None


def view_call(tool_name: str, arguments: JsonValue, now: FileNow | None = None) -> list[ViewLine]:
    """Show a call's arguments, all of them.

    Args:
        tool_name: the name of the tool.
        arguments: what it would get.
        now: what is in the session's file that the call changes; None if nobody has looked.
    """
    if isinstance(arguments, dict):
        if edits_file(tool_name, arguments) and arguments.get("encoding", "text") == "text":
            return _file_lines(tool_name, arguments, now or FileNow())
        script = _script_in(arguments)
        if script is not None:
            others = {name: value for name, value in arguments.items() if name != script}
            return [*_options(others), *_lines("code", str(arguments[script]))]
    return _json_lines(arguments)


def _script_in(arguments: JsonValue) -> str | None:
    """The name of the argument that is a program."""
    if not isinstance(arguments, dict):
        return None
    return next((name for name in SCRIPTS if isinstance(arguments.get(name), str)), None)


def _file_lines(tool_name: str, arguments: JsonObject, now: FileNow) -> list[ViewLine]:
    shown = {"write_file": ("content",), "edit_file": ("old_text", "new_text")}.get(tool_name, ())
    lines = _options({name: value for name, value in arguments.items() if name not in shown})
    lines += [ViewLine("note", now.note)] if now.note else []
    match tool_name:
        case "delete_file":
            return lines + _lines("removed", now.text or "")
        case "write_file" if now.text is None:
            return lines + _lines("added", arguments["content"])
        case "write_file":
            return lines + _diff_lines(now.text or "", arguments["content"])
    old, new = arguments["old_text"], arguments["new_text"]
    count = 0 if now.text is None else now.text.count(old)
    if now.text is not None and (count == 1 or (count > 1 and arguments.get("replace_all"))):
        return lines + _diff_lines(now.text, now.text.replace(old, new))
    if now.text is not None:
        note = f"old_text occurs {count} times in the file as it is now: the call would fail"
        lines.append(ViewLine("note", note))
    return lines + _lines("removed", old) + _lines("added", new)


def _diff_lines(before: str, after: str) -> list[ViewLine]:
    if before == after:
        return [ViewLine("note", "the file would stay as it is")]
    lines: list[ViewLine] = []
    kinds: dict[str, LineKind] = {" ": "same", "-": "removed", "+": "added"}
    for change in diff(before, after):
        if change.skipped:
            lines.append(ViewLine("note", f"{change.skipped:,} unchanged lines"))
        else:
            lines += _lines(kinds[change.sign], change.line, closed=True)
    return lines


def _lines(kind: LineKind, text: str, *, closed: bool = False) -> list[ViewLine]:
    """The lines of a text. `closed`: say so if it does not end with a newline, where that matters."""
    lines = [ViewLine(kind, exact_line(line.removesuffix("\n"))) for line in lines_of(text)]
    if closed and not text.endswith("\n"):
        lines.append(ViewLine("note", "no newline at the end of the line above"))
    return lines


def _options(values: JsonObject) -> list[ViewLine]:
    return [
        ViewLine("note", f"{exact(name if _NAME.fullmatch(name) else _json(name))}: {exact(_option(value))}")
        for name, value in values.items()
    ]


def _option(value: JsonValue) -> str:
    """A value in a line: a text without quotes, unless it could be taken for a number or another value."""
    return value if isinstance(value, str) and not _reads_as_json(value) else _json(value)


def _reads_as_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _json_lines(arguments: JsonValue) -> list[ViewLine]:
    text = msgspec.json.format(msgspec.json.encode(arguments), indent=2).decode()
    return [ViewLine("code", exact_line(line)) for line in text.split("\n")]


def _json(value: JsonValue) -> str:
    return msgspec.json.encode(value).decode()
