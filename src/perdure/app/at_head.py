"""Transactions that append at the head of a session's log."""

from __future__ import annotations

from perdure.app.context import Services
from perdure.app.idempotency import Once, write_once
from perdure.domain.errors import StaleHead
from perdure.domain.events import Event, NewEvent
from perdure.domain.times import Micros
from perdure.store.bus import Appended
from perdure.store.database import Body, T, Tx
from perdure.store.sessions import SessionRow, append


async def write_at_head(app: Services, work: Body[T], once: Once | None = None, attempts: int = 20) -> T:
    """Run a transaction that appends at the head of a log, and retry it while it fails with StaleHead."""
    for attempt in range(attempts):
        try:
            return await write_once(app, once, work)
        except StaleHead:
            if attempt == attempts - 1:
                raise
    raise AssertionError("unreachable")


def tell_followers(app: Services, tx: Tx, row: SessionRow, stored: tuple[Event, ...]) -> None:
    """Tell followers of an append, once it is committed.

    Args:
        row: the session after the append.
    """
    tx.after_commit(lambda: app.bus.publish(Appended(row.id, row.head, stored)))


async def append_aside(
    app: Services, tx: Tx, row: SessionRow, events: list[NewEvent], now: Micros
) -> SessionRow:
    """Append events that end no call that the session waits for, and are no progress; tell followers."""
    after, stored = await append(tx, row, events, now=now, progress=False, rests=bool(row.resting))
    tell_followers(app, tx, after, stored)
    return after
