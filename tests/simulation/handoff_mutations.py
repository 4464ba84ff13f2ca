"""Mutations of handoffs and participants: a handoff that happens twice, and the wrong agent at work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.app import handoffs, messages
from perdure.domain import turn
from perdure.domain.events import SessionHandedOffData
from perdure.engine import advance, turn_events

Patch = pytest.MonkeyPatch


def a_handoff_is_not_looked_for(patch: Patch) -> None:
    real = handoffs._find_place

    async def find(tx: Any, context: Any, allowed: Any, agent: str) -> Any:
        place = await real(tx, context, allowed, agent)
        return replace(place, earlier=None)

    patch.setattr(handoffs, "_find_place", find)


def calls_become_the_next_agents(patch: Patch) -> None:
    real = turn._HANDLERS[SessionHandedOffData.kind]

    def handed(state: Any, event: Any, head: int) -> Any:
        after = real(state, event, head)
        return replace(after, made_by=None) if isinstance(after, turn.Calling) else after

    patch.setitem(turn._HANDLERS, SessionHandedOffData.kind, handed)


def the_next_model_call_is_the_old_agents(patch: Patch) -> None:
    real = advance._do_with_layers

    async def do(run: Any, action: Any) -> None:
        before = run.prepared
        await real(run, action)
        run.prepared = run.prepared or before

    patch.setattr(advance, "_do_with_layers", do)


def a_turn_forgets_whom_it_is_for(patch: Patch) -> None:
    real = turn_events.first_of
    patch.setattr(turn_events, "first_of", lambda pending: replace(real(pending), addressed=None))


def messages_are_for_the_sessions_agent(patch: Patch) -> None:
    async def nobody(*arguments: Any) -> None:
        return None

    patch.setattr(messages, "addressee", nobody)


def a_participant_goes_on_after_it_handed_off(patch: Patch) -> None:
    def handed(state: Any, event: Any, head: int) -> Any:
        return state

    patch.setitem(turn._HANDLERS, SessionHandedOffData.kind, handed)


HANDOFF_MUTATIONS: tuple[Callable[[Patch], None], ...] = (
    a_handoff_is_not_looked_for,
    calls_become_the_next_agents,
    the_next_model_call_is_the_old_agents,
    a_turn_forgets_whom_it_is_for,
    messages_are_for_the_sessions_agent,
    a_participant_goes_on_after_it_handed_off,
)
