"""The read-only file tools: read, list, search, stat."""

from __future__ import annotations

import base64
from collections.abc import Callable

from perdure.app import session_files as files
from perdure.app.context import Services
from perdure.app.file_access import OfSession, sized
from perdure.app.file_search import find, grep
from perdure.capabilities.port import ToolContext, ToolOutcome
from perdure.domain.errors import PerdureError
from perdure.domain.messages import JsonObject
from perdure.domain.paths import MOUNT, clean_path
from perdure.domain.texts import without_middle
from perdure.domain.times import to_rfc3339
from perdure.store.files import FileRow

Clean = Callable[[str], str]

DEFAULT_LINES = 2_000
"""Lines that `read_file` returns by default: enough for most source files, and small enough for a prompt."""
MAX_LINE = 2_000
"""Characters shown of one line."""
SHOWN = 50_000
"""Characters of a file that one call shows. With the JSON around it, this stays below the limit for a tool's
output."""
BINARY_SHOWN = 36_000
"""Bytes of a binary file that one call shows, in base64."""
MAX_LISTED = 1_000
MAX_MATCHES = 300
"""Entries, and matching lines, in one answer."""


async def tool_path(services: Services, context: ToolContext, path: str) -> str:
    """Normalize a path that the model wrote.

    `/workspace` means the root, unless the session has a folder of that name.

    Raises:
        InvalidInput: the text is not a valid path.
    """
    return await _from_top(services, context, clean_path(path))


async def tool_pattern(services: Services, context: ToolContext, pattern: str) -> str:
    """Normalize a glob that the model wrote: `/workspace` and `./` mean the same as in a path."""
    return pattern[1:] if pattern.startswith("./") else await _from_top(services, context, pattern)


async def _from_top(services: Services, context: ToolContext, path: str) -> str:
    """Strip `/workspace` from a path or a pattern, unless the session has a folder of that name."""
    if path != MOUNT and not path.startswith(f"{MOUNT}/"):
        return path
    folder = await files.find_entry(services, context, context.session_id, MOUNT)
    return path if folder is not None else path[len(MOUNT) :] or "/"


