"""What a user leaves in an organization besides sessions, table by table, and how it is erased."""

from __future__ import annotations

from perdure.domain.ids import ErasureId, MemoryId, OrgId, UserId
from perdure.store.accounts import memberships_of
from perdure.store.audit_erasure import TABLES as AUDITS
from perdure.store.audit_erasure import pseudonymize_audits
from perdure.store.blobs import ERASED
from perdure.store.budget_lists import remove_budgets_of
from perdure.store.connections import remove_connections_of_user
from perdure.store.database import Row, Tx
from perdure.store.erasures import Tally, erasing, note_erased
from perdure.store.idempotency import remove_answers_of_user
from perdure.store.invitations import delete_invitations_of
from perdure.store.memories import get_memory, remove_memory

PSEUDONYMIZED: tuple[tuple[str, str], ...] = (
    ("model_calls", "user_id"),
    ("agent_versions", "created_by"),
    ("memories", "created_by"),
    ("memory_versions", "user_id"),
    ("memory_versions", "redacted_by"),
    ("audit_entries", "actor_id"),
    ("revisions", "actor_id"),
)
"""(table, column): rows of the organization that stay, with another id in place of the user's."""

PAGE = 1_000
"""Rows that one transaction looks at."""


async def memories_of(tx: Tx, org_id: OrgId, user_id: UserId) -> list[MemoryId]:
    """Return a user's own memories."""
    rows = await tx.all(
        "SELECT id FROM memories WHERE org_id = ? AND user_id = ? AND scope = 'user' ORDER BY id",
        org_id,
        user_id,
    )
    return [row[0] for row in rows]


async def erase_memory(tx: Tx, org_id: OrgId, erasure_id: ErasureId, memory_id: MemoryId) -> None:
    """Erase a memory with its files and their versions."""
    row = await get_memory(tx, org_id, memory_id, lock=True)
    async with erasing(tx, org_id, erasure_id) as tally:
        tally.add("memories", 1, row.size_bytes)
        tally.add("memory_versions", row.version_count, row.history_bytes)
        await remove_memory(tx, row, ERASED)


async def erase_answers(tx: Tx, org_id: OrgId, erasure_id: ErasureId, user_id: UserId) -> int:
    """Erase a batch of the answers to a user's requests; return how many."""
    async with erasing(tx, org_id, erasure_id) as tally:
        found = await remove_answers_of_user(tx, org_id, user_id)
        tally.add("idempotency_answers", *found)
    return found[0]


async def erase_rows_of_user(tx: Tx, org_id: OrgId, erasure_id: ErasureId, user_id: UserId) -> None:
    """Erase what a former member has in an organization, and its account if no other one has it."""
    async with erasing(tx, org_id, erasure_id) as tally:
        await _erase_rows_of_user(tx, org_id, user_id, tally)


async def _erase_rows_of_user(tx: Tx, org_id: OrgId, user_id: UserId, tally: Tally) -> None:
    for table, column in (
        ("pins", "user_id"),
        ("inbox_links", "made_by"),
        ("sign_ins", "identity"),
        ("confidential_sessions", "user_id"),
        ("tokens", "user_id"),
    ):
        sql = f"DELETE FROM {table} WHERE {column} = ? AND org_id = ?"
        tally.add(table, await tx.run(sql, user_id, org_id))
    found = await tx.one(
        "SELECT COUNT(*) FROM connections WHERE org_id = ? AND identity = ?", org_id, user_id
    )
    tally.add("connections", 0 if found is None else int(found[0]))
    await remove_connections_of_user(tx, org_id, user_id)
    found = await tx.one("SELECT COUNT(*) FROM budgets WHERE org_id = ? AND subject_id = ?", org_id, user_id)
    tally.add("budgets", 0 if found is None else int(found[0]))
    await remove_budgets_of(tx, org_id, user_id)
    await delete_invitations_of(tx, org_id, user_id)
    if await is_last_trace(tx, org_id, user_id):
        tally.add("tokens", await tx.run("DELETE FROM tokens WHERE user_id = ?", user_id))
        tally.add("users", await tx.run("DELETE FROM users WHERE id = ?", user_id))


