"""Turns whose spans are still to be exported.

The append that ends a turn notes it, if this process exports traces. Whoever exports takes a few turns for a
time (a lease), and removes them once a collector has their spans. So a crash loses none; what it interrupts
is exported again, with the same ids.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from perdure.domain.events import ENDED_TURN, Event, NewEvent
from perdure.domain.ids import OrgId, SessionId, TurnId
from perdure.domain.times import Micros
from perdure.store.database import Tx, Value
from perdure.store.rows import columns


class TraceTurn(Struct, frozen=True):
    """A turn that has ended. Its events are above `after_sequence`, up to `through_sequence`."""

    session_id: SessionId
    turn_id: TurnId
    org_id: OrgId
    after_sequence: int
    through_sequence: int
    ended_at: Micros
    taken_until: Micros


_COLUMNS = columns(TraceTurn)
INSERT_TURNS = f"INSERT INTO trace_turns ({_COLUMNS})"


def ended_turns(
    org_id: OrgId, after: int, events: Sequence[NewEvent], stored: Sequence[Event]
) -> list[tuple[Value, ...]]:
    """Return the rows of the turns that these events end.

    Args:
        after: the sequence before the first event that these turns depend on.
    """
    return [
        (event.session_id, new.context.turn_id, org_id, after, event.sequence, event.ts, 0)
        for new, event in zip(events, stored, strict=True)
        if event.type in ENDED_TURN and new.context.turn_id is not None
    ]


async def take_turns(tx: Tx, now: Micros, lease: Micros, limit: int) -> list[TraceTurn]:
    """Take the oldest turns that nobody has taken, for `lease` microseconds.

    A lease that ends too far away was taken by a clock that was wrong, and does not count.
    """
    skip = " FOR UPDATE SKIP LOCKED" if tx.dialect == "postgres" else ""
    rows = await tx.all(
        "UPDATE trace_turns SET taken_until = ? WHERE (session_id, turn_id) IN ("
        "SELECT session_id, turn_id FROM trace_turns WHERE taken_until <= ? OR taken_until > ?"
        f" ORDER BY ended_at LIMIT ?{skip}) RETURNING {_COLUMNS}",
        now + lease,
        now,
        now + 2 * lease,
        limit,
    )
    return sorted((TraceTurn(*row) for row in rows), key=lambda turn: turn.ended_at)


async def free_turns(tx: Tx, turns: Sequence[TraceTurn] | None = None) -> None:
    """Give turns back that could not be exported; all of them if None, when no other process exports."""
    if turns is None:
        await tx.run("UPDATE trace_turns SET taken_until = 0 WHERE taken_until > 0")
    else:
        sql = (
            "UPDATE trace_turns SET taken_until = 0 WHERE session_id = ? AND turn_id = ? AND taken_until = ?"
        )
        await tx.run_many(sql, [(each.session_id, each.turn_id, each.taken_until) for each in turns])


async def remove_turns(tx: Tx, turns: Sequence[TraceTurn]) -> None:
    """Remove turns that are exported."""
    sql = "DELETE FROM trace_turns WHERE session_id = ? AND turn_id = ?"
    await tx.run_many(sql, [(each.session_id, each.turn_id) for each in turns])


async def drop_turns(tx: Tx, keep: int, limit: int) -> int:
    """Remove up to `limit` of the turns beyond the newest `keep`; return how many."""
    return await tx.run(
        "DELETE FROM trace_turns WHERE (session_id, turn_id) IN ("
        "SELECT session_id, turn_id FROM trace_turns ORDER BY ended_at DESC LIMIT ? OFFSET ?)",
        limit,
        keep,
    )


async def agent_name(tx: Tx, org_id: OrgId, agent_id: str) -> str | None:
    """Return the name of an agent, or None."""
    row = await tx.one("SELECT name FROM agents WHERE id = ? AND org_id = ?", agent_id, org_id)
    return None if row is None else str(row[0])
