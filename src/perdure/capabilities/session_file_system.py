"""`session_file_system`: files of the session, in the database: no path leads out of it, since there is nothing outside."""

from __future__ import annotations

import base64

from perdure.capabilities.base import ONCE, READ_ONLY, REPEATABLE, Capability, Tool, ToolContext, ToolOutcome, schema
from perdure.domain.errors import ToolError
from perdure.domain.events import FileWrittenData
from perdure.domain.messages import JsonObject
from perdure.domain.paths import MAX_PATH, clean_path
from perdure.store.database import Tx
from perdure.store.files import FileRow, bytes_held, get_file, list_files, put_file

MAX_FILE = 10 * 1024 * 1024
MAX_TOTAL = 100 * 1024 * 1024
"""Bytes that a file, and all files of a session, may hold."""
DEFAULT_LINES = 2000
"""Lines that `read_file` gives unless asked: enough for most source files, small enough for a prompt."""


def tool_path(path: str) -> str:
    """The normal form of a path that the model wrote.

    Raises:
        ToolError: empty, too long, or with control characters.
    """
    clean = clean_path(path)
    if clean is None:
        raise ToolError(f"a path has 1 to {MAX_PATH} characters and no control characters")
    return clean


async def _entry(tx: Tx, context: ToolContext, path: str) -> FileRow:
    found = await get_file(tx, context.org_id, context.session_id, path)
    if found is None:
        raise ToolError(f"there is no file {path}")
    if found.is_directory:
        raise ToolError(f"{path} is a directory")
    return found


async def _store(tx: Tx, context: ToolContext, path: str, content: bytes, is_text: bool) -> FileWrittenData:
    if path == "/":
        raise ToolError("/ is a directory")
    if len(content) > MAX_FILE:
        raise ToolError(f"a file may hold {MAX_FILE} bytes; this would be {len(content)}")
    old = await get_file(tx, context.org_id, context.session_id, path)
    if old is not None and old.is_directory:
        raise ToolError(f"{path} is a directory")
    if old is not None and old.is_readonly:
        raise ToolError(f"{path} is read-only")
    parts = path.strip("/").split("/")[:-1]
    for depth in range(1, len(parts) + 1):
        above = await get_file(tx, context.org_id, context.session_id, "/" + "/".join(parts[:depth]))
        if above is not None and not above.is_directory:
            raise ToolError(f"{above.path} is a file, not a directory")
    held = await bytes_held(tx, context.org_id, context.session_id) - (old.size_bytes if old else 0)
    if held + len(content) > MAX_TOTAL:
        raise ToolError(f"the session's files may hold {MAX_TOTAL} bytes together")
    created = await put_file(tx, context.org_id, context.session_id, path, content, is_text=is_text, now=context.now())
    return FileWrittenData(path, "write", created, len(content))


