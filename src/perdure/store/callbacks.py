"""Rows of callbacks. A cancelled one has no row, nor has one that is closed by another answer to its call.

The row of an answered callback is kept for a day, so that a request that is repeated because its response was
lost can be recognized. Nothing that looks for open callbacks finds it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from perdure.domain.ids import CallbackId, ExecId, OrgId, SessionId, ToolCallId, TurnId
from perdure.domain.times import Micros
from perdure.store.database import Database, Purged, Tx
from perdure.store.rows import columns, insert, values


class CallbackRow(Struct, frozen=True):
    """A callback.

    Attributes:
        hash: the SHA-256 of its token; once it is answered, that of the token and the answer.
        turn_id, exec_id, tool_call_id: the call whose result it brings.
        deadline: the end of its time.
        answered_at: when it was answered; None while it is open.
    """

    id: CallbackId
    org_id: OrgId
    session_id: SessionId
    hash: str
    turn_id: TurnId
    exec_id: ExecId
    tool_call_id: ToolCallId
    tool_name: str
    in_background: int
    created_at: Micros
    deadline: Micros
    answered_at: Micros | None = None

    def answered(self, digest: str, now: Micros) -> CallbackRow:
        """The row that remembers the answer."""
        return replace(self, hash=digest, answered_at=now)


_COLUMNS = columns(CallbackRow)
_INSERT = insert("callbacks", CallbackRow)
_OPEN = "session_id = ? AND answered_at IS NULL"
_OF_CALL = f"{_OPEN} AND exec_id = ? AND tool_call_id = ?"


async def add_callback(tx: Tx, row: CallbackRow) -> None:
    await tx.run(_INSERT, *values(row))


async def callback_by_hash(tx: Tx, digest: str) -> CallbackRow | None:
    """Return the callback with this hash, open or answered, also one whose deadline has passed."""
    found = await tx.one(f"SELECT {_COLUMNS} FROM callbacks WHERE hash = ?", digest)
    return None if found is None else CallbackRow(*found)


async def list_callbacks(tx: Tx, session_id: SessionId, now: Micros) -> list[CallbackRow]:
    """Return the session's callbacks that can still be answered, oldest first."""
    rows = await tx.all(
        f"SELECT {_COLUMNS} FROM callbacks WHERE {_OPEN} AND deadline > ? ORDER BY created_at, id",
        session_id,
        now,
    )
    return [CallbackRow(*row) for row in rows]


async def callbacks_of_call(
    tx: Tx, session_id: SessionId, exec_id: ExecId, call_id: ToolCallId
) -> list[CallbackRow]:
    """Return the open callbacks of a call, the one with the latest deadline first."""
    rows = await tx.all(
        f"SELECT {_COLUMNS} FROM callbacks WHERE {_OF_CALL} ORDER BY deadline DESC",
        session_id,
        exec_id,
        call_id,
    )
    return [CallbackRow(*row) for row in rows]


async def remove_callback(tx: Tx, row: CallbackRow) -> bool:
    """Remove a callback; return whether it was still there."""
    return await tx.run("DELETE FROM callbacks WHERE id = ?", row.id) == 1


async def remove_callbacks_of_call(tx: Tx, row: CallbackRow) -> None:
    """Remove all open callbacks of the same call."""
    await tx.run(f"DELETE FROM callbacks WHERE {_OF_CALL}", row.session_id, row.exec_id, row.tool_call_id)


async def remove_callbacks_of_turn(tx: Tx, session_id: SessionId, turn_id: TurnId) -> None:
    """Remove the open callbacks of a turn."""
    await tx.run(f"DELETE FROM callbacks WHERE {_OPEN} AND turn_id = ?", session_id, turn_id)


async def remove_stale_callbacks(tx: Tx, session_id: SessionId, exec_id: ExecId) -> None:
    """Remove callbacks of calls before this execution that did not wait for them in the end."""
    await tx.run(
        f"DELETE FROM callbacks WHERE {_OPEN} AND exec_id <> ? AND in_background = 0",
        session_id,
        exec_id,
    )


async def move_to_background(
    tx: Tx, session_id: SessionId, exec_id: ExecId, call_ids: Iterable[ToolCallId]
) -> None:
    """Note that a turn goes on without the results of these calls."""
    for call_id in call_ids:
        await tx.run(f"UPDATE callbacks SET in_background = 1 WHERE {_OF_CALL}", session_id, exec_id, call_id)


async def signing_key(database: Database) -> bytes:
    """Return the key that the tokens of callbacks are signed with: one for all servers of this database."""

    async def stored(tx: Tx) -> str | None:
        row = await tx.one("SELECT signing_key FROM callback_keys WHERE one = 1")
        return None if row is None else row[0]

    async def create(tx: Tx) -> str | None:
        await tx.run(
            "INSERT INTO callback_keys (one, signing_key) VALUES (1, ?) ON CONFLICT DO NOTHING",
            secrets.token_hex(32),
        )
        return await stored(tx)

    found = await database.read(stored) or await database.write(create)
    if found is None:
        raise AssertionError("the row was stored in the same transaction")
    return bytes.fromhex(found)


async def purge_callbacks(tx: Tx, before: Micros, batch: int = 500) -> Purged:
    """Remove a batch of callbacks that were answered, or whose deadlines passed, before an instant.

    Args:
        before: an instant in microseconds.
    """
    rows = await tx.all(
        "SELECT id FROM callbacks WHERE answered_at < ? OR (deadline < ? AND answered_at IS NULL) LIMIT ?",
        before,
        before,
        batch,
    )
    await tx.run_many("DELETE FROM callbacks WHERE id = ?", rows)
    return Purged(len(rows), len(rows) == batch)
