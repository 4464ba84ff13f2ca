"""The ways past the triggers that keep the audit log append-only: its end by age, and erasures.

A session's entries go with it, and the entry about the erasure stays. A user's entries stay without what says
who that was, and so do revisions: another id takes the user's place.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from perdure.domain.ids import OrgId, SessionId, UserId
from perdure.domain.times import Micros
from perdure.store.audit_entries import first_id
from perdure.store.database import Changes, Row, Tx
from perdure.store.erasures import Tally
from perdure.store.rows import assignments, to_json

TABLES = ("audit_entries", "revisions")
_PERSONAL = ("actor_name", "token_name", "address", "forwarded_for", "user_agent")
"""What an entry says of who made a change, besides the id."""


@asynccontextmanager
async def _past_the_triggers(tx: Tx) -> AsyncIterator[None]:
    """Let the block change entries and revisions. No other transaction sees that."""
    await tx.run("INSERT INTO audit_gate (one) VALUES (1)")
    yield  # an error undoes the transaction
    await tx.run("DELETE FROM audit_gate WHERE one = 1")


async def delete_audit_entries_before(tx: Tx, org_id: OrgId, before: Micros, limit: int = 500) -> int:
    """Delete an organization's oldest entries from before an instant; return their number.

    The history of agents and harnesses stays.

    Args:
        before: an instant in microseconds.
        limit: the most entries.
    """
    sql = "SELECT id FROM audit_entries WHERE org_id = ? AND id < ? AND created_at < ? ORDER BY id LIMIT ?"
    rows = await tx.all(sql, org_id, first_id(before + 1000), before, limit)
    async with _past_the_triggers(tx):
        await tx.run_many("DELETE FROM audit_entries WHERE id = ?", rows)
    return len(rows)


async def remove_entries_of_session(tx: Tx, org_id: OrgId, session_id: SessionId, tally: Tally) -> None:
    """Remove the entries about a session and what it has had."""
    mine = "audit_entries WHERE org_id = ? AND session_id = ?"
    size = "COALESCE(LENGTH(before), 0) + COALESCE(LENGTH(after), 0)"
    found = await tx.one(f"SELECT COUNT(*), COALESCE(SUM({size}), 0) FROM {mine}", org_id, session_id)
    if found is None or not found[0]:
        return
    async with _past_the_triggers(tx):
        await tx.run(f"DELETE FROM {mine}", org_id, session_id)
    tally.add("audit_entries", int(found[0]), int(found[1]))


async def pseudonymize_audits(
    tx: Tx, table: str, rows: Sequence[str], org_id: OrgId, user_id: UserId, pseudonym: str
) -> int:
    """Put a pseudonym in place of a user in these rows of `TABLES`; return how many had the user.

    Args:
        rows: their ids.
    """
    found = await tx.one("SELECT email FROM users WHERE id = ?", user_id)
    email = None if found is None else found[0]
    marks = ", ".join("?" * len(rows))
    read = f"SELECT id, actor_id, entity_id, entity_name, {_texts(table)} FROM {table} WHERE id IN ({marks})"
    doomed = [
        (*each[:3], about)
        for each in (await tx.all(read, *rows) if rows else [])
        if (about := _is_about(each, user_id, email)) or each[1] == user_id
    ]
    if not doomed:
        return 0
    async with _past_the_triggers(tx):
        for row_id, actor, entity, about in doomed:
            changes: Changes = {}
            if actor == user_id:
                gone = _PERSONAL if table == "audit_entries" else ("actor_name",)
                changes = {"actor_id": pseudonym, **dict.fromkeys(gone)}
            if about:
                changes |= {"entity_id": entity.replace(user_id, pseudonym), "entity_name": None}
            if about and table == "audit_entries":
                changes |= {"before": None, "after": None}
            sql = f"UPDATE {table} SET {assignments(changes)} WHERE id = ? AND org_id = ?"
            await tx.run(sql, *changes.values(), row_id, org_id)
    return len(doomed)


def _texts(table: str) -> str:
    return "before, after" if table == "audit_entries" else "NULL"


def _is_about(row: Row, user_id: UserId, email: str | None) -> bool:
    """Whether an entry is about a user, or names it by its id or its e-mail address.

    Its name alone does not count, nor a part of a word: a user who is called as a field is, or as what others
    have made, would take their entries along.
    """
    _, _, entity, name, *texts = row
    if user_id in entity or any(user_id in (each or "") for each in texts):
        return True
    if not email:
        return False
    value = to_json(email.lower())
    return (name or "").lower() == email.lower() or any(value in (each or "").lower() for each in texts)
