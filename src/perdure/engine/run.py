"""A run: one runner's work on one session, from its claim until the session is idle or parked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import TypeVar

import msgspec
from msgspec import Struct

from perdure.capabilities.model_choice import ModelChoice
from perdure.capabilities.resolve import ResolvedAgent
from perdure.domain.calls import CallState
from perdure.domain.compaction import ContextCompactingData
from perdure.domain.errors import Fenced, PerdureError, StaleHead, Unavailable
from perdure.domain.event_data import EventData
from perdure.domain.events import Event, InputMessageData, NewEvent
from perdure.domain.history import Conversation
from perdure.domain.ids import ModelId, SessionId, ToolCallId
from perdure.domain.messages import JsonValue
from perdure.domain.redaction import Redactor, redact_events
from perdure.domain.spans import tool_context
from perdure.domain.spending import Standing
from perdure.domain.steps import Started
from perdure.domain.times import Micros
from perdure.domain.turn import Calling, Reasoning, TurnState, fold
from perdure.domain.turn_queries import begins_with_append
from perdure.engine.batches import act_completed, is_last_to_park, rests_after
from perdure.engine.context import Engine
from perdure.engine.conversation_cache import read_conversation
from perdure.engine.joined_appends import Entry, Opening, also_of, joining, status_of
from perdure.engine.observed import observe
from perdure.engine.outages import (
    Also,
    append_after_outage,
    append_also,
    in_one,
    outlast,
    write_appending,
)
from perdure.engine.overtaken import without_overtaken
from perdure.engine.settlements import Awaited, Money, Settlement, money_move, settled_also
from perdure.engine.spent import note_usage
from perdure.engine.suspects import Admission
from perdure.engine.voices import Voice
from perdure.store.bus import Appended
from perdure.store.claims import rest
from perdure.store.database import Tx
from perdure.store.events import events_within
from perdure.store.queue import Begun
from perdure.store.sessions import IN_TURN, SessionRow, look_session

SLOW_COMMIT = 2.0
"""Seconds. After an append that took longer, the run checks that it still holds its claim.

