"""`session_file_system`: the session's files, which are stored in the database.

No path can reach the host's files: the tools only know the database.
"""

from __future__ import annotations

from functools import partial
from typing import cast

from perdure.app import session_files as files
from perdure.app.context import Services
from perdure.app.file_access import sized
from perdure.capabilities.port import (
    ONCE,
    READ_ONLY,
    REPEATABLE,
    Capability,
    Tool,
    ToolContext,
    ToolOutcome,
    schema,
)
from perdure.domain.errors import ToolError
from perdure.domain.events import FileWrittenData
from perdure.domain.files import MAX_PATTERN, Content, Encoding, content_of, decoded, too_large
from perdure.domain.messages import JsonObject
from perdure.domain.paths import MAX_PATH, MOUNT
from perdure.domain.tools import ToolHints
from perdure.store.file_changes import FileWrite, Written
from perdure.store.files import FileRow
from perdure.tools import file_reading as reading
from perdure.tools.file_reading import DEFAULT_LINES, tool_path


def session_file_system(services: Services) -> Capability:
    """Create the capability, with its tools bound to the services."""
    tools = tuple(create_tool(services) for create_tool in _TOOLS)
    return Capability(
        id="session_file_system",
        name="File system",
        description=(
            "Gives the session its own files, which the agent can read, write, edit, search and delete."
        ),
        category="files",
        features=("file_system",),
        tools=lambda config: tools,
        prompt=lambda config: (
            "You have your own files, which last as long as this session. Paths are absolute and begin with "
            f"/; {MOUNT} is another name of the root."
        ),
    )


def _event(written: Written, operation: str) -> FileWrittenData:
    return FileWrittenData(written.row.path, operation, written.created, written.row.size_bytes)


def _expected(arguments: JsonObject) -> frozenset[str] | None:
    expected = arguments.get("expected_hash")
    return None if expected is None else frozenset((expected,))


