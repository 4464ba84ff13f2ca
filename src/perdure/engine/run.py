"""A run: one runner's hold on one session, from its claim until the session is idle or parked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from perdure.domain.errors import Fenced, StaleHead
from perdure.domain.events import Event, EventContext, NewEvent
from perdure.domain.history import Conversation
from perdure.domain.ids import span_of
from perdure.domain.messages import Controls
from perdure.domain.turn import TurnState, fold
from perdure.engine.assemble import Assembly, ModelChoice
from perdure.engine.histories import read_conversation
from perdure.engine.services import Engine
from perdure.store.bus import Appended
from perdure.store.database import Tx
from perdure.store.events import events_after
from perdure.store.sessions import SessionRow, append, claim, look_session

PAGE = 1000


class Run:
    """What the runner knows: the row and state as of the head, and the outcomes that are not in the log yet (`facts`)."""

    def __init__(self, engine: Engine, row: SessionRow, state: TurnState, conversation: Conversation, claimed: bool) -> None:
        self.engine = engine
        self.row = row
        self.state = state
        self.conversation = conversation
        self.claimed = claimed
        self.facts: list[NewEvent] = []
        self.tools: dict[str, asyncio.Task[list[NewEvent]]] = {}
        self.fresh: set[str] = set()
        """Calls that this very runner has announced, and so may run."""
        self.prepared: tuple[Assembly, ModelChoice] | None = None
        self.controls: Controls | None = None

    @property
    def ahead(self) -> TurnState:
        """The state once the facts are in the log."""
        return fold(self.facts, self.state)

    async def commit(self, opening: Sequence[NewEvent]) -> bool:
        """Append the facts and the events that open the next step, in one batch.

        Returns:
            False when the log had moved: the run has caught up, the facts are kept, and the next step must be decided again.

        Raises:
            Fenced: the session is somebody else's now.
        """
        batch = [*self.facts, *opening]
        if not batch:
            return True
        row, fresh, now = self.row, not self.claimed, self.engine.clock.now()
        try:
            self.row, stored = await self.engine.database.write(lambda tx: append(tx, row, batch, now=now, claim=fresh))
        except StaleHead:
            await self._catch_up()
            return False
        if fresh:
            self.claimed = True
            self.engine.leases[self.row.id] = self.row.epoch
        self.facts = []
        self._take_in(batch)
        self.engine.bus.publish(Appended(self.row.id, self.row.head, stored))
        return True

    def _take_in(self, events: Sequence[NewEvent] | Sequence[Event]) -> None:
        sequence = self.state.head
        for event in events:
            sequence += 1
            self.conversation.feed(event, sequence)
            if event.type == "input.message":
                self.controls = event.decoded().message.controls
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
        self._take_in(events)
        self.row = msgspec.structs.replace(found, head=self.state.head)

    # --- contexts and spans -------------------------------------------------

    def context(self, state: TurnState, span: str, parent: str | None, exec_id: str | None = None) -> EventContext:
        """The context of an event of this turn."""
        return EventContext(state.turn_id, state.input_message_id, exec_id, state.turn_id, span, parent)

    def turn_context(self, state: TurnState) -> EventContext:
        return self.context(state, span_of(state.turn_id or ""), None)

    def reason_context(self, state: TurnState) -> EventContext:
        exec_id = state.exec_id or ""
        return self.context(state, span_of(exec_id), span_of(state.turn_id or ""), exec_id)

    def generation_context(self, state: TurnState) -> EventContext:
        exec_id = state.exec_id or ""
        return self.context(state, span_of(exec_id, "generation"), span_of(exec_id), exec_id)

    def act_context(self, state: TurnState) -> EventContext:
        exec_id = state.exec_id or ""
        return self.context(state, span_of(exec_id, "act"), span_of(state.turn_id or ""), exec_id)

    def tool_context(self, state: TurnState, call_id: str) -> EventContext:
        exec_id = state.exec_id or ""
        return self.context(state, span_of(exec_id, call_id), span_of(exec_id, "act"), exec_id)


class Opened(Struct):
    row: SessionRow
    events: list[Event]
    conversation: Conversation


async def open_run(engine: Engine, session_id: str) -> Run | None:
    """Take hold of a session, or None when there is nothing to do in it.

    A turn that has not begun is claimed by its first append. One that has begun is claimed here, before anything is done:
    whoever ran it before can append nothing any more.
    """
    held = engine.histories.take(session_id)

    async def body(tx: Tx) -> Opened | None:
        row = await look_session(tx, session_id)
        if row is None or row.deleted_at is not None or row.status not in ("active", "waiting_for_tool_results"):
            return None
        events: list[Event] = []
        after = row.turn_after
        while after < row.head:
            page = await events_after(tx, session_id, after, limit=PAGE, until=row.head)
            if not page:
                break
            events.extend(page)
            after = page[-1].sequence
        conversation = await read_conversation(tx, session_id, row.head, engine.policy.history_tokens, held)
        return Opened(row, events, conversation)

    opened = await engine.database.read(body)
    if opened is None:
        if held is not None:
            engine.histories.keep(session_id, held)
        return None
    row = opened.row
    state = fold(opened.events, TurnState(head=row.turn_after))
    if state.head != row.head:
        return None  # the log grew between the two reads: whoever appended has woken a runner, or the sweep will
    begun = state.started
    if begun:
        row = await engine.database.write(lambda tx: claim(tx, row))
        engine.leases[row.id] = row.epoch
    run = Run(engine, row, state, opened.conversation, claimed=begun)
    for event in opened.events:
        if event.type == "input.message":
            run.controls = event.decoded().message.controls
    return run
