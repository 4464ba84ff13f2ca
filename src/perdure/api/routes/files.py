"""Routes of files: below a workspace, and the same below a session, whose workspace is meant."""

from __future__ import annotations

import html
import urllib.parse
from typing import Annotated, Any

from msgspec import Meta, Struct

from perdure.api.kernel.decoding import MAX_BODY, Receive
from perdure.api.kernel.http import Call, Reply, Route, Scope, Send, Stream
from perdure.api.kernel.problems import encode
from perdure.api.routes.sessions import IDS
from perdure.api.routes.workspaces import WORKSPACE_IDS
from perdure.app import files as use
from perdure.app.etags import parse_tags
from perdure.app.file_access import At, OfSession, OfWorkspace
from perdure.domain.errors import UnsupportedMedia
from perdure.domain.files import (
    CopyFile,
    CreateFile,
    DeletedFile,
    FileInfo,
    FileStat,
    GrepFiles,
    GrepResults,
    MoveFile,
    SessionFile,
    StatFile,
    UpdateFile,
)
from perdure.domain.paging import Listing
from perdure.domain.paths import name_of

Header = tuple[bytes, bytes]


class ReadPath(Struct, frozen=True):
    """Query of what is at a path."""

    recursive: Annotated[bool, Meta(description="Whether to list the contents of subfolders as well.")] = (
        False
    )


class DeletePath(Struct, frozen=True):
    """Query of a deletion."""

    recursive: Annotated[
        bool, Meta(description="Whether to delete a folder together with everything in it.")
    ] = False


def _at(call: Call) -> At:
    session_id = call.params.get("session_id")
    return OfSession(session_id) if session_id else OfWorkspace(call.params["workspace_id"])


def _tag(hash_: str | None) -> tuple[Header, ...]:
    """A file's entity tag: the hash of its content."""
    return () if not hash_ else ((b"etag", f'"{hash_}"'.encode()),)


def _unchanged(call: Call, hash_: str) -> bool:
    known = call.header(b"if-none-match")
    return known is not None and bool({hash_, "*"} & parse_tags(known))


def _answer(value: Any, hash_: str | None, status: int = 200) -> Reply:
    return Reply(encode(value), status, headers=_tag(hash_))


async def get_root(call: Call) -> Listing[FileInfo]:
    return await use.list_folder(call.app, call.caller, _at(call), "/", recursive=call.query.recursive)


async def get_path(call: Call) -> Reply | Listing[FileInfo]:
    found = await use.read_path(
        call.app, call.caller, _at(call), call.params["path"], recursive=call.query.recursive
    )
    if isinstance(found, Listing):
        return found
    if found.hash and _unchanged(call, found.hash):
        return Reply(b"", 304, headers=_tag(found.hash))
    return _answer(found, found.hash)


async def create_path(call: Call) -> SessionFile:
    return await use.create_path(call.app, call.caller, _at(call), call.params["path"], call.body)


async def update_path(call: Call) -> Reply:
    file = await use.update_path(
        call.app, call.caller, _at(call), call.params["path"], call.body, call.if_match
    )
    return _answer(file, file.hash)


async def delete_path(call: Call) -> Reply:
    path, recursive = call.params["path"], call.query.recursive
    return _answer(
        await use.delete_path(
            call.app, call.caller, _at(call), path, recursive=recursive, if_match=call.if_match
        ),
        None,
    )


async def move_file(call: Call) -> SessionFile:
    return await use.move_path(call.app, call.caller, _at(call), call.body.src_path, call.body.dst_path)


async def copy_file(call: Call) -> SessionFile:
    return await use.copy_path(call.app, call.caller, _at(call), call.body.src_path, call.body.dst_path)


async def grep_files(call: Call) -> GrepResults:
    return await use.grep_files(call.app, call.caller, _at(call), call.body)


async def stat_file(call: Call) -> FileStat:
    return await use.stat_path(call.app, call.caller, _at(call), call.body.path)


# --- as they are, and to look at --------------------------------------------