async def _write_file(services: Services, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    path = await tool_path(services, context, arguments["path"])
    text, encoding = arguments["content"], cast("Encoding", arguments.get("encoding") or "text")

    def decode() -> Content:
        return content_of(decoded(text, encoding, services.file_limits.file))

    content = await sized(len(text), decode)
    write = FileWrite(path, content, expected=_expected(arguments))
    written = await files.write_file(services, context, context.session_id, write)
    answer = {
        "path": path,
        "created": written.created,
        "size_bytes": written.row.size_bytes,
        "hash": content.hash,
    }
    return ToolOutcome(answer, (_event(written, "write"),))


async def _edit_file(services: Services, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    path = await tool_path(services, context, arguments["path"])
    edit = partial(_edited, arguments, services.file_limits.file)
    edited = await files.edit_file(services, context, context.session_id, path, edit, _expected(arguments))
    written, places, hash_ = edited.written, edited.places, edited.content.hash
    answer = {"path": path, "replaced": places, "size_bytes": written.row.size_bytes, "hash": hash_}
    return ToolOutcome(answer, (_event(written, "edit"),))


def _edited(arguments: JsonObject, limit: int, row: FileRow, data: bytes) -> tuple[Content, int]:
    """Apply an edit; returns the new content and the number of replacements.

    Raises:
        ToolError: the file is not text, or the old text does not occur as the call needs it.
        TooLarge: the new content is over `limit` bytes.
    """
    path, old, new = row.path, arguments["old_text"], arguments["new_text"]
    if not row.is_text:
        raise ToolError(f"{path} is not text: replace it with write_file")
    if old == new:
        raise ToolError("new_text is the same as old_text: nothing would change")
    text = data.decode()
    count = text.count(old)
    if count == 0:
        raise ToolError(f"old_text does not occur in {path}{_line_ending_hint(text, old)}")
    if count > 1 and not arguments.get("replace_all"):
        raise ToolError(
            f"old_text occurs {count} times in {path}: include more text around it, or set replace_all"
        )
    if len(data) + count * (len(new.encode()) - len(old.encode())) > limit:
        raise too_large(limit)  # checked first: a short edit with many matches can produce any size
    return content_of(text.replace(old, new).encode()), count


def _line_ending_hint(text: str, old: str) -> str:
    """A hint for the error message if only the line endings differ, which is easily overlooked."""
    if old.replace("\r\n", "\n") not in text.replace("\r\n", "\n"):
        return ""
    ends = r"\r\n" if "\r\n" in text else r"\n"
    return f": only the line endings differ, and the file uses {ends}"


async def _delete_file(services: Services, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    path = await tool_path(services, context, arguments["path"])
    deleted = await files.delete_path(
        services,
        context,
        context.session_id,
        path,
        recursive=bool(arguments.get("recursive")),
        expected=_expected(arguments),
    )
    if not deleted:
        return ToolOutcome({"path": path, "deleted": 0, "note": "nothing exists at this path"})
    return ToolOutcome({"path": path, "deleted": deleted}, (FileWrittenData(path, "delete", False, 0),))


_PATH = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_PATH,
    "description": "Absolute path, such as /notes/plan.md.",
}
_FOLDER = {**_PATH, "description": "The folder; / if left out."}
_RECURSIVE = {"type": "boolean", "description": "Include the contents of all subfolders."}
_PATTERN = {"type": "string", "minLength": 1, "maxLength": MAX_PATTERN}
_EXPECTED = {
    "type": "string",
    "pattern": "^[0-9a-f]{64}$",
    "description": "The hash from when you read the file. If the file has changed since, the call fails.",
}
_FROM_ONE = {"type": "integer", "minimum": 1}


def _read_file_tool(services: Services) -> Tool:
    return Tool(
        name="read_file",
        description=(
            "Read a file. Text is returned in whole lines, with the file's line count and the hash of its "
            "content; other files are returned in base64."
        ),
        parameters=schema(
            {
                "path": _PATH,
                "offset": {**_FROM_ONE, "description": "First line to show, counted from 1."},
                "limit": {
                    **_FROM_ONE,
                    "maximum": 100_000,
                    "description": f"Lines to show; {DEFAULT_LINES} if left out.",
                },
                "numbered": {"type": "boolean", "description": "Put each line's number before it."},
                "byte_offset": {
                    "type": "integer",
                    "minimum": 0,
                    "description": "First byte to show of a file that is not text.",
                },
            },
            "path",
        ),
        run=partial(reading.read_file, services),
        hints=READ_ONLY,
        spill=False,
        reads_files=True,
        display_name="Read file",
    )


def _read_many_files_tool(services: Services) -> Tool:
    return Tool(
        name="read_many_files",
        description="Read several text files at once, up to the size limit of one answer.",
        parameters=schema(
            {"paths": {"type": "array", "items": _PATH, "minItems": 1, "maxItems": 50}}, "paths"
        ),
        run=partial(reading.read_many_files, services),
        hints=READ_ONLY,
        spill=False,
        reads_files=True,
        display_name="Read files",
    )


def _list_directory_tool(services: Services) -> Tool:
    return Tool(
        name="list_directory",
        description="List a folder's contents.",
        parameters=schema({"path": _FOLDER, "recursive": _RECURSIVE}),
        run=partial(reading.list_directory, services),
        hints=READ_ONLY,
        spill=False,
        reads_files=True,
        display_name="List directory",
    )


def _glob_tool(services: Services) -> Tool:
    return Tool(
        name="glob",
        description=(
            "Find files by their paths: * and ? within a name, ** across folders, [a-z], {a,b}. A pattern "
            "without a / matches file names in any folder; one that begins with / is relative to the root, "
            "any other to the folder."
        ),
        parameters=schema(
            {"pattern": {**_PATTERN, "description": "Such as **/*.md."}, "path": _FOLDER}, "pattern"
        ),
        run=partial(reading.glob, services),
        hints=READ_ONLY,
        spill=False,
        reads_files=True,
        display_name="Find files",
    )


def _grep_files_tool(services: Services) -> Tool:
    return Tool(
        name="grep_files",
        description=(
            "Search the lines of text files with a regular expression (RE2: no look-around, no "
            "backreferences)."
        ),
        parameters=schema(
            {
                "pattern": _PATTERN,
                "path_pattern": {
                    **_PATTERN,
                    "description": "Only files whose paths match this glob, such as *.md.",
                },
                "path": {**_PATH, "description": "Only this folder or file; / if left out."},
                "ignore_case": {"type": "boolean"},
            },
            "pattern",
        ),
        run=partial(reading.grep_files, services),
        hints=READ_ONLY,
        spill=False,
        reads_files=True,
        display_name="Search files",
    )


def _stat_file_tool(services: Services) -> Tool:
    return Tool(
        name="stat_file",
        description="Get the type, size, hash and times of the file or folder at a path.",
        parameters=schema({"path": _PATH}, "path"),
        run=partial(reading.stat_file, services),
        hints=READ_ONLY,
        spill=False,
        reads_files=True,
        display_name="File facts",
    )


def _write_file_tool(services: Services) -> Tool:
    return Tool(
        name="write_file",
        description="Write a file, replacing its content. Missing parent folders are created.",
        parameters=schema(
            {
                "path": _PATH,
                "content": {"type": "string"},
                "encoding": {
                    "type": "string",
                    "enum": ["text", "base64"],
                    "description": "The encoding of content; text if left out.",
                },
                "expected_hash": _EXPECTED,
            },
            "path",
            "content",
        ),
        run=partial(_write_file, services),
        hints=REPEATABLE,
        display_name="Write file",
        writes="path",
    )


def _edit_file_tool(services: Services) -> Tool:
    return Tool(
        name="edit_file",
        description=(
            "Replace an exact piece of text in a file. It must occur exactly once, unless replace_all is set."
        ),
        parameters=schema(
            {
                "path": _PATH,
                "old_text": {"type": "string", "minLength": 1},
                "new_text": {"type": "string"},
                "replace_all": {"type": "boolean"},
                "expected_hash": _EXPECTED,
            },
            "path",
            "old_text",
            "new_text",
        ),
        run=partial(_edit_file, services),
        hints=ONCE,
        # Several edits of one file in one answer are common, and each builds on the result of the one before.
        queue="edit",
        display_name="Edit file",
        writes="path",
    )


def _delete_file_tool(services: Services) -> Tool:
    return Tool(
        name="delete_file",
        description="Delete a file or a folder. A folder that is not empty needs recursive.",
        parameters=schema({"path": _PATH, "recursive": _RECURSIVE, "expected_hash": _EXPECTED}, "path"),
        run=partial(_delete_file, services),
        hints=ToolHints(readonly=False, destructive=True, idempotent=True),
        display_name="Delete file",
        writes="path",
    )


_TOOLS = (
    _read_file_tool,
    _read_many_files_tool,
    _list_directory_tool,
    _glob_tool,
    _grep_files_tool,
    _stat_file_tool,
    _write_file_tool,
    _edit_file_tool,
    _delete_file_tool,
)
