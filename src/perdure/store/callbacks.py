"""Rows of callbacks. A cancelled one has no row, nor has one that is closed by another answer to its call.

The row of an answered callback is replaced by one that belongs to no call. It lasts for a day, so that a
request that is repeated because its response was lost can be recognized.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from perdure.domain.ids import CallbackId, ExecId, OrgId, SessionId, ToolCallId, TurnId
from perdure.domain.times import Micros
from perdure.store.database import Purged, Tx
from perdure.store.rows import columns, insert, values


class CallbackRow(Struct, frozen=True):
    """A callback.

    Attributes:
        session_id: the session; once it is answered, `answered:` and the session, so that nothing that looks
            for a session's open callbacks reads the answered ones of a whole day.
        hash: the SHA-256 of its token; once it is answered, that of the token and the answer.
        turn_id, exec_id, tool_call_id: the call whose result it brings.
        deadline: the end of its time; once it is answered, when that was.
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

    @property
    def is_answered(self) -> bool:
        return self.session_id.startswith(_ANSWERED)

    @property
    def session_it_is_of(self) -> SessionId:
        """The session, also once it is answered."""
        return SessionId(self.session_id.removeprefix(_ANSWERED))

    def answered(self, digest: str, now: Micros) -> CallbackRow:
        """The row that remembers the answer."""
        return replace(self, session_id=_of_answered(self.session_id), hash=digest, deadline=now)


_ANSWERED = "answered:"
_COLUMNS = columns(CallbackRow)
_INSERT = insert("callbacks", CallbackRow)
_OF_CALL = "session_id = ? AND exec_id = ? AND tool_call_id = ?"


def _of_answered(session_id: SessionId) -> SessionId:
    return SessionId(f"{_ANSWERED}{session_id}")


async def add_callback(tx: Tx, row: CallbackRow) -> None:
    await tx.run(_INSERT, *values(row))


async def callback_by_hash(tx: Tx, digest: str) -> CallbackRow | None:
    """Return the callback with this hash, also one whose deadline has passed."""
    found = await tx.one(f"SELECT {_COLUMNS} FROM callbacks WHERE hash = ?", digest)
    return None if found is None else CallbackRow(*found)


async def list_callbacks(tx: Tx, session_id: SessionId, now: Micros) -> list[CallbackRow]:
    """Return the session's callbacks that can still be answered, oldest first."""
    rows = await tx.all(
        f"SELECT {_COLUMNS} FROM callbacks WHERE session_id = ? AND deadline > ? ORDER BY created_at, id",
        session_id,
        now,
    )
    return [CallbackRow(*row) for row in rows]


async def callbacks_of_call(
    tx: Tx, session_id: SessionId, exec_id: ExecId, call_id: ToolCallId
) -> list[CallbackRow]:
    """Return the callbacks of a call, the one with the latest deadline first."""
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
    """Remove all callbacks of the same call."""
    await tx.run(f"DELETE FROM callbacks WHERE {_OF_CALL}", row.session_id, row.exec_id, row.tool_call_id)


async def remove_callbacks_of_turn(tx: Tx, session_id: SessionId, turn_id: TurnId) -> None:
    await tx.run("DELETE FROM callbacks WHERE session_id = ? AND turn_id = ?", session_id, turn_id)


async def forget_answers(tx: Tx, session_id: SessionId) -> None:
    """Remove the answered callbacks of a session."""
    await tx.run("DELETE FROM callbacks WHERE session_id = ?", _of_answered(session_id))


async def remove_stale_callbacks(tx: Tx, session_id: SessionId, exec_id: ExecId) -> None:
    """Remove callbacks of calls before this execution that did not wait for them in the end."""
    await tx.run(
        "DELETE FROM callbacks WHERE session_id = ? AND exec_id <> ? AND in_background = 0",
        session_id,
        exec_id,
    )


async def move_to_background(
    tx: Tx, session_id: SessionId, exec_id: ExecId, call_ids: Iterable[ToolCallId]
) -> None:
    """Note that a turn goes on without the results of these calls."""
    for call_id in call_ids:
        await tx.run(f"UPDATE callbacks SET in_background = 1 WHERE {_OF_CALL}", session_id, exec_id, call_id)


async def purge_callbacks(tx: Tx, before: Micros, batch: int = 500) -> Purged:
    """Remove a batch of callbacks that were answered, or whose deadlines passed, before an instant.

    Args:
        before: an instant in microseconds.
    """
    rows = await tx.all("SELECT id FROM callbacks WHERE deadline < ? LIMIT ?", before, batch)
    await tx.run_many("DELETE FROM callbacks WHERE id = ?", rows)
    return Purged(len(rows), len(rows) == batch)