_INERT = (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; sandbox")
"""What a browser may do with somebody's file: nothing but show it."""


async def download_path(call: Call) -> Reply | Stream:
    file = await use.open_file(call.app, call.caller, _at(call), call.params["path"])
    row = file.row
    if _unchanged(call, row.hash):
        return Reply(b"", 304, headers=_tag(row.hash))
    headers = [
        (b"content-type", b"application/octet-stream"),
        (b"content-length", str(row.size_bytes).encode()),
        (b"content-disposition", disposition(name_of(row.path))),
        (b"x-content-type-options", b"nosniff"),
        _INERT,
        *_tag(row.hash),
    ]

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for part in range(file.parts):
            await send({"type": "http.response.body", "body": await file.read(part), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return Stream(run)


def disposition(name: str) -> bytes:
    """A Content-Disposition that saves a file under its name (RFC 6266), and cannot be more than a name."""
    plain = "".join(ch if ch.isascii() and ch.isprintable() and ch not in '"\\%;' else "_" for ch in name)
    quoted = urllib.parse.quote(name, safe="")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quoted}".encode()


async def preview_path(call: Call) -> Reply:
    file = await use.open_file(call.app, call.caller, _at(call), call.params["path"])
    if not file.row.is_text:
        raise UnsupportedMedia("only text can be previewed: download the file", code="no_preview")
    data = b""
    for part in range(file.parts):
        if len(data) < use.PREVIEWED:
            data += await file.read(part)
    left = file.row.size_bytes - use.PREVIEWED
    text = data[: use.PREVIEWED].decode("utf-8", "ignore")
    page = _PAGE.format(
        name=html.escape(name_of(file.row.path)),
        text=html.escape(text),
        rest=f"<p>{left} more bytes are not shown.</p>" if left > 0 else "",
    )
    return Reply(page.encode(), content_type=b"text/html; charset=utf-8", headers=(_INERT,))


_PAGE = """<!doctype html>
<html><head><meta charset="utf-8"><title>{name}</title>
<style>body {{ margin: 1rem; font: 14px/1.5 ui-monospace, monospace; }} pre {{ white-space: pre-wrap; overflow-wrap: anywhere; }}</style>
</head><body><pre>{text}</pre>{rest}</body></html>
"""

# --- the table --------------------------------------------------------------


def file_routes(max_file: int) -> tuple[Route, ...]:
    """The routes of files, below workspaces and below sessions. `max_file`: bytes of a file."""
    return (
        *_routes("/v1/workspaces/{workspace_id}/fs", "workspace files", "", max_file),
        *_routes("/v1/sessions/{session_id}/fs", "session files", "session_", max_file),
    )


def _routes(base: str, tag: str, prefix: str, max_file: int) -> tuple[Route, ...]:
    ids = IDS if prefix else WORKSPACE_IDS
    # In base64 a file takes a third more; as text twice as much is enough for nearly everything.
    room = max(MAX_BODY, 2 * max_file + 65_536)

    def route(method: str, path: str, name: str, summary: str, handler: Any, **more: Any) -> Route:
        rest = "path" if path.endswith("{path}") else ""
        return Route(method, base + path, prefix + name, summary, tag, handler, ids=ids, rest=rest, **more)

    moved = {"src_path": "/drafts/plan.md", "dst_path": "/plan.md"}
    one, act = "/{path}", "/_"
    return (
        route(
            "GET",
            "",
            "get_root",
            "List the top folder",
            get_root,
            query=ReadPath,
            returns=Listing[FileInfo],
            errors=(404,),
        ),
        route(
            "POST",
            f"{act}/copy",
            "copy_file",
            "Copy a file or folder",
            copy_file,
            body=CopyFile,
            body_example=moved,
            returns=SessionFile,
            status=201,
            errors=(404, 409),
        ),
        route(
            "POST",
            f"{act}/move",
            "move_file",
            "Move a file or folder",
            move_file,
            body=MoveFile,
            body_example=moved,
            returns=SessionFile,
            errors=(404, 409),
        ),
        route(
            "POST",
            f"{act}/grep",
            "grep_files",
            "Search files",
            grep_files,
            body=GrepFiles,
            body_example={"pattern": "TODO", "path_pattern": "**/*.md"},
            returns=GrepResults,
            errors=(404,),
        ),
        route(
            "POST",
            f"{act}/stat",
            "stat_file",
            "Tell what is at a path",
            stat_file,
            body=StatFile,
            body_example={"path": "/plan.md"},
            returns=FileStat,
            errors=(404,),
        ),
        route(
            "GET",
            f"{act}/download{one}",
            "download_path",
            "Download a file as it is",
            download_path,
            content="application/octet-stream",
            errors=(404,),
            etag=True,
        ),
        route(
            "GET",
            f"{act}/preview{one}",
            "preview_path",
            "Show a text file as a page",
            preview_path,
            content="text/html",
            errors=(404, 415),
        ),
        route(
            "GET",
            one,
            "get_path",
            "Read a file, or list a folder",
            get_path,
            query=ReadPath,
            returns=SessionFile,
            also=Listing[FileInfo],
            errors=(404,),
            etag=True,
        ),
        route(
            "POST",
            one,
            "create_path",
            "Create a file or folder",
            create_path,
            body=CreateFile,
            body_example={"content": "Buy milk.\n"},
            body_limit=room,
            returns=SessionFile,
            status=201,
            errors=(404, 409),
        ),
        route(
            "PUT",
            one,
            "update_path",
            "Change a file",
            update_path,
            body=UpdateFile,
            body_example={"content": "Buy oat milk.\n"},
            body_limit=room,
            returns=SessionFile,
            errors=(404, 409, 412),
            etag=True,
        ),
        route(
            "DELETE",
            one,
            "delete_path",
            "Delete a file or folder",
            delete_path,
            query=DeletePath,
            returns=DeletedFile,
            errors=(404, 409, 412),
            etag=True,
        ),
    )