This is well below the time after which a sweep considers a session abandoned.
"""

Phase = TypeVar("Phase", Reasoning, Calling)


class Run:
    """The runner's view of its session.

    The row and the state are those of the log's head.
    """

    def __init__(
        self, engine: Engine, row: SessionRow, state: TurnState, conversation: Conversation, claimed: bool
    ) -> None:
        self.engine = engine
        self.row = row
        self.state = state
        self.conversation = conversation
        self.claimed = claimed
        self._unlogged: list[NewEvent] = []
        self.tools: dict[str, asyncio.Task[list[NewEvent]]] = {}
        self.announced: set[str] = set()
        """The calls whose start this run has logged, so that it may execute them."""
        self.redactor = Redactor({})
        self.secret_arguments: dict[str, JsonValue] = {}
        """By call id: arguments with their secrets, as the model wrote them. The log has them redacted."""
        self.vetted: dict[str, JsonValue] = {}
        """By the key of a call that has not started: the arguments that policy hooks have allowed."""
        self.admission: Admission | None = None
        """The time alone of a suspect, which ends with its first append."""
        self._marks: dict[Micros, float] = {}
        self.uncompactable: ModelId | None = None
        """The model with which a compaction failed in this run."""
        self.prepared: tuple[ResolvedAgent, ModelChoice] | None = None
        """The agent and model for the next steps; None if they have to be resolved anew."""
        self.voice = Voice(row.agent_id)
        """The agent of the next model call, once `prepared` is."""
        self.standings: tuple[Standing, ...] | None = None
        """The budgets of the next model call, as `prepared` read them; None if they have to be read anew."""
        self.money: Money | None = None
        """What the model call that is under way holds of its budgets."""
        self.settling: list[Settlement | Awaited] = []
        """The model calls that have ended, and that the next append settles; what a turn then waits for."""
        self._opening: Opening | None = None
        """The start of the calls that run, if they append it themselves, after `unlogged`."""
        self._appending = asyncio.Lock()
        self._entries: list[Entry] = []
        """What calls that run append, and wait for."""
        self._moved = False
        """Whether a tool's append found events of others, which the next action was not decided on."""

    @property
    def unlogged(self) -> list[NewEvent]:
        """The events of the last step, which the next append writes.

        They never have what the log has overtaken: neither when a step ends after this run has caught up,
        nor when it catches up before they are appended.
        """
        return self._unlogged

    @unlogged.setter
    def unlogged(self, events: list[NewEvent]) -> None:
        self._unlogged = without_overtaken(events, self.state)

    def arguments_of(self, call: CallState) -> JsonValue:
        """The arguments of a call with their secrets, as far as this run knows them."""
        return call.arguments if call.edited else self.secret_arguments.get(call.id, call.arguments)

    @property
    def ahead(self) -> TurnState:
        """The state once `unlogged` is in the log.

        It is folded from the redacted events, because previews are taken from it.
        """
        return fold(self._redacted(self.unlogged), self.state) if self.unlogged else self.state

    def hold(self, opening: Opening) -> TurnState:
        """Leave it to the first call that appends to append its start, too; return the state with that."""
        self._opening = opening
        return fold(self._redacted(self._held), self.state)

    @property
    def _held(self) -> list[NewEvent]:
        """The events that the next append of a call begins with."""
        opening = self._opening
        return [*self.unlogged, *opening.events] if opening and opening.fate == "held" else []

    def phase(self, kind: type[Phase]) -> Phase:
        """The state, which is in this phase because the events that begin it are in the log."""
        if not isinstance(self.state, kind):
            actual = type(self.state).__name__
            raise AssertionError(f"the turn's phase is {actual}, not {kind.__name__}")  # noqa: TRY004
        return self.state

    async def commit(
        self,
        opening: Sequence[NewEvent],
        *,
        also: Also | None = None,
        rests: bool = False,
        money: Money | None = None,
    ) -> bool:
        """Append `unlogged` and the events that begin the next step, in one batch.

        Args:
            also: what the same transaction changes besides the log.
            rests: as for `append`.
            money: what the model call holds that the events begin.

        Returns:
            False if the log had moved: the run has caught up, `unlogged` has what still holds of it, and the
            next action has to be decided again.

        While the database is unavailable, a runner that holds the session keeps the events and tries again.

        Raises:
            Fenced: another runner has claimed the session.
            Unavailable: the database is unavailable, and the session is not claimed yet.
            OverBudget: the money is not there any more.
        """
        async with self._appending:
            if self._moved:
                self._moved = False
                return False
            if not self.unlogged and not opening:
                return True
            began = self.engine.clock.elapsed()
            batch = self._redacted([*self.unlogged, *opening])
            # Each attempt at a summary begins with such an event.
            progress = batch[-1].type != ContextCompactingData.kind
            try:
                await self._append(batch, also=also, progress=progress, rests=rests, money=money)
            except StaleHead:
                await self._catch_up()
                return False
            self.unlogged = []
            await self._check_claim_after(began)
        return True

    async def log_at_once(
        self, call_id: ToolCallId, *data: EventData, progress: bool, also: Also | None = None
    ) -> bool:
        """Append events of a call that runs, while the run waits for the call or makes other appends.

        Args:
            progress: whether they show that the turn gets on, so that the number of recoveries starts again.
            also: what the same transaction changes besides the log.

        Returns:
            False if the call has ended meanwhile, so that nothing was appended.

        Raises:
            Fenced: another runner has claimed the session.
        """
        entry = Entry(call_id, data, progress, also)
        self._entries.append(entry)
        try:
            if self._opening is not None:
                await self._opening.wait(call_id)
            async with self._appending:
                while entry.logged is None:
                    await self._log_entries(entry)
        finally:
            if entry in self._entries:
                self._entries.remove(entry)
        return entry.logged

    async def _log_entries(self, first: Entry) -> None:
        """Append the events of a call, with those of all calls that may join it, in one transaction."""
        held, now, entries = self._held, self.engine.clock.now(), []
        state = fold(self._redacted(held), self.state) if held else self.state
        for entry in joining(first, self._entries):
            if isinstance(status_of(state, entry.call_id), Started):
                entries.append(entry)
            else:
                entry.logged = False
        if first.logged is not None or not isinstance(state, Calling):
            return
        batch = [
            NewEvent(data, tool_context(state, entry.call_id), now)
            for entry in entries
            for data in entry.data
        ]
        end = self._end_of_batch(state, batch)
        batch += end
        rests = bool(end) and rests_after(batch, state)
        began = self.engine.clock.elapsed()
        try:
            await self._append(
                self._redacted([*held, *batch]), also=also_of(entries), progress=first.progress, rests=rests
            )
        except StaleHead:
            if held and self._opening:
                self._opening.fate = "dropped"
            else:
                self._moved = True
            await self._catch_up()
            return
        except PerdureError:
            if len(entries) == 1:
                raise
            for entry in entries:  # one of them must not fail the others
                entry.alone = True
            return
        for entry in entries:
            entry.logged = True
        if held and self._opening:
            self._opening.fate, self.unlogged = "logged", []
        if end:
            self.prepared = None  # as after any batch
        self._moved = self._moved or self._was_slow(began)
        await self._check_claim_after(began)

    def _end_of_batch(self, state: Calling, parking: list[NewEvent]) -> list[NewEvent]:
        """The event that ends a batch of calls, if these events park the last ones of it."""
        batch, running = state.batch, [call_id for call_id, task in self.tools.items() if not task.done()]
        if (
            batch is None
            or (self.unlogged and not self._held)
            or not is_last_to_park(state, batch, parking, running)
        ):
            return []
        duration = self.milliseconds_since(batch.started_at)
        return [act_completed(state, batch, parking, duration, self.engine.clock.now())]

    async def _append(
        self,
        batch: list[NewEvent],
        *,
        also: Also | None = None,
        progress: bool,
        rests: bool = False,
        money: Money | None = None,
    ) -> None:
        """Append these events, and apply them. Raises as `commit` does, and StaleHead."""
        now = self.engine.clock.now()
        settling = tuple(self.settling)
        move = money_move(settling, money, now) if in_one(also) else None
        if move is None:
            also = settled_also(settling, money, also, now)
        row, claims, single = self.row, not self.claimed, in_one(also)
        write = partial(append_also, row=row, batch=batch, also=also, now=now, progress=progress, rests=rests)
        if move is not None:
            write = partial(write, further=move)
        try:
            body = partial(write, claim=claims)
            self.row, stored = await write_appending(self.engine.database, body, single=single)
        except Unavailable as error:
            if claims or not error.retryable:
                raise  # nothing was paid for yet
            self.row, stored = await append_after_outage(self.engine, row, batch, write, single=single)
        self.forget_settled(settling)
        if claims:
            self.claimed = True
            self.engine.claimed_epochs[self.row.id] = self.row.epoch
        if self.admission is not None and progress:
            self.admission.end()
            self.admission = None
        self._apply(batch, stored)
        note_usage(self.engine, self.row, batch)
        observe(self.engine, self.row, batch)
        self.engine.bus.publish(Appended(self.row.id, self.row.head, stored))

    def _was_slow(self, began: float) -> bool:
        return self.engine.clock.elapsed() - began > SLOW_COMMIT

    async def _check_claim_after(self, began: float) -> None:
        """Check after a slow append whether another runner has claimed the session meanwhile: raise Fenced.

        What the append announces must not be executed then.
        """
        if self._was_slow(began):
            await self._catch_up()

    def forget_settled(self, done: Sequence[Settlement | Awaited]) -> None:
        """Remove what a transaction has settled. Tools that run may have added more meanwhile."""
        gone = {id(each) for each in done}
        self.settling = [each for each in self.settling if id(each) not in gone]

    async def rest(self) -> bool:
        """Leave the session to itself: it only waits. Returns False as `commit` does."""
        if self.unlogged:
            return await self.commit((), rests=True)
        row = self.row
        if row.status != "active" or (row.resting and not row.recoveries):
            return True
        try:
            self.row = await outlast(
                self.engine, row.id, lambda: self.engine.database.write(lambda tx: rest(tx, row), single=True)
            )
        except StaleHead:
            await self._catch_up()
            return False
        return True

    def mark(self, ts: Micros) -> None:
        """Remember when this event is made, on the clock that never goes back."""
        self._marks[ts] = self.engine.clock.elapsed()

    def milliseconds_since(self, ts: Micros) -> int:
        """How long ago an event was made. Never negative, although the machine's clock may have gone back."""
        mark = self._marks.get(ts)
        if mark is not None:
            return round((self.engine.clock.elapsed() - mark) * 1000)
        return max(0, (self.engine.clock.now() - ts) // 1000)

    def _redacted(self, events: list[NewEvent]) -> list[NewEvent]:
        """The events without secrets, so that secrets cannot leak from the log."""
        return redact_events(events, self.redactor)

    def _apply(self, events: Sequence[NewEvent | Event], stored: Sequence[Event]) -> None:
        """Fold events into the conversation and the state; `stored` has their sequences and ids."""
        for event, numbered in zip(events, stored, strict=True):
            self.conversation.feed(event, numbered.sequence, numbered.id)
            if numbered.type == InputMessageData.kind:
                self.prepared = None  # the message may choose another model
        self.state = fold(events, self.state)
        if self.row.task_id is not None:
            self.engine.known.follow(self.row.id, stored)

    async def _catch_up(self) -> None:
        """Apply the events that others have appended.

        Raises:
            Fenced: another runner has claimed the session, or had claimed it before this one could and is at
                work on it.
        """
        row, epoch = self.row, self.row.epoch

        async def body(tx: Tx) -> tuple[SessionRow | None, list[Event], bool]:
            current = await look_session(tx, row.id)
            until = current.head if current is not None else 0
            return current, *await events_within(tx, row.id, self.state.head, until=until)

        more = True
        while more:
            read = partial(self.engine.database.read, body)
            current, events, more = await outlast(self.engine, row.id, read)
            if current is None or current.deleted_at is not None or current.epoch != epoch:
                raise Fenced
            self._apply(events, events)
            self.row = msgspec.structs.replace(current, head=self.state.head)
        if not self.claimed and not begins_with_append(self.state):
            raise Fenced
        self.unlogged = self._unlogged  # without what these events have overtaken


class OpenedSession(Struct):
    """What a run starts from; `state` is that of the log's head."""

    row: SessionRow
    state: TurnState
    conversation: Conversation


def opened_by(engine: Engine, begun: Begun) -> OpenedSession | None:
    """Open a session at the append that its turn begins with; None if more of its log is needed.

    If the session has changed since, the first append of the run finds that out.
    """
    row, events = begun.row, begun.events
    if row is None or row.recoveries or not events or not _needs_runner(row, engine.clock.now()):
        return None
    before = events[0].sequence - 1
    state = engine.turns.start_of(row)
    if state.head < before or events[-1].sequence != row.head:
        return None
    conversation = engine.conversations.take(row.id) if before else Conversation()
    if conversation is None or not before <= conversation.head <= row.head:
        if conversation is not None:
            engine.conversations.put(row.id, conversation)
        return None
    for event in events[conversation.head - before :]:
        conversation.feed(event, event.sequence)
    if row.task_id is not None:
        engine.known.follow(row.id, events)
    return OpenedSession(row, fold(events[state.head - before :], state), conversation)


async def read_session(
    engine: Engine, session_id: SessionId, *, again: bool, counted: bool
) -> OpenedSession | SessionRow | None:
    """Read the session.

    Args:
        again: whether an earlier attempt may have died or failed.
        counted: whether this attempt is counted already.

    Returns:
        None if the session needs no runner or is deleted; its row alone if this attempt has to be counted
        before the log is read, because reading it may be what fails.
    """
    cached = engine.conversations.take(session_id)
    now = engine.clock.now()

    async def body(tx: Tx) -> OpenedSession | SessionRow | None:
        row = await look_session(tx, session_id)
        if row is None or not _needs_runner(row, now):
            return None
        if not counted and (again or row.recoveries > 0):
            return row
        first = row.started_at is None  # before the first turn, the log has nothing that can be left out
        conversation = cached or (Conversation() if first else None)
        state = engine.turns.start_of(row)
        least = 0 if first else state.head
        if conversation is None or not least <= conversation.head <= row.head:
            conversation = await read_conversation(
                tx, session_id, row.head, engine.policy.history_tokens, conversation
            )
        while state.head < row.head:
            after = min(state.head, conversation.head)
            page, _ = await events_within(tx, session_id, after, until=row.head)
            if not page:
                return None  # the session is deleted and its log is being purged
            state = fold((event for event in page if event.sequence > state.head), state)
            for event in page:
                if event.sequence > conversation.head:
                    conversation.feed(event, event.sequence)
        return OpenedSession(row, state, conversation)

    opened = await engine.database.read(body)
    if not isinstance(opened, OpenedSession) and cached is not None:
        engine.conversations.put(session_id, cached)
    return opened


def _needs_runner(row: SessionRow, now: Micros) -> bool:
    """Whether the session has something to do.

    A parked session has nothing to do before its deadline; a superfluous job must not count as a recovery.
    """
    if row.deleted_at is not None:
        return False
    if row.status == "active" and not row.resting:
        return True
    if row.status not in IN_TURN or row.wake_at is None:
        return False
    return row.wake_at <= now or any(each.is_ahead(now) for each in row.parked_calls())
