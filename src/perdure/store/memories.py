"""Rows of memories. Their files are in the table `files`, under the memory's id.

Every change of a memory's files locks its row. Whoever locks a session or a workspace as well, locks the
memory last.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from perdure.domain.data_flow import External
from perdure.domain.errors import NotFound
from perdure.domain.ids import AgentId, MemoryId, OrgId, UserId, WorkspaceId
from perdure.domain.memories import MemoryScope, MemoryStatus
from perdure.domain.times import Micros
from perdure.store.database import LOCK_ROW, Changes, Tx, Value
from perdure.store.rows import assignments, columns, contains, from_json, marks, values
from perdure.store.workspaces import WorkspaceRow


class MemoryRow(Struct, frozen=True):
    """A memory.

    Attributes:
        agent_id, user_id: whose it is, with the scope `agent` or `user`.
        history_bytes: the bytes of its versions that are not redacted.
        version_count: the sequence of its last version.
        external: where text from outside in it came from, as JSON.
    """

    id: MemoryId
    org_id: OrgId
    scope: MemoryScope
    name: str
    description: str | None
    agent_id: AgentId | None
    user_id: UserId | None
    created_by: UserId
    status: MemoryStatus
    size_bytes: int
    file_count: int
    history_bytes: int
    version_count: int
    created_at: Micros
    updated_at: Micros
    archived_at: Micros | None = None
    external: str | None = None

    def sources(self) -> tuple[External, ...]:
        """Where text from outside in the sessions that have written it came from."""
        return () if self.external is None else from_json(_EXTERNAL, self.external, "the memory")

    def place(self) -> WorkspaceId:
        """What the rows of its files have as their workspace. No workspace has such an id."""
        return WorkspaceId(self.id)

    def as_workspace(self) -> WorkspaceRow:
        """The row with which `file_changes` checks and changes its files."""
        return WorkspaceRow(
            self.place(),
            self.org_id,
            None,
            self.name,
            None,
            self.status,
            self.size_bytes,
            self.file_count,
            self.created_at,
            self.updated_at,
            self.archived_at,
        )


_EXTERNAL = msgspec.json.Decoder(tuple[External, ...])
_COLUMNS = columns(MemoryRow)
_SELECT = f"SELECT {_COLUMNS} FROM memories WHERE org_id = ?"


async def add_memory(tx: Tx, row: MemoryRow) -> bool:
    """Insert a memory; return False, and do nothing, if there is an active one of its scope and name."""
    sql = f"INSERT INTO memories ({_COLUMNS}) VALUES ({marks(MemoryRow)}) ON CONFLICT DO NOTHING"
    return await tx.run(sql, *values(row)) == 1


async def get_memory(tx: Tx, org_id: OrgId, memory_id: MemoryId, *, lock: bool = False) -> MemoryRow:
    """Return the organization's memory; `lock` locks its row until the commit. Raises NotFound."""
    found = await tx.one(f"{_SELECT} AND id = ?{LOCK_ROW[tx.dialect] if lock else ''}", org_id, memory_id)
    if found is None:
        raise NotFound("memory")
    return MemoryRow(*found)


async def memory_named(
    tx: Tx, org_id: OrgId, scope: MemoryScope, owner: str | None, name: str, *, lock: bool = False
) -> MemoryRow | None:
    """Return the active memory of this name; None if there is none.

    Args:
        owner: the id of the agent or the user whose memory it is; None with the scope `named`.
    """
    sql, args = f"{_SELECT} AND scope = '{scope}' AND status = 'active' AND name = ?", [org_id, name]
    if scope != "named":
        sql, args = f"{sql} AND {scope}_id = ?", [*args, str(owner)]
    found = await tx.one(sql + (LOCK_ROW[tx.dialect] if lock else ""), *args)
    return None if found is None else MemoryRow(*found)


async def count_memories(tx: Tx, org_id: OrgId) -> int:
    """Return the number of memories of an organization."""
    found = await tx.one("SELECT COUNT(*) FROM memories WHERE org_id = ?", org_id)
    return 0 if found is None else int(found[0])


async def list_memories(
    tx: Tx, org_id: OrgId, user_id: UserId, search: str | None, archived: bool
) -> list[MemoryRow]:
    """Return the memories that a user sees, newest first: not those of other users."""
    where = "org_id = ? AND (scope <> 'user' OR user_id = ?)"
    args: list[Value] = [org_id, user_id]
    if not archived:
        where += " AND status = 'active'"
    if search is not None:
        where += " AND " + contains(args, search, "name", "description")
    rows = await tx.all(
        f"SELECT {_COLUMNS} FROM memories WHERE {where} ORDER BY created_at DESC, id DESC", *args
    )
    return [MemoryRow(*row) for row in rows]


async def update_memory(tx: Tx, row: MemoryRow, changes: Changes) -> None:
    await tx.run(
        f"UPDATE memories SET {assignments(changes)} WHERE id = ? AND org_id = ?",
        *changes.values(),
        row.id,
        row.org_id,
    )


async def remove_memory(tx: Tx, row: MemoryRow, now: Micros) -> None:
    """Delete a memory with its files and their versions; what contents they had is released."""
    await tx.run(
        "UPDATE blobs SET released_at = ? WHERE org_id = ? AND (hash IN"
        " (SELECT hash FROM memory_versions WHERE memory_id = ? AND org_id = ?) OR hash IN"
        " (SELECT hash FROM files WHERE workspace_id = ? AND org_id = ? AND is_directory = 0))",
        now,
        row.org_id,
        row.id,
        row.org_id,
        row.id,
        row.org_id,
    )
    await tx.run("DELETE FROM files WHERE workspace_id = ? AND org_id = ?", row.id, row.org_id)
    await tx.run("DELETE FROM memory_versions WHERE memory_id = ? AND org_id = ?", row.id, row.org_id)
    await tx.run("DELETE FROM memories WHERE id = ? AND org_id = ?", row.id, row.org_id)
