"""Reads of logs. Only `sessions.append` and `copy_events` write events, and nothing changes them."""

from __future__ import annotations

import random

from msgspec import Struct

from perdure.domain.events import Event, NewEvent
from perdure.domain.ids import MessageId, OrgId, SessionId, TurnId, event_id, new_event_id
from perdure.domain.times import Micros
from perdure.store.database import Tx, Value
from perdure.store.rows import like_pattern, to_json

EVENT_COLUMNS = (
    "session_id", "sequence", "org_id", "id", "type", "ts", "turn_id", "exec_id", "tool_name", "context",
    "data", "metadata", "tags",
)  # fmt: skip

BATCH = 1024 * 1024
"""Bytes of events that are read at a time, unless a single event is larger. This bounds memory: a log may
have many events of several megabytes."""

_READ = "id, session_id, sequence, type, ts, context, data, metadata, tags"


def noise() -> int:
    """Return 40 random bits for an event's id. They need not be unpredictable."""
    return random.getrandbits(40)


def stored_event(session_id: SessionId, sequence: int, event: NewEvent) -> Event:
    """Return a new event as it is stored."""
    return Event(
        event_id(sequence, event.ts // 1000, noise()),
        session_id,
        sequence,
        event.data.kind,
        event.ts,
        to_json(event.context),
        to_json(event.data),
        None if event.metadata is None else to_json(event.metadata),
        None if event.tags is None else to_json(event.tags),
    )


def event_values(org_id: OrgId, event: Event, new: NewEvent) -> tuple[Value, ...]:
    """Return the values of `EVENT_COLUMNS`."""
    tool = getattr(new.data, "tool_name", None) or getattr(getattr(new.data, "tool_call", None), "name", None)
    return (
        event.session_id,
        event.sequence,
        org_id,
        event.id,
        event.type,
        event.ts,
        new.context.turn_id,
        new.context.exec_id,
        tool,
        event.context,
        event.data,
        event.metadata,
        event.tags,
    )


async def events_after(tx: Tx, session_id: SessionId, after: int, limit: int = 1000) -> list[Event]:
    """Return events with a sequence above `after`, oldest first, whatever their size."""
    rows = await tx.all(
        f"SELECT {_READ} FROM events WHERE session_id = ? AND sequence > ? ORDER BY sequence LIMIT ?",
        session_id,
        after,
        limit,
    )
    return [Event(*row) for row in rows]


async def id_of_event(tx: Tx, session_id: SessionId, sequence: int) -> str | None:
    """Return the id of the event with this sequence, or None."""
    row = await tx.one("SELECT id FROM events WHERE session_id = ? AND sequence = ?", session_id, sequence)
    return None if row is None else str(row[0])


async def sequence_of_output(
    tx: Tx, session_id: SessionId, message_id: MessageId, after: int, through: int
) -> int | None:
    """Return the sequence of an agent's message with after < sequence <= through, or None.

    No index has the ids of messages, so it looks at these events, newest first.
    """
    start = f'{{"message":{{"id":{to_json(message_id)},'  # how the data of its event begins
    row = await tx.one(
        "SELECT sequence FROM events WHERE session_id = ? AND sequence > ? AND sequence <= ?"
        " AND type = 'output.message.completed' AND substr(data, 1, ?) = ? ORDER BY sequence DESC LIMIT 1",
        session_id,
        after,
        through,
        len(start),
        start,
    )
    return None if row is None else int(row[0])


async def events_within(
    tx: Tx,
    session_id: SessionId,
    after: int,
    *,
    size: int = BATCH,
    limit: int = 500,
    until: int | None = None,
    kinds: tuple[str, ...] = (),
) -> tuple[list[Event], bool]:
    """Return events of up to about `size` bytes, and whether there are more; one event at least.

    Args:
        after: the greatest sequence to leave out.
        limit: the most events.
        until: the greatest sequence to include.
        kinds: the types to return; empty for all.
    """
    where, args = "session_id = ? AND sequence > ?", list[Value]((session_id, after))
    if until is not None:
        where, args = f"{where} AND sequence <= ?", [*args, until]
    if kinds:
        where, args = f"{where} AND type IN ({', '.join('?' * len(kinds))})", [*args, *kinds]
    rows, more = await tx.within(
        size,
        ("data",),
        f"SELECT {_READ} FROM events WHERE {where} ORDER BY sequence LIMIT ?",
        *args,
        limit,
    )
    return [Event(*row) for row in rows], more or len(rows) == limit


async def events_of_kinds(
    tx: Tx, session_id: SessionId, kinds: tuple[str, ...], *, before: int, after: int = 0, limit: int = 500
) -> tuple[list[Event], bool]:
    """Return events of these types with after < sequence <= before, NEWEST first, of up to about `BATCH`.

    Returns one event at least, if there is one, and whether there may be more.
    """
    marks = ", ".join("?" * len(kinds))
    rows, more = await tx.within(
        BATCH,
        ("data",),
        f"SELECT {_READ} FROM events WHERE session_id = ? AND sequence > ? AND sequence <= ?"
        f" AND type IN ({marks})"
        " ORDER BY sequence DESC LIMIT ?",
        session_id,
        after,
        before,
        *kinds,
        limit,
    )
    return [Event(*row) for row in rows], more or len(rows) == limit


async def start_of_turn(tx: Tx, session_id: SessionId, turn_id: TurnId) -> Event | None:
    """Return the `turn.started` event of a turn."""
    row = await tx.one(
        f"SELECT {_READ} FROM events WHERE session_id = ? AND type = 'turn.started' AND turn_id = ?",
        session_id,
        turn_id,
    )
    return None if row is None else Event(*row)


async def last_compaction(tx: Tx, session_id: SessionId, through: int) -> Event | None:
    """Return the newest `context.compacted` event with a summary, up to a sequence.

    Compactions that failed have no summary.
    """
    # JSON escapes the quotes within a text, so the pattern matches only the field itself.
    row = await tx.one(
        f"SELECT {_READ} FROM events WHERE session_id = ? AND sequence <= ? AND type = 'context.compacted'"
        """ AND data LIKE '%"strategy_used":"summary"%' ORDER BY sequence DESC LIMIT 1""",
        session_id,
        through,
    )
    return None if row is None else Event(*row)


class EventFilter(Struct, frozen=True):
    """The conditions for a list of events; None or empty means any.

    `after` and `before` are exclusive bounds of the sequence; a trace is a turn.
    """

    types: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    after: int | None = None
    before: int | None = None
    from_ts: Micros | None = None
    to_ts: Micros | None = None
    turn_id: str | None = None
    trace_id: str | None = None
    exec_id: str | None = None
    tool_name: str | None = None
    tags: tuple[str, ...] = ()
    text: str | None = None


def _where(session_id: SessionId, filters: EventFilter) -> tuple[str, list[Value]]:
    parts = ["session_id = ?"]
    args: list[Value] = [session_id]
    plain: list[tuple[str, Value]] = [
        ("sequence > ?", filters.after),
        ("sequence < ?", filters.before),
        ("ts >= ?", filters.from_ts),
        ("ts <= ?", filters.to_ts),
        ("turn_id = ?", filters.turn_id),
        ("turn_id = ?", filters.trace_id),
        ("exec_id = ?", filters.exec_id),
        ("tool_name = ?", filters.tool_name),
        (
            "LOWER(data) LIKE LOWER(?) ESCAPE '!'",
            None if filters.text is None else like_pattern(to_json(filters.text)[1:-1]),
        ),
    ]
    for sql, value in plain:
        if value is not None:
            parts.append(sql)
            args.append(value)
    for names, word in ((filters.types, "IN"), (filters.exclude, "NOT IN")):
        if names:
            parts.append(f"type {word} ({', '.join('?' * len(names))})")
            args.extend(names)
    for tag in filters.tags:
        parts.append("tags LIKE ? ESCAPE '!'")
        args.append(like_pattern(to_json(tag)))
    return " AND ".join(parts), args


async def list_events(
    tx: Tx,
    session_id: SessionId,
    filters: EventFilter,
    limit: int,
    *,
    size: int,
    newest_first: bool = False,
) -> tuple[list[Event], bool]:
    """Return up to `limit` matching events, oldest first unless `newest_first`.

    Returns one event at least, if one matches, and no more than `size` bytes. Also returns whether there are
    more of the `limit` events.
    """
    where, args = _where(session_id, filters)
    order = "DESC" if newest_first else "ASC"
    rows, more = await tx.within(
        size,
        ("data",),
        f"SELECT {_READ} FROM events WHERE {where} ORDER BY sequence {order} LIMIT ?",
        *args,
        limit,
    )
    return [Event(*row) for row in rows], more


_COPIED = tuple(name for name in EVENT_COLUMNS if name not in ("session_id", "id"))


async def copy_events(
    tx: Tx, source: SessionId, target: SessionId, after: int, through: int, size: int
) -> int:
    """Copy a part of a log to another session; the copies get new ids.

    Args:
        after: the sequence up to which events are copied already.
        through: the last sequence to copy.
        size: the most bytes to copy, unless a single event is larger.

    Returns:
        The sequence up to which events are copied now; less than `through` if the rest is missing or did not
        fit.
    """
    names = ", ".join(_COPIED)
    rows, _ = await tx.within(
        size,
        ("data",),
        f"SELECT {names} FROM events WHERE session_id = ? AND sequence > ? AND sequence <= ?"
        " ORDER BY sequence LIMIT 500",
        source,
        after,
        through,
    )
    copies = [(target, new_event_id(row[0], row[3] // 1000), *row) for row in rows]
    if not copies:
        return after
    marks = ", ".join("?" * (len(_COPIED) + 2))
    await tx.run_many(f"INSERT INTO events (session_id, id, {names}) VALUES ({marks})", copies)
    return int(rows[-1][0])


async def oldest_events(tx: Tx, session_id: SessionId, size: int, limit: int) -> tuple[int, int] | None:
    """Return the last sequence and the bytes of the oldest events that hold at most `size` bytes together.

    Of one event at least; None if the log has none. Reads no more than these events.
    """
    select = "SELECT sequence, {} FROM events WHERE session_id = ? ORDER BY sequence LIMIT ?"
    if tx.dialect == "postgres":
        rows = await tx.all(select.format("octet_length(data)"), session_id, limit)
        sizes = [(row[0], row[1]) for row in rows]
    else:  # an older SQLite has to read a text to tell its length, and does so here one by one
        rows, _ = await tx.within(size, ("data",), select.format("data"), session_id, limit)
        sizes = [(row[0], len(row[1])) for row in rows]
    last, held = 0, 0
    for sequence, length in sizes:
        if last and held + length > size:
            break
        last, held = sequence, held + length
    return (last, held) if last else None


async def count_events(
    tx: Tx, session_id: SessionId, kinds: tuple[str, ...], after: int, through: int
) -> int:
    """Count the events of these types with after < sequence <= through."""
    marks = ", ".join("?" * len(kinds))
    found = await tx.one(
        f"SELECT COUNT(*) FROM events WHERE session_id = ? AND sequence > ? AND sequence <= ?"
        f" AND type IN ({marks})",
        session_id,
        after,
        through,
        *kinds,
    )
    return 0 if found is None else int(found[0])


async def count_kinds(tx: Tx, session_id: SessionId) -> list[tuple[str, int, Micros, Micros]]:
    """Return (type, count, time of the first, time of the last) for each type of event in a log."""
    rows = await tx.all(
        "SELECT type, COUNT(*), MIN(ts), MAX(ts) FROM events WHERE session_id = ? GROUP BY type"
        " ORDER BY type",
        session_id,
    )
    return [(row[0], row[1], row[2], row[3]) for row in rows]
