"""Exports the spans of turns that have ended. It runs beside a worker, and no turn waits for it.

What is left to export is in the database (`store/trace_turns.py`); a process takes a few turns at a time, so
its memory is bounded however long a collector is down.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence

from perdure.app.context import Services
from perdure.domain import span_names as names
from perdure.domain.errors import PerdureError
from perdure.domain.events import Event
from perdure.domain.trace_settings import TraceSettings
from perdure.domain.turn_spans import TRACED, Span, SpanValue, TracedSession, TurnSpans
from perdure.net.otlp import Collector, Rejected
from perdure.store.database import Tx
from perdure.store.events import events_within
from perdure.store.sessions import look_session
from perdure.store.trace_turns import (
    TraceTurn,
    agent_name,
    drop_turns,
    free_turns,
    remove_turns,
    take_turns,
)

log = logging.getLogger("perdure.traces")

CHECK_EVERY = 1.0
"""Seconds between two looks for turns that have ended."""
LEASE = 60_000_000
"""Microseconds for which a process takes turns. Longer exports may be made twice."""
AT_ONCE = 32
"""The most turns that a process takes at a time."""
BATCH_SPANS = 512
"""The most spans of a request, as in OpenTelemetry's own exporters."""
BATCH_SIZE = 1_000_000
"""Characters of a request's texts, unless one span has more."""
KEPT = 100_000
"""The most turns that wait for a collector; beyond that, the oldest are dropped."""
DROPPED_AT_ONCE = 1_000
MOST_PAUSE = 60.0
"""The longest pause between two attempts, in seconds; each is twice the one before."""


class TraceExporter:
    """Exports the traces of one database, together with the exporters of other processes.

    Args:
        every: seconds between two looks.
    """

    def __init__(self, app: Services, settings: TraceSettings, every: float = CHECK_EVERY) -> None:
        self._app = app
        self._settings = settings
        self._collector = Collector(settings)
        self._every = every
        self._failures = 0
        """Attempts that failed, one after the other."""

    async def run(self) -> None:
        """Export until cancelled."""
        freed = self._app.database.dialect != "sqlite"
        try:
            while True:
                try:
                    if not freed:  # this is the only process: whoever had taken turns has died
                        await self._app.database.write(free_turns)
                        freed = True
                    while await self.once():
                        self._note_success()
                    pause = self._every
                except PerdureError as error:
                    pause = self._note_failure(error.message, error.retry_after)
                except Exception as error:
                    log.debug("the export of traces failed", exc_info=error)
                    pause = self._note_failure(type(error).__name__, None)
                await asyncio.sleep(pause)
        finally:
            await self._collector.close()

    def _note_success(self) -> None:
        if self._failures:
            log.info("traces are exported again")
        self._failures = 0

    def _note_failure(self, why: str, wait: float | None) -> float:
        """Log the first failure of a row; return the seconds until the next attempt."""
        if not self._failures:
            log.warning("traces cannot be exported, and wait: %s", why)
        self._failures += 1
        pause = self._every * float(2 ** min(self._failures, 10))
        return max(min(pause, MOST_PAUSE), wait or 0.0)

    async def once(self) -> int:
        """Export some of what there is to export; return the number of turns.

        Raises:
            Undelivered: the collector did not take them. They wait for the next attempt.
        """
        now = self._app.now()
        turns = await self._app.database.write(lambda tx: take_turns(tx, now, LEASE, AT_ONCE))
        if not turns:
            return 0
        left = list(turns)
        try:
            await self._export(left)
        except Rejected:
            # One of them has what the collector does not take; the others are not to wait for it.
            for turn in list(left):
                await self._export_alone(turn)
                left.remove(turn)
        finally:
            if left:
                await self._give_back(left)
        return len(turns)

    async def _export_alone(self, turn: TraceTurn) -> None:
        try:
            await self._export([turn])
        except Rejected as error:
            log.warning(
                "the trace of turn %s of session %s is dropped: %s",
                *(turn.turn_id, turn.session_id, error.message),
            )
            await self._app.database.write(lambda tx: remove_turns(tx, [turn]))

    async def _give_back(self, turns: Sequence[TraceTurn]) -> None:
        """Leave turns to the next attempt, and drop the oldest if too many wait."""

        async def work(tx: Tx) -> int:
            await free_turns(tx, turns)
            return await drop_turns(tx, KEPT, DROPPED_AT_ONCE)

        with contextlib.suppress(PerdureError):  # their lease ends
            dropped = await self._app.database.write(work)
            if dropped:
                log.warning("too many traces wait for their collector: the oldest %d are dropped", dropped)

    async def _export(self, turns: list[TraceTurn]) -> None:
        """Export turns, request by request; `turns` keeps those that are not exported."""
        spans: list[Span] = []
        size, done = 0, list[TraceTurn]()

        async def send() -> None:
            nonlocal size
            if spans:
                await self._collector.export(spans)
            if done:
                await self._app.database.write(lambda tx: remove_turns(tx, done))
            for turn in done:
                turns.remove(turn)
            spans.clear()
            done.clear()
            size = 0

        for turn in list(turns):
            async for span in self._spans_of(turn):
                spans.append(span)
                size += _size_of(span)
                if len(spans) >= BATCH_SPANS or size >= BATCH_SIZE:
                    await send()
            done.append(turn)
        await send()

    async def _spans_of(self, turn: TraceTurn) -> AsyncIterator[Span]:
        """The spans of a turn, as its log is read; none of a session that was deleted."""
        session = await self._app.database.read(lambda tx: self._session_of(tx, turn))
        if session is None:
            return
        fold = TurnSpans(turn.turn_id, session, content=self._settings.content)
        after, more = turn.after_sequence, True
        while more:

            async def read(tx: Tx, after: int = after) -> tuple[list[Event], bool]:
                return await events_within(
                    *(tx, turn.session_id, after), until=turn.through_sequence, kinds=TRACED
                )

            events, more = await self._app.database.read(read, long=True)
            for event in events:
                after = event.sequence
                for span in fold.add(event):
                    if self._settings.sampler.samples(turn.turn_id, fold.parent):
                        yield span
            more = more and bool(events)

    async def _session_of(self, tx: Tx, turn: TraceTurn) -> TracedSession | None:
        row = await look_session(tx, turn.session_id)
        if row is None or row.deleted_at is not None:
            return None
        attributes: dict[str, SpanValue] = {names.CONVERSATION: row.id, names.ORGANIZATION: row.org_id}
        if row.root_session_id is not None:
            attributes[names.ROOT_SESSION] = row.root_session_id
        name = None if row.agent_id is None else await agent_name(tx, row.org_id, row.agent_id)
        return TracedSession(attributes, row.agent_id, name)


def _size_of(span: Span) -> int:
    return sum(len(value) for value in span.attributes.values() if isinstance(value, str))
