"""Mutations of the server, each of which breaks a promise. The simulation is worth as much as it detects.

Each takes pytest's `monkeypatch`, which undoes the mutation afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from perdure.app import session_ends
from perdure.domain import actions, history, turn
from perdure.domain.actions import Finish, RunTools
from perdure.domain.errors import Fenced
from perdure.domain.events import ENDED_TURN, InputMessageData, SessionIdledData, TurnCancelledData
from perdure.domain.turn import Answered, Calling, Idle, TurnState
from perdure.engine import advance, attempt, outages, run, tool_calls, turn_events
from perdure.engine.attempt import Attempt
from perdure.engine.run import Run
from perdure.store import sessions as rows
from perdure.store.queue import LocalQueue
from perdure.worker.sweep import Sweep

Patch = pytest.MonkeyPatch


def appends_do_not_expect_a_head(patch: Patch) -> None:
    patch.setattr(rows, "_APPEND", rows._APPEND.replace("AND head = ?", "AND ? IS NOT NULL"))


def appends_do_not_expect_an_epoch(patch: Patch) -> None:
    patch.setattr(rows, "_APPEND", rows._APPEND.replace("AND epoch = ?", "AND ? IS NOT NULL"))


def appends_number_from_the_log_and_overwrite(patch: Patch) -> None:
    patch.setattr(
        rows, "_INSERT_EVENTS", rows._INSERT_EVENTS.replace("INSERT INTO", "INSERT OR REPLACE INTO")
    )
    patch.setattr(
        rows, "_APPEND", rows._APPEND.replace("AND head = ? AND epoch = ?", "AND ? + ? IS NOT NULL")
    )


def a_claim_does_not_raise_the_epoch(patch: Patch) -> None:
    async def claim(tx: Any, row: Any, **how: bool) -> Any:
        return row

    patch.setattr(attempt, "claim", claim)


def a_first_append_does_not_claim(patch: Patch) -> None:
    real = outages.append

    async def append(tx: Any, row: Any, events: Any, *, claim: bool, **how: Any) -> Any:
        return await real(tx, row, events, **how)

    patch.setattr(outages, "append", append)


def a_cancel_does_not_fence(patch: Patch) -> None:
    real = session_ends.append

    async def append(*given: Any, **more: Any) -> Any:
        return await real(*given, **{**more, "fence": False})

    patch.setattr(session_ends, "append", append)


def tools_run_before_their_announcement_is_committed(patch: Patch) -> None:
    real = turn_events.begin_tools

    def begin_tools(run: Run, agent: Any, action: RunTools) -> Any:
        for call in action.calls:
            if call.id not in run.tools:
                run.announced.add(call.id)
                running = tool_calls.run_call(run, agent, action.state, call, None)
                run.tools[call.id] = asyncio.create_task(running)
        return real(run, agent, action)

    patch.setattr(advance, "begin_tools", begin_tools)


def every_tool_is_treated_as_replayable(patch: Patch) -> None:
    real = turn_events.ToolStartedData
    patch.setattr(
        turn_events, "ToolStartedData", lambda call, name, replayable, **more: real(call, name, True, **more)
    )


def every_started_call_is_treated_as_started_by_this_run(patch: Patch) -> None:
    real = Attempt.open

    async def open_run(self: Attempt) -> Run | None:
        opened = await real(self)
        if opened is not None and isinstance(opened.state, Calling):
            opened.announced.update(call.id for call in opened.state.calls)
        return opened

    patch.setattr(Attempt, "open", open_run)


def a_finish_forgets_pending_messages(patch: Patch) -> None:
    real = actions.next_action

    def next_action(state: TurnState, *rest: Any) -> Any:
        if isinstance(state, Answered):
            return Finish(msgspec.structs.replace(state, pending=()))
        return real(state, *rest)

    patch.setattr(advance, "next_action", next_action)


def a_new_turn_forgets_pending_messages(patch: Patch) -> None:
    real = turn._turn_ended
    ended = {kind: lambda *change: msgspec.structs.replace(real(*change), pending=()) for kind in ENDED_TURN}
    patch.setattr(turn, "_HANDLERS", {**turn._HANDLERS, **ended})


def a_cancel_leaves_pending_messages(patch: Patch) -> None:
    def ended(state: TurnState, event: Any, head: int) -> TurnState:
        return Idle(pending=state.pending, controls=state.controls)

    kinds = (TurnCancelledData.kind, SessionIdledData.kind)
    patch.setattr(turn, "_HANDLERS", {**turn._HANDLERS, **dict.fromkeys(kinds, ended)})


def jobs_are_lost(patch: Patch) -> None:
    async def enqueue(self: LocalQueue, tx: Any, job: Any) -> None:
        pass

    patch.setattr(LocalQueue, "enqueue", enqueue)


def no_sweep_runs(patch: Patch) -> None:
    async def once(self: Sweep, **how: int) -> int:
        return 0

    patch.setattr(Sweep, "once", once)


def a_turn_ends_without_making_the_session_idle(patch: Patch) -> None:
    real = turn_events.finish_turn

    def finish_turn(run: Run, state: Any) -> Any:
        return [event for event in real(run, state) if not isinstance(event.data, SessionIdledData)]

    patch.setattr(advance, "finish_turn", finish_turn)


def outcomes_are_dropped_when_the_log_has_moved(patch: Patch) -> None:
    real = Run._catch_up

    async def catch_up(self: Run) -> None:
        await real(self)
        self.unlogged = []

    patch.setattr(Run, "_catch_up", catch_up)


def a_runner_does_not_check_its_claim(patch: Patch) -> None:
    async def why(tx: Any, row: Any) -> Any:
        return rows.StaleHead()

    async def catch_up(self: Run) -> None:
        row = await self.engine.database.read(lambda tx: rows.look_session(tx, self.row.id))
        if row.deleted_at is not None:
            raise Fenced  # or it would try again for ever
        events, _ = await self.engine.database.read(lambda tx: run.events_within(tx, row.id, self.state.head))
        self._apply(events, events)
        self.row = msgspec.structs.replace(row, head=self.state.head)

    patch.setattr(rows, "refusal", why)
    patch.setattr(Run, "_catch_up", catch_up)


def results_are_in_the_order_of_their_arrival(patch: Patch) -> None:
    def flush(self: history.Conversation, now: int) -> None:
        for message in reversed(self._results.values()):
            self._add(message, self._begin)
        self._calls = ()
        self._results.clear()
        for message, sequence in self._waiting:
            self._add(message, sequence - 1)
        self._waiting.clear()

    patch.setattr(history.Conversation, "_flush", flush)


def messages_are_in_the_order_of_the_log(patch: Patch) -> None:
    real = history.Conversation.feed

    def feed(self: history.Conversation, event: Any, *rest: Any) -> None:
        real(self, event, *rest)
        if event.type == InputMessageData.kind:
            self._flush(event.ts)

    patch.setattr(history.Conversation, "feed", feed)


def a_summary_replaces_one_message_too_many(patch: Patch) -> None:
    real = history.Conversation.split

    def split(self: history.Conversation, keep: int) -> Any:
        parts = real(self, keep)
        later = [] if parts is None else [entry.begin for entry in self._entries if entry.begin > parts[1]]
        return (parts[0], later[0]) if parts is not None and later else parts

    patch.setattr(history.Conversation, "split", split)


def the_projection_forgets_usage(patch: Patch) -> None:
    patch.setattr(
        rows,
        "_APPEND",
        rows._APPEND.replace("usage = ?", "usage = CASE WHEN ? IS NULL THEN usage ELSE usage END"),
    )


def an_append_writes_the_title_back(patch: Patch) -> None:
    real = outages.append

    async def append(tx: Any, row: Any, events: Any, **how: Any) -> Any:
        await tx.run("UPDATE sessions SET title = ? WHERE id = ?", row.title, row.id)
        return await real(tx, row, events, **how)

    patch.setattr(outages, "append", append)


def turns_are_sealed_early(patch: Patch) -> None:
    real = attempt.claim

    async def claim(tx: Any, row: Any, **how: bool) -> Any:
        return msgspec.structs.replace(await real(tx, row, **how), recoveries=4)

    patch.setattr(attempt, "claim", claim)


def superfluous_jobs_take_sessions_over(patch: Patch) -> None:
    real = Attempt.__init__

    def init(self: Attempt, *args: Any, **how: Any) -> None:
        real(self, *args, **how)
        self._takes_over = True

    patch.setattr(Attempt, "__init__", init)


MUTATIONS: tuple[Callable[[Patch], None], ...] = (
    appends_do_not_expect_a_head,
    appends_do_not_expect_an_epoch,
    appends_number_from_the_log_and_overwrite,
    a_claim_does_not_raise_the_epoch,
    a_first_append_does_not_claim,
    a_cancel_does_not_fence,
    tools_run_before_their_announcement_is_committed,
    every_tool_is_treated_as_replayable,
    every_started_call_is_treated_as_started_by_this_run,
    a_finish_forgets_pending_messages,
    a_new_turn_forgets_pending_messages,
    a_cancel_leaves_pending_messages,
    jobs_are_lost,
    no_sweep_runs,
    a_turn_ends_without_making_the_session_idle,
    outcomes_are_dropped_when_the_log_has_moved,
    a_runner_does_not_check_its_claim,
    results_are_in_the_order_of_their_arrival,
    messages_are_in_the_order_of_the_log,
    a_summary_replaces_one_message_too_many,
    the_projection_forgets_usage,
    an_append_writes_the_title_back,
    turns_are_sealed_early,
    superfluous_jobs_take_sessions_over,
)
