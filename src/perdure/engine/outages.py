"""Waits until the database is available again, where giving up would lose what was paid for."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec

from perdure.domain.backoff import backoff
from perdure.domain.errors import Fenced, PerdureError, Unavailable
from perdure.domain.events import Event, NewEvent
from perdure.domain.ids import SessionId
from perdure.domain.times import Micros
from perdure.engine.context import Engine
from perdure.store.additions import Additions
from perdure.store.database import Body, Database, Further, NotSingle, Tx
from perdure.store.events import events_after
from perdure.store.rows import to_json
from perdure.store.sessions import SessionRow, append, look_session

T = TypeVar("T")
Also = Callable[[Tx], Awaitable[None]]
"""What a transaction changes besides the log."""

FIRST_PAUSE = 0.2
MOST_PAUSE = 5.0
"""The first and the longest pause between attempts, in seconds."""
SAY_EVERY = 12
"""Attempts between two log lines, about a minute."""

log = logging.getLogger("perdure.engine")


async def outlast(
    engine: Engine, session_id: SessionId, attempt: Callable[[], Awaitable[T]], failures: int = 0
) -> T:
    """Attempt something until the database is available, for as long as this process lives.

    Use it while the outcome of a model call or a tool call is only in memory: the runner keeps it, and makes
    no other call, until the log has it.

    Args:
        failures: how many attempts the caller has made.
    """
    while True:
        if failures:
            pause = backoff(failures, first=FIRST_PAUSE, most=MOST_PAUSE, jitter=engine.jitter)
            await engine.clock.sleep(pause)
        try:
            return await attempt()
        except Unavailable as error:
            if not error.retryable:
                raise
            failures += 1
            if failures % SAY_EVERY == 1:
                log.warning("session %s waits, with its last step in memory: %s", session_id, error.message)


def both(first: Also, second: Also | None) -> Also:
    """Return what a transaction changes besides the log if it changes what both of these do."""
    if second is None:
        return first

    async def also(tx: Tx) -> None:
        await first(tx)
        await second(tx)

    return also


def in_one(also: Also | None) -> bool:
    """Whether one statement can append events and change what else is to be changed."""
    return also is None or isinstance(also, Additions)


async def write_appending(database: Database, body: Body[T], *, single: bool) -> T:
    """Run a body that appends: with `single` in one statement, unless it turns out to need more."""
    if single:
        with contextlib.suppress(NotSingle):
            return await database.write(body, single=True)
    return await database.write(body)


async def append_also(
    tx: Tx,
    row: SessionRow,
    batch: Sequence[NewEvent],
    also: Also | None,
    *,
    now: Micros,
    claim: bool = False,
    progress: bool,
    rests: bool,
    further: Further | None = None,
) -> tuple[SessionRow, tuple[Event, ...]]:
    """Append a batch, as `append` does, and change what `also` changes in the same transaction."""
    more = await also.rows(tx) if isinstance(also, Additions) else ()
    appended = await append(
        tx, row, batch, now=now, claim=claim, progress=progress, rests=rests, further=further, more=more
    )
    if also is not None and not isinstance(also, Additions):
        await also(tx)
    return appended


async def append_after_outage(
    engine: Engine,
    row: SessionRow,
    batch: Sequence[NewEvent],
    write: Callable[[Tx], Awaitable[tuple[SessionRow, tuple[Event, ...]]]],
    *,
    single: bool,
) -> tuple[SessionRow, tuple[Event, ...]]:
    """Append again what could not be appended, until the database is available.

    The failed attempt may have committed, although its answer was lost: the log tells.

    Args:
        write: appends the batch.
        single: as for `Database.write`.

    Raises:
        StaleHead, Fenced: as `append` does.
    """
    log.warning("the last step of session %s cannot be logged yet: it is kept in memory", row.id)

    async def attempt() -> tuple[SessionRow, tuple[Event, ...]]:
        try:
            return await write_appending(engine.database, write, single=single)
        except PerdureError as error:
            # Not only StaleHead: what is read before the append sees what the failed attempt has committed.
            if isinstance(error, Unavailable | Fenced):
                raise
            found = await engine.database.read(lambda tx: _appended(tx, row, batch))
            if found is None:
                raise
            return found

    return await outlast(engine, row.id, attempt, failures=1)


async def _appended(
    tx: Tx, row: SessionRow, batch: Sequence[NewEvent]
) -> tuple[SessionRow, tuple[Event, ...]] | None:
    """Return the batch as the log has it, directly after the row's head; None if it does not."""
    events = await events_after(tx, row.id, row.head, len(batch))
    written = [(event.type, event.ts, event.data) for event in events]
    if written != [(event.type, event.ts, to_json(event.data)) for event in batch]:
        return None
    current = await look_session(tx, row.id)
    if current is None or current.deleted_at is not None or current.epoch != row.epoch:
        return None
    return msgspec.structs.replace(current, head=events[-1].sequence), tuple(events)
