"""Mutations of how the server checks typed results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from perdure.domain import actions, history, turn
from perdure.domain.events import OutputRejectedData
from perdure.engine import advance, model_call
from perdure.engine.outputs import Verdict

Patch = pytest.MonkeyPatch


def answers_are_not_checked(patch: Patch) -> None:
    patch.setattr(model_call, "typed_output", lambda run, agent: None)


def every_answer_is_accepted(patch: Patch) -> None:
    async def judge(run: Any, output: Any, response: Any) -> Verdict:
        return Verdict(0)

    patch.setattr(model_call, "judge", judge)


def a_turn_completes_without_its_value(patch: Patch) -> None:
    real = advance.finish_turn
    patch.setattr(
        advance, "finish_turn", lambda run, state: real(run, msgspec.structs.replace(state, output=None))
    )


def a_rejected_answer_completes_the_turn(patch: Patch) -> None:
    patch.delitem(turn._HANDLERS, OutputRejectedData.kind)


def the_model_is_not_told_what_was_wrong(patch: Patch) -> None:
    patch.delitem(history.Conversation._handlers, OutputRejectedData.kind)


def the_model_may_correct_itself_once_more(patch: Patch) -> None:
    patch.setattr(actions, "MAX_CORRECTIONS", 3)


def the_model_may_correct_itself_once_only(patch: Patch) -> None:
    patch.setattr(actions, "MAX_CORRECTIONS", 1)


OUTPUT_MUTATIONS: tuple[Callable[[Patch], None], ...] = (
    answers_are_not_checked,
    every_answer_is_accepted,
    a_turn_completes_without_its_value,
    a_rejected_answer_completes_the_turn,
    the_model_is_not_told_what_was_wrong,
    the_model_may_correct_itself_once_more,
    the_model_may_correct_itself_once_only,
)
