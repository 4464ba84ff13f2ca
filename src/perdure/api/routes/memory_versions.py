"""Routes of the versions of the files of memories."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.api.kernel.call import Call
from perdure.api.kernel.route import route
from perdure.app import memory_history as use
from perdure.domain.files import Path
from perdure.domain.ids import MemoryId, MemoryVersionId, check_id, id_schema
from perdure.domain.memories import MemoryDiff, MemoryVersion
from perdure.domain.paging import Listing


class ListMemoryVersions(Struct, frozen=True):
    """Query parameters of the list of versions."""

    path: Annotated[Path | None, Meta(description="Return only the versions of this path.")] = None
    before_sequence: Annotated[
        Annotated[int, Meta(ge=1, le=1 << 53)] | None,
        Meta(description="Return only versions with a smaller sequence, for the next page."),
    ] = None
    limit: Annotated[int, Meta(description="The maximum number of items to return.", ge=1, le=1000)] = 100


class DiffMemoryVersion(Struct, frozen=True):
    """Query parameters of the difference of two versions."""

    against: Annotated[
        Annotated[str, id_schema("memver")] | None,
        Meta(description="The version to compare with. Default: the one before, of the same path."),
    ] = None


@route("GET", "/v1/memories/{memory_id}/versions", "memory", errors=(404,))
async def list_memory_versions(
    call: Call, memory_id: MemoryId, query: ListMemoryVersions
) -> Listing[MemoryVersion]:
    """List the versions of a memory's files, newest first.

    Every write leaves one, also a deletion: with who wrote it, when, and in which session.
    """
    found = await use.all_versions(
        call.app, call.caller, memory_id, query.path, query.before_sequence, query.limit
    )
    return Listing(tuple(found))


@route("GET", "/v1/memories/{memory_id}/versions/{memory_version_id}", "memory", errors=(404,))
async def get_memory_version(
    call: Call, memory_id: MemoryId, memory_version_id: MemoryVersionId
) -> MemoryVersion:
    """Get a version with its content.

    A deletion has none, and of a redacted version it is gone.
    """
    return await use.read_version(call.app, call.caller, memory_id, memory_version_id)


@route("GET", "/v1/memories/{memory_id}/versions/{memory_version_id}/diff", "memory", errors=(404, 409))
async def diff_memory_version(
    call: Call, memory_id: MemoryId, memory_version_id: MemoryVersionId, query: DiffMemoryVersion
) -> MemoryDiff:
    """Compare a version with another one.

    Line by line. 409 if one of them is redacted.
    """
    against = None if query.against is None else MemoryVersionId(check_id(query.against, "memver", "against"))
    return await use.diff_version(call.app, call.caller, memory_id, memory_version_id, against)


@route(
    "POST",
    "/v1/memories/{memory_id}/versions/{memory_version_id}/redact",
    "memory",
    status=200,
    errors=(403, 404, 409),
)
async def redact_memory_version(
    call: Call, memory_id: MemoryId, memory_version_id: MemoryVersionId
) -> MemoryVersion:
    """Remove the content of a version.

    It goes from every version of the memory that has the same content; their hash and the rest stay. 409 if a
    file of the memory has it now. Needs who created the memory, its user, or an admin.
    """
    return await use.redact_version(call.app, call.caller, memory_id, memory_version_id)


ROUTES = (list_memory_versions, get_memory_version, diff_memory_version, redact_memory_version)
