"""Routes of memories. Those of their files are in memory_files.py, of the versions in memory_versions.py."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.api.kernel.call import Call
from perdure.api.kernel.route import route
from perdure.api.routes.agents import Search
from perdure.app import memories as use
from perdure.domain.ids import MemoryId
from perdure.domain.memories import CreateMemory, Memory, UpdateMemory
from perdure.domain.paging import Listing


class ListMemories(Struct, frozen=True):
    """Query parameters of the list of memories."""

    search: Annotated[
        Search | None, Meta(description="Text to find in the name or the description, case-insensitive.")
    ] = None
    include_archived: Annotated[bool, Meta(description="Whether to include archived memories.")] = False


class DeleteMemory(Struct, frozen=True):
    """Query parameters of the deletion of a memory."""

    purge: Annotated[
        bool, Meta(description="Whether to remove an archived memory for good, with all versions.")
    ] = False


@route("GET", "/v1/memories", "memory")
async def list_memories(call: Call, query: ListMemories) -> Listing[Memory]:
    """List memories, newest first.

    Those of the organization and its agents, and the caller's own: nobody sees the memories of other users.
    """
    found = await use.all_memories(call.app, call.caller, query.search or None, query.include_archived)
    return Listing(tuple(found))


@route("POST", "/v1/memories", "memory", status=201, errors=(409,), body_example={"name": "decisions"})
async def create_memory(call: Call, body: CreateMemory) -> Memory:
    """Create a memory of the organization.

    The memories of agents and users are made by their sessions. 400 for a `source` on GitHub or in another
    repository: this server copies no files from there.
    """
    return await use.create_memory(call.app, call.caller, body, call.once)


@route("GET", "/v1/memories/{memory_id}", "memory", errors=(404,))
async def get_memory(call: Call, memory_id: MemoryId) -> Memory:
    """Get a memory.

    404 for the memory of another user.
    """
    return await use.read_memory(call.app, call.caller, memory_id)


@route(
    "PATCH",
    "/v1/memories/{memory_id}",
    "memory",
    errors=(404, 409),
    body_example={"description": "What was decided, and why."},
)
async def update_memory(call: Call, memory_id: MemoryId, body: UpdateMemory) -> Memory:
    """Update a memory.

    Changes the fields that are sent. `status` archives a memory or restores it. Memories of agents and users
    keep their name.
    """
    return await use.change_memory(call.app, call.caller, memory_id, body)


@route("DELETE", "/v1/memories/{memory_id}", "memory", errors=(403, 404, 409))
async def delete_memory(call: Call, memory_id: MemoryId, query: DeleteMemory) -> None:
    """Archive a memory, or remove it for good.

    An archived memory is read-only, and no session has it in its files. With `purge`, an archived memory is
    removed with its files and all their versions; that needs who created it, its user, or an admin.
    """
    await use.delete_memory(call.app, call.caller, memory_id, purge=query.purge)


@route("POST", "/v1/memories/{memory_id}/sync", "memory", status=200, errors=(404,))
async def sync_memory_now(call: Call, memory_id: MemoryId) -> Memory:
    """Synchronize a memory with its source.

    Always 400 (`unsupported_memory_source`): memories have no source on this server.
    """
    return await use.sync_memory(call.app, call.caller, memory_id)


ROUTES = (list_memories, create_memory, get_memory, update_memory, delete_memory, sync_memory_now)
