"""Mutations of what the server does with messages that arrive in the middle of a turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from perdure.app import messages, running_turns, session_ends
from perdure.domain import actions, turn
from perdure.domain.ids import TurnId
from perdure.domain.pending import after_cancel
from perdure.engine import advance

Patch = pytest.MonkeyPatch


def a_queued_message_steers(patch: Patch) -> None:
    patch.setattr(actions, "steering", lambda pending: pending)
    patch.setattr(turn, "queued", lambda pending: ())


def a_model_call_forgets_queued_messages(patch: Patch) -> None:
    patch.setattr(turn, "queued", lambda pending: ())


def a_cancel_forgets_queued_messages(patch: Patch) -> None:
    patch.setattr(turn, "after_cancel", lambda pending, cancelled: ())


def a_cancel_makes_the_session_idle_although_messages_are_queued(patch: Patch) -> None:
    patch.setattr(running_turns, "after_cancel", lambda pending, cancelled: ())


def nobody_works_on_queued_messages_after_a_cancel(patch: Patch) -> None:
    real = session_ends.stop_turn

    async def stop_turn(*given: Any) -> Any:
        events, _ = await real(*given)
        return events, False

    patch.setattr(session_ends, "stop_turn", stop_turn)


def queued_messages_are_in_reverse_order(patch: Patch) -> None:
    def first_of(pending: Any) -> Any:
        return next((each for each in pending if each.queued_at is None), pending[-1])

    patch.setattr(actions, "first_of", first_of)


def the_start_of_a_turn_does_not_have_its_queued_message(patch: Patch) -> None:
    async def queued_message(run: Any, action: Any) -> None:
        return None

    patch.setattr(advance, "_queued_message", queued_message)


def an_interrupting_message_does_not_fence(patch: Patch) -> None:
    real = messages.append

    async def append(tx: Any, row: Any, events: Any, **how: Any) -> Any:
        return await real(tx, row, events, **{**how, "fence": False})

    patch.setattr(messages, "append", append)


def a_finish_ignores_queued_messages(patch: Patch) -> None:
    real = advance.finish_turn

    def finish_turn(run: Any, state: Any) -> Any:
        return real(run, msgspec.structs.replace(state, pending=()))

    patch.setattr(advance, "finish_turn", finish_turn)


def a_cancelled_message_begins_its_turn_again(patch: Patch) -> None:
    patch.setattr(turn, "after_cancel", lambda pending, cancelled: after_cancel(pending, TurnId("")))


BUSY_MUTATIONS: tuple[Callable[[Patch], None], ...] = (
    a_queued_message_steers,
    a_model_call_forgets_queued_messages,
    a_cancel_forgets_queued_messages,
    a_cancel_makes_the_session_idle_although_messages_are_queued,
    nobody_works_on_queued_messages_after_a_cancel,
    queued_messages_are_in_reverse_order,
    the_start_of_a_turn_does_not_have_its_queued_message,
    an_interrupting_message_does_not_fence,
    a_finish_ignores_queued_messages,
    a_cancelled_message_begins_its_turn_again,
)
