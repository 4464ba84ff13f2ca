"""The turn: its fold, and what comes next."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from perdure.domain.events import ENDED_TURN, Event, NewEvent
from perdure.domain.sessions import Projection, project
from perdure.domain.turn import (
    Action,
    AskApproval,
    AwaitClient,
    CallModel,
    CallState,
    ExpireCalls,
    Fail,
    Finish,
    Nothing,
    RunTools,
    StartTurn,
    TurnRules,
    TurnState,
    fold,
    next_action,
)
from tests.unit.logs import CLIENT, MOVES, RULES, Writer, finish, logs, stored

PENDING = (("message_2", "turn_1", "And?"),)
RUNNING = TurnState(turn_id="turn_1", started=True, iteration=1, llm_calls=1)
GATED = TurnRules(client_tools=frozenset({CLIENT}), gated=frozenset({"drop"}))


def _call(name: str, **how: object) -> CallState:
    return replace(CallState(f"call_{name}", name, {}), **how)


@given(logs(), st.data())
def test_folding_a_log_in_batches_gives_the_state_that_folding_it_at_once_gives(
    log: list[NewEvent], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(log)), max_size=4)))
    state = TurnState()
    for begin, end in zip([0, *cuts], [*cuts, len(log)], strict=True):
        state = fold(log[begin:end], state)
    assert state == fold(log)


@given(logs())
def test_a_stored_log_folds_to_the_same_state_as_the_events_that_were_appended(log: list[NewEvent]) -> None:
    assert fold(stored(log)) == fold(log)


@given(logs())
def test_the_head_counts_the_events(log: list[NewEvent]) -> None:
    assert fold(log).head == len(log)


@given(logs())
def test_the_events_since_the_last_rest_are_all_that_a_runner_has_to_read(log: list[NewEvent]) -> None:
    projection = project(Projection(), log)
    whole, part = fold(log), fold(log[projection.turn_after :], TurnState(head=projection.turn_after))
    assert part == whole


@given(logs(whole=True))
def test_there_is_something_to_do_exactly_while_the_session_is_active(log: list[NewEvent]) -> None:
    projection, state = project(Projection(), log), fold(log)
    status, action = projection.status, next_action(state, RULES, log[-1].ts if log else 0)
    assert isinstance(action, Nothing) == (status != "active")


@given(logs())
def test_the_row_names_the_turn_that_runs(log: list[NewEvent]) -> None:
    state = fold(log)
    if state.started:
        assert project(Projection(), log).turn_id == state.turn_id


@given(st.data())
def test_every_turn_that_begins_ends_once_whatever_happens_on_the_way(data: st.DataObject) -> None:
    writer = Writer(data.draw)
    for name in data.draw(st.lists(st.sampled_from(MOVES), max_size=30)):
        writer.move(name)
    finish(writer)
    begun = Counter(event.context.turn_id for event in writer.events if event.type == "turn.started")
    ended = Counter(event.context.turn_id for event in writer.events if event.type in ENDED_TURN)
    assert max(begun.values(), default=1) == max(ended.values(), default=1) == 1
    assert begun.keys() <= ended.keys()
    assert project(Projection(), writer.events).status in {"idle", "started"}


@given(st.data())
def test_every_message_is_seen_by_a_model_call_or_covered_by_the_end_of_its_turn(data: st.DataObject) -> None:
    writer = Writer(data.draw)
    for name in data.draw(st.lists(st.sampled_from(MOVES), max_size=30)):
        writer.move(name)
    finish(writer)
    waiting: set[str | None] = set()
    for event in writer.events:
        if event.type == "input.message" and event.context.input_message_id is not None:
            waiting.add(event.context.input_message_id)
        elif event.type in {"reason.started", "turn.cancelled"}:
            waiting.clear()
        elif event.type in ENDED_TURN:
            waiting.discard(event.context.input_message_id)
        elif event.type == "session.idled":
            assert not waiting
    assert not waiting


@pytest.mark.parametrize(
    ("state", "action"),
    [
        (TurnState(), Nothing()),
        (TurnState(pending=PENDING), StartTurn("turn_1", "message_2", "And?")),
        (replace(RUNNING, reasoning=True), CallModel(resumed=True)),
        (RUNNING, CallModel(resumed=False)),
        (replace(RUNNING, answered=True), Finish()),
        (replace(RUNNING, answered=True, pending=PENDING), CallModel(resumed=False)),
        (
            replace(RUNNING, iteration=200),
            Fail("max_iterations", "The turn reached its limit of 200 model calls."),
        ),
        (replace(RUNNING, iteration=200, answered=True), Finish()),
        (replace(RUNNING, failure=("provider_auth", "no")), Fail("provider_auth", "no")),
        (replace(RUNNING, failure=("provider_auth", "no"), pending=PENDING), Fail("provider_auth", "no")),
        (replace(RUNNING, calls=(_call("look", done=True),)), CallModel(resumed=False)),
    ],
)
def test_a_turn_goes_from_message_to_answer(state: TurnState, action: Action) -> None:
    assert next_action(state, TurnRules(), 0) == action


LOOK, ASK, DROP = _call("look"), _call(CLIENT), _call("drop")
ASKED, QUESTION = replace(ASK, requested=True), replace(DROP, approval="requested")


@pytest.mark.parametrize(
    ("calls", "more", "action"),
    [
        ((LOOK, ASK), {}, RunTools((LOOK,))),
        ((replace(LOOK, started=True),), {}, RunTools((replace(LOOK, started=True),))),
        ((replace(LOOK, done=True), ASK), {}, AwaitClient((ASK,))),
        ((ASKED,), {"expires_at": 10}, Nothing()),
        ((ASKED,), {"expires_at": 5}, ExpireCalls((ASKED,))),
        ((ASKED,), {"expires_at": 10, "pending": PENDING}, ExpireCalls((ASKED,))),
        ((ASK, DROP), {"pending": PENDING}, ExpireCalls((ASK, DROP))),
        ((LOOK, DROP), {}, RunTools((LOOK,))),
        ((DROP, ASK), {}, AskApproval((DROP,))),
        ((QUESTION,), {"expires_at": 10}, Nothing()),
        ((QUESTION,), {"expires_at": 5}, ExpireCalls((QUESTION,))),
        ((replace(DROP, approval="allowed"), ASK), {}, RunTools((replace(DROP, approval="allowed"),))),
        ((_call("unknown"),), {}, RunTools((_call("unknown"),))),
    ],
)
def test_server_tools_run_first_then_leave_is_asked_then_the_client(
    calls: tuple[CallState, ...], more: dict[str, object], action: Action
) -> None:
    assert next_action(replace(RUNNING, calls=calls, **more), GATED, 5) == action


def test_a_message_that_was_to_steer_a_turn_which_failed_begins_one_with_another_id() -> None:
    state = fold([], replace(RUNNING, pending=PENDING, failure=("provider_auth", "no")))
    writer = Writer(lambda strategy: None)
    writer.state = state
    writer.act(next_action(state, RULES, 0))
    assert next_action(writer.state, RULES, 0) == StartTurn("", "message_2", "And?")


def test_what_a_client_writes_into_its_metadata_does_not_make_a_cancel_of_its_message() -> None:
    writer = Writer(lambda strategy: None)
    message = writer.message({"cancel_notice": True})
    events: list[Event] = stored(writer.events)
    assert project(Projection(), writer.events).status == "active"
    assert next_action(fold(events), RULES, 0) == StartTurn(
        writer.events[0].context.turn_id or "", message.id, "Hello?"
    )
