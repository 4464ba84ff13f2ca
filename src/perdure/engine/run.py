"""A run: one runner's hold on one session, from its claim until the session is idle or parked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeVar

import msgspec
from msgspec import Struct

from perdure.capabilities.resolve import ModelChoice, ResolvedAgent
from perdure.domain.errors import Fenced, StaleHead
from perdure.domain.events import Event, InputMessageData, NewEvent
from perdure.domain.history import Conversation
from perdure.domain.ids import SessionId
from perdure.domain.messages import JsonValue
from perdure.domain.redaction import Redactor, redact_event
from perdure.domain.times import Micros
from perdure.domain.turn import Calling, Idle, Reasoning, TurnState, fold
from perdure.engine.context import Engine
from perdure.engine.conversation_cache import read_conversation
from perdure.store.bus import Appended
from perdure.store.database import Tx
from perdure.store.events import events_after
from perdure.store.sessions import SessionRow, append, claim, look_session

PAGE = 1000

STALLED = 2.0
"""Seconds after which an append that succeeded comes back so late that the claim is looked at again.

Well under the time after which a sweep takes a session for forgotten.
"""

Phase = TypeVar("Phase", Reasoning, Calling)


class Run:
    """What the runner knows.

    The row and state as of the head, and the outcomes that are not in the log yet (`facts`).
    """

    def __init__(
        self, engine: Engine, row: SessionRow, state: TurnState, conversation: Conversation, claimed: bool
    ) -> None:
        self.engine = engine
        self.row = row
        self.state = state
        self.conversation = conversation
        self.claimed = claimed
        self.facts: list[NewEvent] = []
        self.tools: dict[str, asyncio.Task[list[NewEvent]]] = {}
        self.fresh: set[str] = set()
        """Calls that this very runner has announced, and so may run."""
        self.redactor = Redactor({})
        self.withheld: dict[str, JsonValue] = {}
        """Arguments with secrets in them, by call id, as the model wrote them: the log holds them without."""
        self.uncompactable = False
        """Whether a compaction was tried in this run and came to nothing."""
        self.prepared: tuple[ResolvedAgent, ModelChoice] | None = None

    @property
    def ahead(self) -> TurnState:
        """The state once the facts are in the log, and so without secrets.

        Previews are cut from what is in it.
        """
        return fold(self._redacted(self.facts), self.state)

    def phase(self, kind: type[Phase]) -> Phase:
        """The state, once the events that begin this phase are in the log."""
        if not isinstance(self.state, kind):
            found = type(self.state).__name__
            raise AssertionError(f"the log says {found}, not {kind.__name__}")  # noqa: TRY004
        return self.state

    async def commit(self, opening: Sequence[NewEvent]) -> bool:
        """Append the facts and the events that open the next step, in one batch.

        Returns:
            False when the log had moved: the run has caught up, the facts are kept, and the next step must be
            decided again.

        Raises:
            Fenced: the session is somebody else's now.
        """
        if not self.facts and not opening:
            return True
        batch = self._redacted([*self.facts, *opening])
        row, fresh, now, sent = (
            self.row,
            not self.claimed,
            self.engine.clock.now(),
            self.engine.clock.elapsed(),
        )
        try:
            self.row, stored = await self.engine.database.write(
                lambda tx: append(tx, row, batch, now=now, claim=fresh), single=True
            )
        except StaleHead:
            await self._catch_up()
            return False
        if fresh:
            self.claimed = True
            self.engine.leases[self.row.id] = self.row.epoch
        self.facts = []
        self._take_in(batch, stored)
        self.engine.bus.publish(Appended(self.row.id, self.row.head, stored))
        if self.engine.clock.elapsed() - sent > STALLED:
            # Another runner may have the session by now: then nothing is done in its place.
            await self._catch_up()
        return True

    def _redacted(self, events: list[NewEvent]) -> list[NewEvent]:
        """The events without secrets: what is not in the log cannot leak from it."""
        if not self.redactor:
            return events
        return [redact_event(event, self.redactor) for event in events]

    def _take_in(self, events: Sequence[NewEvent | Event], stored: Sequence[Event]) -> None:
        for event, kept in zip(events, stored, strict=True):
            self.conversation.feed(event, kept.sequence, kept.id)
            if event.type == InputMessageData.kind:
                self.prepared = None  # it may have chosen another model
        self.state = fold(events, self.state)

    async def _catch_up(self) -> None:
        """Read what others have appended since. Raises Fenced when one of them took the session."""
        row, after, epoch = self.row, self.state.head, self.row.epoch

        async def body(tx: Tx) -> tuple[SessionRow | None, list[Event]]:
            found = await look_session(tx, row.id)
            until = found.head if found is not None else 0
            return found, await events_after(tx, row.id, after, limit=PAGE, until=until)

        found, events = await self.engine.database.read(body)
        if found is None or found.deleted_at is not None or found.epoch != epoch:
            raise Fenced
        self._take_in(events, events)
        self.row = msgspec.structs.replace(found, head=self.state.head)


class Opened(Struct):
    row: SessionRow
    events: list[Event]
    conversation: Conversation


async def open_run(engine: Engine, session_id: SessionId) -> Run | None:
    """Take hold of a session, or None when there is nothing to do in it.

    A turn that has not begun is claimed by its first append. One that has begun is claimed here, before
    anything is done: whoever ran it before can append nothing any more.
    """
    while (opened := await _look(engine, session_id)) is not None:
        row = opened.row
        state = fold(opened.events, Idle(head=row.turn_after))
        begun = not isinstance(state, Idle)
        if begun:
            try:
                row = await _take_over(engine, row)
            except StaleHead:
                engine.histories.keep(session_id, opened.conversation)
                continue  # somebody wrote in between, and counts on this runner to see it
        return Run(engine, row, state, opened.conversation, claimed=begun)
    return None


async def _take_over(engine: Engine, row: SessionRow) -> SessionRow:
    """Claim a session whose turn has begun."""
    claimed = await engine.database.write(lambda tx: claim(tx, row))
    engine.leases[claimed.id] = claimed.epoch
    return claimed


async def _look(engine: Engine, session_id: SessionId) -> Opened | None:
    """The session as it is, or None when it is at rest or gone."""
    held = engine.histories.take(session_id)
    now = engine.clock.now()

    async def body(tx: Tx) -> Opened | None:
        row = await look_session(tx, session_id)
        if row is None or not _calls_for_a_runner(row, now):
            return None
        events: list[Event] = []
        after = row.turn_after
        while after < row.head:
            page = await events_after(tx, session_id, after, limit=PAGE, until=row.head)
            if not page:
                return None  # deleted, and its log is being removed
            events.extend(page)
            after = page[-1].sequence
        begun = Conversation() if row.turn_after == 0 else None  # nothing is older than what has been read
        conversation = await read_conversation(
            tx, session_id, row.head, engine.policy.history_tokens, held or begun, events
        )
        return Opened(row, events, conversation)

    opened = await engine.database.read(body)
    if opened is None and held is not None:
        engine.histories.keep(session_id, held)
    return opened


def _calls_for_a_runner(row: SessionRow, now: Micros) -> bool:
    """Whether there is something to do.

    A parked session is left alone until its time has come: a job too many is no recovery.
    """
    if row.deleted_at is not None:
        return False
    return row.status == "active" or (
        row.status == "waiting_for_tool_results" and row.wake_at is not None and row.wake_at <= now
    )
