"""Print calls that wait for a decision: a diff for changes of files, programs in whole lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import chop_cells

from perdure.cli.terminal import Part
from perdure.domain.call_views import FileNow, ViewLine, edits_file, view_call
from perdure.domain.errors import PerdureError
from perdure.domain.paths import MOUNT, clean_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perdure.client import Client
    from perdure.domain.messages import JsonValue

MAX_DIFFED = 1024 * 1024
"""Bytes of a file that is compared with what would be written."""
FIRST_LINES = 60
"""Lines of a change that are shown at first."""
FIRST_CHARACTERS = 6000
"""Characters of a change that are shown at first."""

_SIGNS = {"note": "  · ", "code": "  │ ", "same": "  │ ", "added": "  + ", "removed": "  - "}
_STYLES = {"note": "dim", "code": "", "same": "dim", "added": "green", "removed": "red"}
_WRAPPED = "  ┆ "


async def call_lines(client: Client, session_id: str, tool_name: str, arguments: JsonValue) -> list[ViewLine]:
    """Return the lines that show a call, with a diff to the session's files as they are now."""
    now = None
    if edits_file(tool_name, arguments) and isinstance(arguments, dict):
        now = await _file_now(client, session_id, tool_name, str(arguments["path"]))
    return view_call(tool_name, arguments, now)


def is_long(lines: Sequence[ViewLine]) -> bool:
    """Whether not all of these lines are shown at first. Programs always are."""
    return len(_first(lines)) < len(lines)


def printed(lines: Sequence[ViewLine], width: int | None, *, whole: bool = False) -> list[list[Part]]:
    """Format the lines for a terminal, each with its sign, also where it continues in the next row.

    Args:
        lines: the lines of a call.
        width: the terminal's columns; None in a pipe.
        whole: show all of them, however many there are.
    """
    kept = lines if whole else _first(lines)
    rows: list[list[Part]] = []
    for line in kept:
        style = _STYLES[line.kind]
        room = None if width is None else max(width - len(_WRAPPED), 20)
        parts = [line.text] if room is None else chop_cells(line.text, room) or [""]
        rows += [[(sign + part, style)] for sign, part in zip(_signs(line, len(parts)), parts, strict=True)]
    if len(kept) < len(lines):
        missing = lines[len(kept) :]
        characters = sum(len(line.text) for line in missing)
        rows.append([(f"  … {len(missing):,} more lines with {characters:,} characters", "yellow")])
    return rows


def _signs(line: ViewLine, count: int) -> list[str]:
    return [_SIGNS[line.kind], *([_WRAPPED] * (count - 1))]


def _first(lines: Sequence[ViewLine]) -> Sequence[ViewLine]:
    """The lines that are shown at first."""
    if any(line.kind == "code" for line in lines):
        return lines
    characters = 0
    for number, line in enumerate(lines):
        characters += len(line.text)
        if number >= FIRST_LINES or characters > FIRST_CHARACTERS:
            return lines[: max(number, 1)]
    return lines


async def _file_now(client: Client, session_id: str, tool_name: str, path: str) -> FileNow:
    """Look up what the call would change."""
    try:
        place = await _place(client, session_id, path)
        found = await client.stat_file(session_id, place)
        if found.is_directory:
            files = await client.list_files(session_id, place, recursive=True)
            return FileNow(note=f"a folder, with {len(files)} files and folders in it")
        if found.size_bytes > MAX_DIFFED:
            return FileNow(note=f"the file has {found.size_bytes:,} bytes now, too many to compare")
        content = await client.read_file(session_id, place)
        return FileNow(content.decode())
    except UnicodeDecodeError:
        return FileNow(note="the file is not text now")
    except PerdureError as error:
        if error.code != "file_not_found":
            return FileNow(note=f"the file cannot be compared: {error.message}")
    return FileNow(note="a new file" if tool_name == "write_file" else "there is no such file now")


async def _place(client: Client, session_id: str, path: str) -> str:
    """Where the tools find a path: `/workspace` means the root, unless there is a folder of that name."""
    place = clean_path(path)
    if place != MOUNT and not place.startswith(f"{MOUNT}/"):
        return place
    try:
        await client.stat_file(session_id, MOUNT)
    except PerdureError as error:
        if error.code != "file_not_found":
            raise
        return place[len(MOUNT) :] or "/"
    return place