async def _read_file(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    path = tool_path(arguments["path"])
    row = await context.database.read(lambda tx: _entry(tx, context, path))
    content = bytes(row.content or b"")
    if not row.is_text:
        answer: JsonObject = {"path": path, "encoding": "base64", "content": base64.b64encode(content).decode(), "hash": row.hash}
        return ToolOutcome(answer)
    lines = content.decode("utf-8", "replace").splitlines(keepends=True)
    first = arguments.get("offset") or 1
    limit = arguments.get("limit") or DEFAULT_LINES
    shown = lines[first - 1 : first - 1 + limit]
    answer = {"path": path, "content": "".join(shown), "hash": row.hash, "lines": len(lines)}
    if len(shown) < len(lines):
        answer["shown"] = f"lines {first} to {first - 1 + len(shown)}"
    return ToolOutcome(answer)


async def _write_file(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    path = tool_path(arguments["path"])
    is_text = arguments.get("encoding", "text") == "text"
    try:
        content = arguments["content"].encode() if is_text else base64.b64decode(arguments["content"], validate=True)
    except ValueError:
        raise ToolError("the content is not valid base64") from None
    written = await context.database.write(lambda tx: _store(tx, context, path, content, is_text))
    return ToolOutcome({"path": path, "created": written.created, "size_bytes": written.size_bytes}, (written,))


async def _edit_file(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    path = tool_path(arguments["path"])
    old, new = arguments["old_text"], arguments["new_text"]
    everywhere = bool(arguments.get("replace_all"))

    async def body(tx: Tx) -> tuple[FileWrittenData, int]:
        row = await _entry(tx, context, path)
        expected = arguments.get("expected_hash")
        if expected is not None and expected != row.hash:
            raise ToolError(f"{path} has changed since it was read: read it again")
        text = bytes(row.content or b"").decode("utf-8", "replace")
        count = text.count(old)
        if count == 0:
            raise ToolError(f"the old text does not occur in {path}")
        if count > 1 and not everywhere:
            raise ToolError(f"the old text occurs {count} times in {path}: give more of it, or set replace_all")
        changed = text.replace(old, new).encode()
        return await _store(tx, context, path, changed, True), count

    written, count = await context.database.write(body)
    return ToolOutcome({"path": path, "replaced": count, "size_bytes": written.size_bytes}, (written,))


async def _list_directory(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    path = tool_path(arguments.get("path") or "/")
    entries = await context.database.read(lambda tx: list_files(tx, context.org_id, context.session_id, path))
    deep = bool(arguments.get("recursive"))
    depth = path.rstrip("/").count("/") + 1
    shown = [entry for entry in entries if deep or entry.path.count("/") == depth]
    return ToolOutcome(
        {
            "path": path,
            "entries": [
                {"path": e.path, "type": "directory"}
                if e.is_directory
                else {"path": e.path, "type": "file", "size_bytes": e.size_bytes}
                for e in shown[:1000]
            ],
            "truncated": len(shown) > 1000,
        }
    )


_PATH = {"type": "string", "minLength": 1, "maxLength": MAX_PATH, "description": "Absolute path, such as /notes/plan.md."}

TOOLS = (
    Tool(
        name="read_file",
        description="Read a file. Text comes with the number of its lines and the hash of its content.",
        parameters=schema(
            {
                "path": _PATH,
                "offset": {"type": "integer", "minimum": 1, "description": "First line to show, counted from 1."},
                "limit": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": 100_000,
                    "description": f"Lines to show; {DEFAULT_LINES} if left out.",
                },
            },
            "path",
        ),
        run=_read_file,
        hints=READ_ONLY,
        display_name="Read file",
    ),
    Tool(
        name="write_file",
        description="Write a file, replacing what it held. Folders above it are made.",
        parameters=schema(
            {"path": _PATH, "content": {"type": "string"}, "encoding": {"type": "string", "enum": ["text", "base64"]}},
            "path",
            "content",
        ),
        run=_write_file,
        hints=REPEATABLE,
        display_name="Write file",
    ),
    Tool(
        name="edit_file",
        description="Replace an exact piece of text in a file. It must occur once, unless replace_all is set.",
        parameters=schema(
            {
                "path": _PATH,
                "old_text": {"type": "string", "minLength": 1},
                "new_text": {"type": "string"},
                "replace_all": {"type": "boolean"},
                "expected_hash": {
                    "type": "string",
                    "description": "The hash that read_file gave: a file changed since is refused.",
                },
            },
            "path",
            "old_text",
            "new_text",
        ),
        run=_edit_file,
        hints=ONCE,
        display_name="Edit file",
    ),
    Tool(
        name="list_directory",
        description="List what is in a folder.",
        parameters=schema({"path": {**_PATH, "description": "/ if left out."}, "recursive": {"type": "boolean"}}),
        run=_list_directory,
        hints=READ_ONLY,
        display_name="List directory",
    ),
)

SESSION_FILE_SYSTEM = Capability(
    id="session_file_system",
    name="File system",
    description="Gives the session files of its own: the agent reads, writes, edits and lists them.",
    category="files",
    features=("file_system",),
    tools=lambda config: TOOLS,
    prompt=lambda config: "You have files of your own that last as long as this session. Paths are absolute and begin with /.",
)
