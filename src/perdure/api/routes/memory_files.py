"""Routes of the files of memories."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.api.kernel.call import Answer, Call, Reply, Stream
from perdure.api.kernel.route import route
from perdure.api.kernel.variables import RestOfPath
from perdure.api.routes.file_bytes import download
from perdure.app import memory_contents as use
from perdure.app import memory_search
from perdure.domain.files import GrepFiles, StatFile
from perdure.domain.ids import MemoryId
from perdure.domain.memories import (
    CreateMemoryFile,
    MemoryFile,
    MemoryFileInfo,
    MemoryGrepResult,
    UpdateMemoryFile,
)
from perdure.domain.paging import Listing

_FS = "/v1/memories/{memory_id}/fs"


class ReadMemoryPath(Struct, frozen=True):
    """Query parameters of reading a path of a memory."""

    recursive: Annotated[bool, Meta(description="Whether to list the contents of subfolders as well.")] = (
        False
    )


class DeleteMemoryPath(Struct, frozen=True):
    """Query parameters of the deletion of a file of a memory."""

    recursive: Annotated[
        bool, Meta(description="Whether to delete a folder together with everything in it.")
    ] = False


@route("GET", _FS, "memory", errors=(404,))
async def list_root(call: Call, memory_id: MemoryId, query: ReadMemoryPath) -> Listing[MemoryFileInfo]:
    """List the root folder of a memory.

    Sorted by path. With `recursive`, the contents of all subfolders are included.
    """
    found = await use.list_folder(call.app, call.caller, memory_id, "/", recursive=query.recursive)
    return Listing(tuple(found))


@route(
    "POST",
    f"{_FS}/_/grep",
    "memory",
    status=200,
    errors=(404,),
    body_example={"pattern": "TODO", "path_pattern": "**/*.md"},
)
async def grep_action(call: Call, memory_id: MemoryId, body: GrepFiles) -> Listing[MemoryGrepResult]:
    """Find files of a memory by their content.

    Returns the files that have a line which matches the RE2 regular expression.
    """
    return Listing(tuple(await memory_search.grep_memory(call.app, call.caller, memory_id, body)))


@route("POST", f"{_FS}/_/stat", "memory", status=200, errors=(404,), body_example={"path": "/decisions.md"})
async def stat_action(call: Call, memory_id: MemoryId, body: StatFile) -> MemoryFileInfo:
    """Get the metadata of a file or folder of a memory.

    Returns the metadata at a path, without the content.
    """
    return await use.stat_path(call.app, call.caller, memory_id, body.path)


@route(
    "GET",
    f"{_FS}/_/download/{{path}}",
    "memory",
    errors=(404, 412, 416),
    content="application/octet-stream",
    etag=True,
)
async def download_action(call: Call, memory_id: MemoryId, path: RestOfPath) -> Reply | Stream:
    """Download a file of a memory.

    Returns the file's bytes, to be saved under its name. `Range` asks for parts of it, with `If-Range` only
    if the file has not changed. HEAD returns the headers.
    """
    return download(call, await use.open_file(call.app, call.caller, memory_id, path))


@route("GET", f"{_FS}/{{path}}", "memory", errors=(404,), etag=True)
async def get_file(
    call: Call, memory_id: MemoryId, path: RestOfPath, query: ReadMemoryPath
) -> Answer[MemoryFile] | Listing[MemoryFileInfo]:
    """Read a file of a memory, or list a folder.

    A file's entity tag is the SHA-256 of its content.
    """
    found = await use.read_path(call.app, call.caller, memory_id, path, recursive=query.recursive)
    return Listing(tuple(found)) if isinstance(found, list) else Answer(found, etag=found.content_hash)


@route(
    "POST",
    f"{_FS}/{{path}}",
    "memory",
    status=201,
    errors=(404, 409),
    body_example={"content": "We use UTC.\n"},
)
async def create_file(
    call: Call, memory_id: MemoryId, path: RestOfPath, body: CreateMemoryFile
) -> MemoryFileInfo:
    """Create a file or folder of a memory.

    Creates missing parent folders. 409 if the path exists; the existing file is not changed. A file is a text
    of up to 100 KB.
    """
    return await use.create_path(call.app, call.caller, memory_id, path, body, call.once)


@route(
    "PUT",
    f"{_FS}/{{path}}",
    "memory",
    errors=(404, 409, 412),
    body_example={"content": "We use UTC everywhere.\n"},
    etag=True,
)
async def update_file(
    call: Call, memory_id: MemoryId, path: RestOfPath, body: UpdateMemoryFile
) -> Answer[MemoryFile]:
    """Update a file of a memory.

    The text that it had stays as a version. With `expected_hash`, or the hash in `If-Match`, the request
    fails with 412 if somebody else has changed the file.
    """
    file = await use.update_path(call.app, call.caller, memory_id, path, body, call.if_match)
    return Answer(file, etag=file.content_hash)


@route("DELETE", f"{_FS}/{{path}}", "memory", errors=(404, 409, 412), etag=True)
async def delete_file(call: Call, memory_id: MemoryId, path: RestOfPath, query: DeleteMemoryPath) -> None:
    """Delete a file or folder of a memory.

    The versions of deleted files stay. A folder that is not empty requires `recursive`.
    """
    await use.delete_path(
        call.app, call.caller, memory_id, path, recursive=query.recursive, if_match=call.if_match
    )


ROUTES = (
    list_root,
    grep_action,
    stat_action,
    download_action,
    get_file,
    create_file,
    update_file,
    delete_file,
)