async def is_last_trace(tx: Tx, org_id: OrgId, user_id: UserId) -> bool:
    """Return whether no other organization has the user, or has added it."""
    if await memberships_of(tx, user_id):
        return False
    found = await tx.one("SELECT org_id FROM users WHERE id = ?", user_id)
    return found is not None and found[0] in (None, org_id)


async def forget_maker(tx: Tx, org_id: OrgId, user_id: UserId, pseudonym: str) -> None:
    """Put a pseudonym in place of a user who has made tokens and invitations for others."""
    for table in ("tokens", "invitations"):
        await tx.run(
            f"UPDATE {table} SET makers = REPLACE(makers, ?, ?),"
            " created_by = CASE WHEN created_by = ? THEN ? ELSE created_by END"
            " WHERE org_id = ? AND (makers LIKE ? OR created_by = ?)",
            *(user_id, pseudonym, user_id, pseudonym, org_id, f"%{user_id}%", user_id),
        )


async def pseudonymize(
    tx: Tx,
    org_id: OrgId,
    erasure_id: ErasureId,
    names: tuple[str, str],
    user_id: UserId,
    pseudonym: str,
    after: tuple[int, str],
) -> tuple[int, str] | None:
    """Put a pseudonym in place of a user, in the next rows of a table.

    Args:
        names: one of `PSEUDONYMIZED`.
        after: (created_at, id) of the last row that was looked at; (-1, "") to begin.

    Returns:
        The last row that was looked at; None at the end.
    """
    table, column = names
    rows: list[Row] = await tx.all(
        f"SELECT created_at, id, {column} FROM {table} WHERE org_id = ? AND (created_at, id) > (?, ?)"
        f" ORDER BY created_at, id LIMIT {PAGE}",
        org_id,
        *after,
    )
    if table in AUDITS:
        found = await pseudonymize_audits(tx, table, [row[1] for row in rows], org_id, user_id, pseudonym)
    else:
        changed = [(pseudonym, row[1]) for row in rows if row[2] == user_id]
        await tx.run_many(f"UPDATE {table} SET {column} = ? WHERE id = ?", changed)
        found = len(changed)
    tally = Tally()
    tally.add("pseudonymized", found)
    await note_erased(tx, org_id, erasure_id, tally)
    return (rows[-1][0], rows[-1][1]) if len(rows) == PAGE else None


async def sessions_of_user(tx: Tx, org_id: OrgId, user_id: UserId, limit: int) -> list[str]:
    """Return sessions that a user owns, which are not deleted or held; those of sub-agents last."""
    rows = await tx.all(
        "SELECT id FROM sessions WHERE org_id = ? AND owner_id = ? AND deleted_at IS NULL"
        " AND held_at IS NULL ORDER BY CASE WHEN task_id IS NULL THEN 0 ELSE 1 END, id LIMIT ?",
        org_id,
        user_id,
        limit,
    )
    return [row[0] for row in rows]


async def mark_deleted_of_user(tx: Tx, org_id: OrgId, user_id: UserId, erasure_id: ErasureId) -> int:
    """Let an erasure have the deleted sessions of a user."""
    return await tx.run(
        "UPDATE sessions SET erasure_id = ? WHERE deleted_at IS NOT NULL AND erasure_id IS NULL"
        " AND org_id = ? AND owner_id = ?",
        erasure_id,
        org_id,
        user_id,
    )


async def has_sessions(tx: Tx, org_id: OrgId, user_id: UserId) -> bool:
    """Return whether a user owns a session, also one that is deleted or held."""
    alive = await tx.one(
        "SELECT 1 FROM sessions WHERE org_id = ? AND owner_id = ? AND deleted_at IS NULL LIMIT 1",
        org_id,
        user_id,
    )
    gone = await tx.one(
        "SELECT 1 FROM sessions WHERE deleted_at IS NOT NULL AND org_id = ? AND owner_id = ? LIMIT 1",
        org_id,
        user_id,
    )
    return alive is not None or gone is not None
