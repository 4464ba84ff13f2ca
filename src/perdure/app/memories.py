"""Memories: create, read, list, change, archive, purge; their files and the versions of these."""

from __future__ import annotations

from msgspec import UNSET
from msgspec.structs import replace

from perdure.app.context import App
from perdure.app.idempotency import Once, write_once
from perdure.domain.accounts import RANK, Caller
from perdure.domain.errors import Conflict, Forbidden, InvalidInput, NotFound
from perdure.domain.ids import MemoryId, OrgId
from perdure.domain.memories import (
    MAX_MEMORIES,
    CreateMemory,
    ManualMemorySource,
    Memory,
    MemorySourceRequest,
    UpdateMemory,
)
from perdure.domain.times import Micros, maybe_rfc3339, to_rfc3339
from perdure.store.database import Changes, Tx
from perdure.store.memories import (
    MemoryRow,
    add_memory,
    count_memories,
    get_memory,
    list_memories,
    memory_named,
    remove_memory,
    update_memory,
)


def to_memory(row: MemoryRow) -> Memory:
    """Convert the row to its wire format."""
    return Memory(
        id=row.id,
        name=row.name,
        source_type="manual",
        source=ManualMemorySource(),
        is_readonly=row.status != "active",
        sync_status="not_applicable",
        status=row.status,
        created_at=to_rfc3339(row.created_at),
        updated_at=to_rfc3339(row.updated_at),
        scope=row.scope,
        size_bytes=row.size_bytes,
        file_count=row.file_count,
        history_bytes=row.history_bytes,
        description=row.description,
        agent_id=row.agent_id,
        user_id=row.user_id,
        archived_at=maybe_rfc3339(row.archived_at),
    )


async def visible_memory(tx: Tx, caller: Caller, memory_id: MemoryId, *, lock: bool = False) -> MemoryRow:
    """Read a memory. Raises NotFound, also for another user's: the answer does not tell."""
    row = await get_memory(tx, caller.organization_id, memory_id, lock=lock)
    if row.scope == "user" and row.user_id != caller.user_id:
        raise NotFound("memory")
    return row


def require_keeper(caller: Caller, row: MemoryRow) -> None:
    """Require somebody who may destroy what a memory holds: who made it, its user, or an admin."""
    if caller.user_id in (row.created_by, row.user_id) or RANK[caller.role] >= RANK["admin"]:
        return
    raise Forbidden(
        "only who created the memory, and admins, may remove what it holds for good", code="role_required"
    )


def _check_source(source: MemorySourceRequest | None) -> None:
    if source is not None and source.type != "manual":
        raise InvalidInput(
            f"`source.type`: this server copies no files from {source.type[:50]!r}: leave `source` out, and "
            "write the files yourself",
            code="unsupported_memory_source",
            field="source.type",
        )


async def check_room(tx: Tx, org_id: OrgId) -> None:
    """Check that an organization may have one more memory. Raises Conflict."""
    if await count_memories(tx, org_id) >= MAX_MEMORIES:
        raise Conflict(
            f"an organization has at most {MAX_MEMORIES} memories: purge archived ones",
            code="too_many_memories",
        )


async def create_memory(app: App, caller: Caller, body: CreateMemory, once: Once | None = None) -> Memory:
    """Create a memory of the organization. Raises InvalidInput, and Conflict: the name is taken."""
    _check_source(body.source)
    now = app.now()
    row = MemoryRow(
        MemoryId(app.new_id("memory")),
        caller.organization_id,
        "named",
        body.name,
        body.description,
        None,
        None,
        caller.user_id,
        "active",
        0,
        0,
        0,
        0,
        now,
        now,
    )

    async def work(tx: Tx) -> Memory:
        await check_room(tx, row.org_id)
        if not await add_memory(tx, row):
            raise _name_taken(row.name)
        return to_memory(row)

    return await write_once(app, once, work)


def _name_taken(name: str) -> Conflict:
    return Conflict(f"another memory is already named {name!r}", code="name_taken")


async def all_memories(app: App, caller: Caller, search: str | None, archived: bool) -> list[Memory]:
    """List the memories that the caller sees, newest first."""
    rows = await app.database.read(
        lambda tx: list_memories(tx, caller.organization_id, caller.user_id, search, archived), long=True
    )
    return [to_memory(row) for row in rows]


async def read_memory(app: App, caller: Caller, memory_id: MemoryId) -> Memory:
    """Read a memory. Raises NotFound."""
    return to_memory(await app.database.read(lambda tx: visible_memory(tx, caller, memory_id)))


async def change_memory(app: App, caller: Caller, memory_id: MemoryId, body: UpdateMemory) -> Memory:
    """Change the fields that the body contains. Raises NotFound, InvalidInput and Conflict."""
    if body.source is not UNSET:
        _check_source(body.source)
    given = {name: getattr(body, name) for name in ("name", "description", "status")}
    values: Changes = {name: value for name, value in given.items() if value is not UNSET}
    now = app.now()

    async def work(tx: Tx) -> Memory:
        row = await visible_memory(tx, caller, memory_id, lock=True)
        return to_memory(await _update(tx, row, values, now))

    return await app.database.write(work)


async def _update(tx: Tx, row: MemoryRow, values: Changes, now: Micros) -> MemoryRow:
    changes = {name: value for name, value in values.items() if value != getattr(row, name)}
    if "name" in changes and row.scope != "named":
        raise Conflict(
            "the memories of agents and users keep their name: sessions find them by it",
            code="memory_of_owner",
        )
    if not changes:
        return row
    if "status" in changes:
        changes["archived_at"] = None if changes["status"] == "active" else now
    changes["updated_at"] = max(now, row.updated_at + 1)
    new = replace(row, **changes)
    if new.status == "active" and (new.name != row.name or row.status != "active"):
        owner = row.agent_id if row.scope == "agent" else row.user_id
        if await memory_named(tx, row.org_id, row.scope, owner, new.name) is not None:
            raise _name_taken(new.name)
    await update_memory(tx, row, changes)
    return new


async def delete_memory(app: App, caller: Caller, memory_id: MemoryId, *, purge: bool) -> None:
    """Archive a memory, or remove an archived one for good.

    Raises:
        NotFound: there is no such memory.
        Conflict: it is not archived, and is to be removed.
        Forbidden: the caller may not remove it.
    """
    now = app.now()

    async def work(tx: Tx) -> None:
        row = await visible_memory(tx, caller, memory_id, lock=True)
        if not purge:
            await _update(tx, row, {"status": "archived"}, now)
            return
        require_keeper(caller, row)
        if row.status == "active":
            raise Conflict(
                "this memory is in use: archive it first, with DELETE without `purge`",
                code="memory_not_archived",
            )
        await remove_memory(tx, row, now)

    await app.database.write(work)


async def sync_memory(app: App, caller: Caller, memory_id: MemoryId) -> Memory:
    """Refuse to copy files from elsewhere. Raises NotFound and InvalidInput."""
    await read_memory(app, caller, memory_id)
    raise InvalidInput(
        "this memory has no source to synchronize with: its files are written here",
        code="unsupported_memory_source",
    )
