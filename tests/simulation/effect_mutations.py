"""Mutations of keys, verified outcomes and steps, each of which breaks promise P10; as in `mutations.py`."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from perdure.domain import turn
from perdure.domain.effects import NOT_DONE
from perdure.domain.steps import Started
from perdure.engine import interrupted, steps, tool_calls, turn_events
from perdure.engine.steps import Steps

Patch = pytest.MonkeyPatch


def keys_name_the_place_in_the_answer_only(patch: Patch) -> None:
    for module in (turn_events, tool_calls, steps):
        patch.setattr(module, "key_of", lambda session_id, call: f"effect_{call.index}")


def each_attempt_has_a_new_key(patch: Patch) -> None:
    numbers = itertools.count()
    patch.setattr(tool_calls, "key_of", lambda *place: f"effect_{next(numbers)}")


def a_tool_is_not_asked_before_it_runs_again(patch: Patch) -> None:
    async def settle(run: Any, tool: Any, call: Any, context: Any) -> Any:
        if tool is not None and tool.verify is not None:
            return None
        return await real(run, tool, call, context)

    real = tool_calls.settle
    patch.setattr(tool_calls, "settle", settle)


def not_done_counts_at_once(patch: Patch) -> None:
    async def ask(run: Any, name: str, verify: Any, began_at: int, timeout: float) -> Any:
        return await interrupted._ask(run, name, verify)

    patch.setattr(interrupted, "ask_until_late", ask)
    patch.setattr(steps, "ask_until_late", ask)


def an_unknown_outcome_counts_as_not_done(patch: Patch) -> None:
    patch.setattr(Started, "can_continue", property(lambda self: bool(self.steps)))
    real = Steps._found

    async def found(self: Steps, step: Any, verify: Any) -> Any:
        return None if verify is None else await real(self, step, verify)

    patch.setattr(Steps, "_found", found)


def finished_steps_are_forgotten(patch: Patch) -> None:
    real = Steps.__init__

    def init(self: Steps, *arguments: Any) -> None:
        real(self, *arguments)
        self._earlier = ()

    patch.setattr(Steps, "__init__", init)


def the_log_forgets_finished_steps(patch: Patch) -> None:
    real = turn.started_after

    def after(status: Started, data: Any, ts: int) -> Started:
        ended = data.kind == "tool.step" and data.status != "started"
        return status if ended else real(status, data, ts)

    patch.setattr(turn, "started_after", after)


def a_step_runs_before_its_start_is_logged(patch: Patch) -> None:
    real = Steps._log

    async def log(self: Steps, data: Any) -> None:
        if data.status != "started":
            started = msgspec.structs.replace(data, status="started", result=None, effect_key=self._key())
            await real(self, started)
            await real(self, data)

    patch.setattr(Steps, "_log", log)


def lost_outcomes_count_as_failures(patch: Patch) -> None:
    real = tool_calls.failure_of

    def failure(*arguments: Any) -> Any:
        return msgspec.structs.replace(real(*arguments), unknown=False)

    patch.setattr(tool_calls, "failure_of", failure)


def a_tool_that_found_nothing_is_done(patch: Patch) -> None:
    real = interrupted._ask

    async def ask(*arguments: Any) -> Any:
        found = await real(*arguments)
        return msgspec.structs.replace(found, outcome="done") if found == NOT_DONE else found

    patch.setattr(interrupted, "_ask", ask)


def a_call_with_an_open_callback_never_goes_on(patch: Patch) -> None:
    async def settle(run: Any, tool: Any, call: Any, context: Any) -> Any:
        if await tool_calls.promised(run, run.phase(turn.Calling), call) is not None:
            raise interrupted.Interrupted("mutated")
        return await real(run, tool, call, context)

    real = tool_calls.settle
    patch.setattr(tool_calls, "settle", settle)


EFFECT_MUTATIONS: tuple[Callable[[Patch], None], ...] = (
    keys_name_the_place_in_the_answer_only,
    each_attempt_has_a_new_key,
    a_tool_is_not_asked_before_it_runs_again,
    not_done_counts_at_once,
    an_unknown_outcome_counts_as_not_done,
    finished_steps_are_forgotten,
    the_log_forgets_finished_steps,
    a_step_runs_before_its_start_is_logged,
    lost_outcomes_count_as_failures,
    a_tool_that_found_nothing_is_done,
    a_call_with_an_open_callback_never_goes_on,
)