async def read_file(services: Services, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    """Read lines of a text file, or bytes of a binary one."""
    path = await tool_path(services, context, arguments["path"])
    row, data = await files.read_file(services, context, context.session_id, path)
    if not row.is_text:
        return ToolOutcome(_binary(row, data, arguments.get("byte_offset") or 0))
    first, limit = arguments.get("offset") or 1, arguments.get("limit") or DEFAULT_LINES
    clean, numbered = context.redactor.text, bool(arguments.get("numbered"))
    return ToolOutcome(await sized(len(data), _lines, row, data, first, limit, numbered, SHOWN, clean))


def _binary(row: FileRow, data: bytes, offset: int) -> JsonObject:
    piece = data[offset : offset + BINARY_SHOWN]
    end = offset + len(piece)
    answer: JsonObject = {"path": row.path, "encoding": "base64", "content": base64.b64encode(piece).decode()}
    answer |= {"size_bytes": len(data), "hash": row.hash}
    if len(piece) < len(data):
        answer["shown"] = (
            f"bytes {offset} to {end - 1}" if piece else f"nothing: the file has {len(data)} bytes"
        )
    if end < len(data):
        answer["next_byte_offset"] = end
    return answer


def _lines(
    row: FileRow, data: bytes, first: int, limit: int, numbered: bool, room: int, clean: Clean
) -> JsonObject:
    """The answer for a text file: whole lines, at most `limit` of them and `room` characters."""
    lines = data.decode().split("\n")
    if lines[-1] == "":
        lines.pop()
    shown: list[str] = []
    for number, line in enumerate(lines[first - 1 : first - 1 + limit], first):
        text = _shorten(line, clean)
        text = f"{number:>6}\t{text}" if numbered else text
        if shown and len(text) > room:
            break
        room -= len(text) + 1
        shown.append(text)
    last = first - 1 + len(shown)
    ends = last < len(lines) or data.endswith(b"\n")
    content = "\n".join(shown) + ("\n" if shown and ends else "")
    answer: JsonObject = {"path": row.path, "content": content, "lines": len(lines), "hash": row.hash}
    if len(shown) < len(lines):
        answer["shown"] = f"lines {first} to {last}" if shown else f"nothing: the file has {len(lines)} lines"
    if shown and last < len(lines):
        answer["next_offset"] = last + 1
    return answer


def _shorten(line: str, clean: Clean) -> str:
    if len(line) <= MAX_LINE:
        return line
    return without_middle(clean(line), MAX_LINE, lambda left: f"[... {left} characters left out ...]")


async def read_many_files(services: Services, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    """Read several files, up to the limit of one answer. A file that fails does not affect the others."""
    room = SHOWN
    answers: list[JsonObject] = []
    for name in dict.fromkeys(arguments["paths"]):
        if room <= 0:
            answers.append({"path": name, "error": "left out because the answer is full: use read_file"})
            continue
        try:
            path = await tool_path(services, context, name)
            row, data = await files.read_file(services, context, context.session_id, path)
        except PerdureError as error:
            if error.retryable:
                raise  # the database is unavailable, which says nothing about the file
            answers.append({"path": name, "error": error.message})
            continue
        if not row.is_text:
            answers.append(
                {
                    "path": row.path,
                    "size_bytes": row.size_bytes,
                    "hash": row.hash,
                    "error": "not text: use read_file",
                }
            )
            continue
        clean = context.redactor.text
        file = await sized(len(data), _lines, row, data, 1, DEFAULT_LINES, False, room, clean)
        room -= len(file["content"])
        answers.append(file)
    return ToolOutcome({"files": answers})


async def list_directory(services: Services, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    """List a folder's contents."""
    path = await tool_path(services, context, arguments.get("path") or "/")
    recursive = bool(arguments.get("recursive"))
    rows = await files.list_entries(services, context, context.session_id, path, recursive=recursive)
    answer: JsonObject = {"path": path, "entries": [_entry(row) for row in rows[:MAX_LISTED]]}
    if len(rows) > MAX_LISTED:
        answer["truncated"] = f"{len(rows) - MAX_LISTED} more: list the folders one by one"
    return ToolOutcome(answer)


def _entry(row: FileRow) -> JsonObject:
    if row.is_directory:
        return {"path": row.path, "type": "directory"}
    entry: JsonObject = {"path": row.path, "type": "file", "size_bytes": row.size_bytes}
    return entry | ({"is_readonly": True} if row.is_readonly else {})


async def glob(services: Services, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    """List the paths of files that match a glob."""
    folder = await tool_path(services, context, arguments.get("path") or "/")
    pattern = await tool_pattern(services, context, arguments["pattern"])
    rows, cut = await find(services, context, OfSession(context.session_id), pattern, folder)
    answer: JsonObject = {"paths": [row.path for row in rows[:MAX_LISTED]]}
    if len(rows) > MAX_LISTED:
        cut = f"{len(rows) - MAX_LISTED} more: use a narrower pattern"
    return ToolOutcome(answer | ({"truncated": cut} if cut else {}))


async def grep_files(services: Services, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    """Find lines that match a regular expression."""
    path_glob = arguments.get("path_pattern")
    search = await grep(
        services,
        context,
        OfSession(context.session_id),
        arguments["pattern"],
        glob=None if path_glob is None else await tool_pattern(services, context, path_glob),
        folder=await tool_path(services, context, arguments.get("path") or "/"),
        ignore_case=bool(arguments.get("ignore_case")),
        limit=MAX_MATCHES,
        clean=context.redactor.text,
    )
    matches: list[JsonObject] = []
    cut, room = search.truncated, SHOWN
    for file in search.files:
        for line in file.lines:
            room -= len(file.path) + len(line.text) + 40
            if room > 0:
                matches.append({"path": file.path, "line_number": line.number, "line": line.text})
    if room <= 0:
        cut = "there are more matches: narrow the search"
    answer: JsonObject = {"matches": matches, "files_searched": search.searched}
    return ToolOutcome(answer | ({"truncated": cut} if cut else {}))


async def stat_file(services: Services, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    """Describe the file or folder at a path."""
    path = await tool_path(services, context, arguments["path"])
    row = await files.read_entry(services, context, context.session_id, path)
    if row.is_directory:
        return ToolOutcome({"path": path, "type": "directory"})
    return ToolOutcome(
        {
            "path": path,
            "type": "file",
            "size_bytes": row.size_bytes,
            "hash": row.hash,
            "is_text": bool(row.is_text),
            "is_readonly": bool(row.is_readonly),
            "created_at": to_rfc3339(row.created_at),
            "updated_at": to_rfc3339(row.updated_at),
        }
    )
