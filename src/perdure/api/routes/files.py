"""Routes of files: below a workspace, and the same routes below a session, for the session's workspace."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from perdure.api.kernel.body_stream import BodyStream
from perdure.api.kernel.call import Answer, Call, Chunked, Reply, Stream
from perdure.api.kernel.decoding import MAX_BODY
from perdure.api.kernel.route import Route, route
from perdure.api.kernel.variables import RestOfPath, Variable
from perdure.api.routes.file_bytes import FORM_BYTES, SANDBOXED, download, upload
from perdure.api.routes.file_json import file_json
from perdure.app import files as use
from perdure.app.file_access import At, OfSession, OfWorkspace
from perdure.domain.errors import NotFound, UnsupportedMedia
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
from perdure.domain.ids import SessionId, WorkspaceId, is_id
from perdure.domain.markup import escape
from perdure.domain.paging import Listing
from perdure.domain.paths import name_of

Place = SessionId | WorkspaceId
"""The owner of the files. Each route below is mounted once for each of `MOUNTS`, in place of `{place}`."""


class ReadPath(Struct, frozen=True):
    """Query parameters of reading a path."""

    recursive: Annotated[bool, Meta(description="Whether to list the contents of subfolders as well.")] = (
        False
    )


class DeletePath(Struct, frozen=True):
    """Query parameters of a deletion."""

    recursive: Annotated[
        bool, Meta(description="Whether to delete a folder together with everything in it.")
    ] = False


class WritePath(Struct, frozen=True):
    """Query parameters of a write."""

    raw: Annotated[
        bool, Meta(description="Whether the body is the file's content, whatever its type is.")
    ] = False


def _at(place: Place) -> At:
    is_session = is_id(place, "session")
    return OfSession(SessionId(place)) if is_session else OfWorkspace(WorkspaceId(place))


_MOVED = {"src_path": "/drafts/plan.md", "dst_path": "/plan.md"}


@route("GET", "{place}", "", errors=(404,))
async def get_root(call: Call, place: Place, query: ReadPath) -> Listing[FileInfo]:
    """List the root folder.

    Sorted by path. With `recursive`, the contents of all subfolders are included.
    """
    return await use.list_folder(call.app, call.caller, _at(place), "/", recursive=query.recursive)


@route("POST", "{place}/_/copy", "", status=201, errors=(404, 409), body_example=_MOVED)
async def copy_file(call: Call, place: Place, body: CopyFile) -> SessionFile:
    """Copy a file or folder.

    Folders are copied with their contents. 409 if the target exists. Copies share stored content, so copying
    is fast.
    """
    return await use.copy_path(call.app, call.caller, _at(place), body.src_path, body.dst_path, call.once)


@route("POST", "{place}/_/move", "", errors=(404, 409), body_example=_MOVED)
async def move_file(call: Call, place: Place, body: MoveFile) -> SessionFile:
    """Move a file or folder.

    Folders are moved with their contents. 409 if the target exists, 403 if a file is read-only.
    """
    return await use.move_path(call.app, call.caller, _at(place), body.src_path, body.dst_path)


@route(
    "POST",
    "{place}/_/grep",
    "",
    errors=(404,),
    body_example={"pattern": "TODO", "path_pattern": "**/*.md"},
)
async def grep_files(call: Call, place: Place, body: GrepFiles) -> GrepResults:
    """Search the contents of text files.

    Searches line by line with an RE2 regular expression, for up to 10 seconds and 1,000 matching lines.
    `truncated` is true if there may be more matches. `path_pattern` is a glob with `*`, `?`, `**`, `[a-z]`
    and `{a,b}`; without a `/` it matches file names in all folders.
    """
    return await use.grep_files(call.app, call.caller, _at(place), body)


@route("POST", "{place}/_/stat", "", errors=(404,), body_example={"path": "/plan.md"})
async def stat_file(call: Call, place: Place, body: StatFile) -> FileStat:
    """Get the metadata of a file or folder.

    Returns the metadata at a path, without the content.
    """
    return await use.stat_path(call.app, call.caller, _at(place), body.path)


@route("GET", "{place}/{path}", "", errors=(404,), etag=True)
async def get_path(
    call: Call, place: Place, path: RestOfPath, query: ReadPath
) -> Answer[SessionFile] | Chunked[SessionFile] | Listing[FileInfo]:
    """Read a file, or list a folder.

    A file is returned with its content: text as is, other content in base64. Its entity tag is the SHA-256 of
    the content. A folder is returned as a list of what it contains.
    """
    result = await use.read_path(call.app, call.caller, _at(place), path, recursive=query.recursive)
    if isinstance(result, use.OpenFile):
        return Chunked(file_json(result), etag=result.row.hash)
    return result if isinstance(result, Listing) else Answer(result, etag=result.hash or None)


@route("POST", "{place}/{path}", "", status=201, errors=(404, 409), body_example={"content": "Buy milk.\n"})
async def create_path(call: Call, place: Place, path: RestOfPath, body: CreateFile) -> SessionFile:
    """Create a file or folder.

    Creates missing parent folders. 409 if the path exists; the existing file is not changed.
    """
    return await use.create_path(call.app, call.caller, _at(place), path, body, call.once)


@route(
    "PUT",
    "{place}/{path}",
    "",
    other=(201,),
    errors=(404, 409, 412),
    body_example={"content": "Buy oat milk.\n"},
    stream_limit=MAX_BODY,
    etag=True,
)
async def update_path(
    call: Call, place: Place, path: RestOfPath, query: WritePath, body: UpdateFile | BodyStream
) -> Answer[SessionFile]:
    """Update a file, or upload one.

    JSON changes an existing file: the content, the read-only flag or both. With `expected_hash`, or the hash
    in `If-Match`, the request fails with 412 if the file has changed. The content of a read-only file can be
    set only together with `is_readonly: false`. A body of any other type is the content itself, or a form
    with one file in it: it replaces the file, or creates it (201) with missing parent folders. With `raw`,
    JSON and forms are content too.
    """
    if isinstance(body, BodyStream):
        put = await upload(call, _at(place), path, body, raw=query.raw)
        return Answer(put.file, 201 if put.created else 200, etag=put.file.hash)
    try:
        file = await use.update_path(call.app, call.caller, _at(place), path, body, call.if_match)
    except NotFound as error:
        if error.code == "file_not_found":
            error.message += ": POST creates it, and with ?raw=true, PUT stores the JSON itself"
        raise
    return Answer(file, etag=file.hash or None)


@route("DELETE", "{place}/{path}", "", errors=(404, 409, 412), etag=True)
async def delete_path(call: Call, place: Place, path: RestOfPath, query: DeletePath) -> Answer[DeletedFile]:
    """Delete a file or folder.

    A folder that is not empty requires `recursive`. A folder that contains a read-only file is not deleted.
    `deleted` is false if nothing existed at the path.
    """
    return Answer(
        await use.delete_path(
            call.app, call.caller, _at(place), path, recursive=query.recursive, if_match=call.if_match
        )
    )


# --- download and preview ---------------------------------------------------


@route(
    "GET",
    "{place}/_/download/{path}",
    "",
    errors=(404, 412, 416),
    content="application/octet-stream",
    etag=True,
)
async def download_path(call: Call, place: Place, path: RestOfPath) -> Reply | Stream:
    """Download a file.

    Returns the file's bytes, to be saved under its name. `Range` asks for parts of it, with `If-Range` only
    if the file has not changed. HEAD returns the headers.
    """
    return download(call, await use.open_file(call.app, call.caller, _at(place), path))


@route("GET", "{place}/_/preview/{path}", "", errors=(404, 415), content="text/html")
async def preview_path(call: Call, place: Place, path: RestOfPath) -> Reply:
    """Preview a text file as an HTML page.

    Shows up to 1 MB of the text on a page without scripts. 415 if the file is not text.
    """
    file = await use.open_file(call.app, call.caller, _at(place), path)
    if not file.row.is_text:
        raise UnsupportedMedia("only text can be previewed: download the file", code="no_preview")
    data = b""
    for part in range(file.parts):
        if len(data) < use.PREVIEWED:
            data += await file.read(part)
    hidden = file.row.size_bytes - use.PREVIEWED
    text = data[: use.PREVIEWED].decode("utf-8", "ignore")
    page = _PAGE.format(
        name=escape(name_of(file.row.path)),
        text=escape(text),
        rest=f"<p>{hidden} more bytes are not shown.</p>" if hidden > 0 else "",
    )
    return Reply(page.encode(), content_type=b"text/html; charset=utf-8", headers=(SANDBOXED,))


_PAGE = """<!doctype html>
<html><head><meta charset="utf-8"><title>{name}</title>
<style>body {{ margin: 1rem; font: 14px/1.5 ui-monospace, monospace; }} \
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; }}</style>
</head><body><pre>{text}</pre>{rest}</body></html>
"""

# --- the table --------------------------------------------------------------


class Mount(Struct, frozen=True):
    """A path below which the routes of files are mounted.

    Attributes:
        variable: the variable in the path that names the owner of the files.
        tag: the tag of the mounted operations.
        prefix: the prefix of the mounted operations' ids.
    """

    path: str
    variable: Variable
    tag: str
    prefix: str


MOUNTS = (
    Mount(
        "/v1/workspaces/{workspace_id}/fs", Variable("workspace_id", ("workspace",)), "workspace files", ""
    ),
    Mount("/v1/sessions/{session_id}/fs", Variable("session_id", ("session",)), "session files", "session_"),
)

TEMPLATES = (
    get_root,
    copy_file,
    move_file,
    grep_files,
    stat_file,
    download_path,
    preview_path,
    get_path,
    create_path,
    update_path,
    delete_path,
)
"""The routes with `{place}` in their paths."""


def file_routes(max_file: int, max_upload: int) -> tuple[Route, ...]:
    """Build the routes of files, below workspaces and below sessions.

    Args:
        max_file: the maximum size of a file that is sent as JSON, in bytes.
        max_upload: the maximum size of a file that is uploaded as it is, in bytes.
    """
    # Base64 adds a third. Escaping text in JSON rarely doubles it.
    body_limit = max(MAX_BODY, 2 * max_file + 65_536)
    limits = body_limit, max_upload + FORM_BYTES
    return tuple(_mounted(each, mount, *limits) for mount in MOUNTS for each in TEMPLATES)


def _mounted(template: Route, mount: Mount, body_limit: int, stream_limit: int) -> Route:
    return msgspec.structs.replace(
        template,
        path=template.path.replace("{place}", mount.path),
        operation_id=mount.prefix + template.operation_id,
        tag=mount.tag,
        variables=(mount.variable, *template.variables[1:]),
        body_limit=body_limit if template in (create_path, update_path) else 0,
        stream_limit=stream_limit if template.stream_limit else 0,
    )
