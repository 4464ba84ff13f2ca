"""Rows of answers to requests with an Idempotency-Key, which are kept for a day."""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.ids import OrgId, SessionId
from perdure.domain.times import Micros
from perdure.store.database import Purged, Tx, Value, first_within

KEPT = 86_400_000_000
"""Microseconds that an answer is kept: a day (wire contract)."""
PURGED = 16 * 1024 * 1024
"""Bytes of answers that one batch removes, unless a single answer is larger. On SQLite all writes wait for
the batch."""


class KeptAnswer(Struct, frozen=True):
    """An answer, and the request that it belongs to."""

    fingerprint: str
    status: int
    body: bytes


async def take_key(
    tx: Tx,
    org_id: OrgId,
    key: str,
    fingerprint: str,
    now: Micros,
    before: Micros,
    session_id: SessionId | None = None,
) -> bool:
    """Claim a key for a request; return False if it is taken. A key claimed before `before` is free again.

    Args:
        session_id: the session that the request is about: the answer goes when that is purged or erased.
    """
    await tx.run(
        "DELETE FROM idempotency WHERE org_id = ? AND key = ? AND created_at < ?", org_id, key, before
    )
    taken = await tx.one(
        "INSERT INTO idempotency (org_id, key, fingerprint, status, body, created_at, session_id)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING key",
        org_id,
        key,
        fingerprint,
        0,
        b"",
        now,
        session_id,
    )
    return taken is not None


async def keep_answer(
    tx: Tx, org_id: OrgId, key: str, status: int, body: bytes, session_id: SessionId | None = None
) -> None:
    """Store the answer to the request that claimed the key.

    Args:
        session_id: a session that the request has created, which the answer is about from now on.
    """
    sets: str = "status = ?, body = ?"
    args: list[Value] = [status, body]
    if session_id is not None:  # otherwise no index is touched
        sets += ", session_id = ?"
        args.append(session_id)
    await tx.run(f"UPDATE idempotency SET {sets} WHERE org_id = ? AND key = ?", *args, org_id, key)


async def kept_answer(tx: Tx, org_id: OrgId, key: str) -> KeptAnswer | None:
    """Return the answer stored under a key, or None."""
    row = await tx.one(
        "SELECT fingerprint, status, body FROM idempotency WHERE org_id = ? AND key = ?", org_id, key
    )
    return None if row is None else KeptAnswer(row[0], row[1], bytes(row[2]))


async def remove_answers_of_user(tx: Tx, org_id: OrgId, user_id: str, limit: int = 500) -> tuple[int, int]:
    """Remove a batch of the answers to a user's requests; return how many, and their bytes."""
    rows = await tx.all(
        "SELECT key, LENGTH(body) FROM idempotency WHERE org_id = ? AND key LIKE ? ESCAPE '!' LIMIT ?",
        org_id,
        f"{user_id.replace('_', '!_')} %",
        limit,
    )
    await remove_answers(tx, org_id, [row[0] for row in rows])
    return len(rows), sum(row[1] for row in rows)


async def unnamed_answers(tx: Tx, org_id: OrgId, after: str, limit: int = 500) -> list[tuple[str, bytes]]:
    """Return the next (key, body) of answers whose rows do not say which session they are about."""
    rows = await tx.all(
        "SELECT key, body FROM idempotency WHERE org_id = ? AND session_id IS NULL AND key > ?"
        " ORDER BY key LIMIT ?",
        org_id,
        after,
        limit,
    )
    return [(row[0], bytes(row[1])) for row in rows]


async def remove_answers(tx: Tx, org_id: OrgId, keys: list[str]) -> None:
    """Remove the answers with these keys."""
    await tx.run_many("DELETE FROM idempotency WHERE org_id = ? AND key = ?", [(org_id, key) for key in keys])


async def purge_answers(tx: Tx, before: Micros, limit: int = 500) -> Purged:
    """Remove one batch of the answers from before an instant, oldest first.

    Args:
        before: an instant in microseconds.
        limit: the most answers; `PURGED` bounds their bytes.
    """
    rows = await tx.all(
        "SELECT org_id, key, LENGTH(body) FROM idempotency WHERE created_at < ? ORDER BY created_at LIMIT ?",
        before,
        limit,
    )
    batch = first_within(rows, PURGED)
    gone = 0
    for org_id, key in sorted(batch):
        # Check the age again: another request may have claimed the key meanwhile.
        gone += await tx.run(
            "DELETE FROM idempotency WHERE org_id = ? AND key = ? AND created_at < ?", org_id, key, before
        )
    return Purged(gone, len(batch) < len(rows) or len(rows) == limit)
