"""Mutations of what the server does with parked calls. They take what those in `mutations.py` take."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from perdure.app import callbacks as use
from perdure.app import running_turns
from perdure.capabilities.port import Callback
from perdure.domain import turn
from perdure.domain.calls import Parked
from perdure.domain.events import ToolParkedData
from perdure.engine import advance, deferred, run, tool_calls
from perdure.engine.run import Run
from perdure.store import sessions as rows
from perdure.store.parked_turns import ParkedTurns

Patch = pytest.MonkeyPatch


def a_tool_learns_its_url_before_it_is_stored(patch: Patch) -> None:
    real = deferred.Callbacks.open
    kept: set[asyncio.Task[Callback]] = set()

    async def open_early(self: Any, seconds: float) -> Callback:
        tokens: list[str] = []

        def hash_of_token(token: str) -> str:
            tokens.append(token)
            return use.hash_of_token(token)

        async def store() -> Callback:
            await asyncio.sleep(0.5)
            with pytest.MonkeyPatch.context() as later:
                later.setattr(deferred, "hash_of_token", hash_of_token)
                later.setattr(deferred.secrets, "token_urlsafe", lambda size: word)
                return await real(self, seconds)

        word = deferred.secrets.token_urlsafe(32)
        kept.add(asyncio.create_task(store()))
        self._deadline = self._run.engine.clock.now() + round(seconds * 1_000_000)
        return Callback(f"/{deferred.sign_token(self._run.engine.callback_key, word)}", self._deadline)

    patch.setattr(deferred.Callbacks, "open", open_early)


def only_parked_calls_accept_a_result(patch: Patch) -> None:
    patch.setattr(use, "Started", Parked)


def the_result_of_a_tool_is_kept_although_one_came_from_outside(patch: Patch) -> None:
    patch.setattr(run, "without_overtaken", lambda events, state: events)


def an_outcome_is_kept_although_its_call_got_a_result_before(patch: Patch) -> None:
    """Outcomes are compared with the log only when the run catches up, not when they arrive after that."""
    real = Run._catch_up

    def keep(self: Run, events: Any) -> None:
        self._unlogged = events

    async def catch_up(self: Run) -> None:
        await real(self)
        self._unlogged = run.without_overtaken(self._unlogged, self.state)

    patch.setattr(Run, "unlogged", property(lambda self: self._unlogged, keep))
    patch.setattr(Run, "_catch_up", catch_up)


def a_callback_can_be_answered_again(patch: Patch) -> None:
    async def remove(tx: Any, row: Any) -> None:
        pass

    patch.setattr(use, "remove_callbacks_of_call", remove)


def a_repeated_answer_is_refused(patch: Patch) -> None:
    async def forget(tx: Any, row: Any) -> None:
        pass

    patch.setattr(use, "add_callback", forget)


def a_callback_can_be_answered_late(patch: Patch) -> None:
    real = use.callback_by_hash

    async def find(tx: Any, digest: str) -> Any:
        row = await real(tx, digest)
        return None if row is None else msgspec.structs.replace(row, deadline=1 << 60)

    patch.setattr(use, "callback_by_hash", find)


def a_parked_session_does_not_rest(patch: Patch) -> None:
    async def rest(self: Run) -> bool:
        return await self.commit(())

    patch.setattr(Run, "rest", rest)


def a_resting_session_never_wakes(patch: Patch) -> None:
    real = rows._row_after

    def row_after(row: Any, *rest: Any, **how: Any) -> Any:
        after = real(row, *rest, **how)
        return msgspec.structs.replace(after, resting=max(row.resting, after.resting))

    patch.setattr(rows, "_row_after", row_after)


def a_cancel_leaves_callbacks(patch: Patch) -> None:
    async def remove(tx: Any, session_id: Any, turn_id: Any) -> None:
        pass

    patch.setattr(running_turns, "remove_callbacks_of_turn", remove)


def a_turn_goes_on_and_forgets_its_callbacks(patch: Patch) -> None:
    patch.setattr(advance, "in_background", lambda *about, withdrawn: None)


def a_crash_forgets_callbacks(patch: Patch) -> None:
    async def promised(*about: Any) -> None:
        return None

    patch.setattr(tool_calls, "promised", promised)


def a_parked_call_has_no_deadline(patch: Patch) -> None:
    def tool_parked(state: Any, event: Any, head: int) -> Any:
        parked = Parked("callback", 1 << 60)
        return turn._with_status(state, event.read(ToolParkedData).tool_call_id, parked)

    patch.setattr(turn, "_HANDLERS", {**turn._HANDLERS, ToolParkedData.kind: tool_parked})


def a_message_ends_the_wait_without_a_result(patch: Patch) -> None:
    def is_callback(call: Any) -> bool:
        return False

    patch.setattr("perdure.engine.turn_events.is_callback", is_callback)
    patch.setattr(deferred, "is_callback", is_callback)


def an_answer_wakes_nobody(patch: Patch) -> None:
    patch.setattr(
        use, "_complete", lambda app, tx, row, events, now: rows.append(tx, row, events, now=now, rests=True)
    )


def a_kept_turn_hides_what_came_after(patch: Patch) -> None:
    real = ParkedTurns.start_of

    def start_of(self: ParkedTurns, row: Any) -> Any:
        state = real(self, row)
        return msgspec.structs.replace(state, head=row.head) if isinstance(state, turn.Calling) else state

    patch.setattr(ParkedTurns, "start_of", start_of)


MUTATIONS = (
    a_tool_learns_its_url_before_it_is_stored,
    only_parked_calls_accept_a_result,
    the_result_of_a_tool_is_kept_although_one_came_from_outside,
    an_outcome_is_kept_although_its_call_got_a_result_before,
    a_callback_can_be_answered_again,
    a_repeated_answer_is_refused,
    a_callback_can_be_answered_late,
    a_parked_session_does_not_rest,
    a_resting_session_never_wakes,
    a_cancel_leaves_callbacks,
    a_turn_goes_on_and_forgets_its_callbacks,
    a_crash_forgets_callbacks,
    a_parked_call_has_no_deadline,
    a_message_ends_the_wait_without_a_result,
    an_answer_wakes_nobody,
    a_kept_turn_hides_what_came_after,
)
