"""The turn: its fold, and what comes next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from perdure.domain.actions import (
    MAX_INTERRUPTIONS,
    Action,
    AskApproval,
    AwaitClient,
    CallModel,
    ExpireCalls,
    Fail,
    Finish,
    Nothing,
    RunTools,
    StartTurn,
    TurnRules,
    next_action,
)
from perdure.domain.calls import ALLOWED, CallState, Done, Parked
from perdure.domain.events import ENDED_TURN, EVENT_DATA, Event, InputMessageData, NewEvent
from perdure.domain.ids import event_id
from perdure.domain.messages import Controls
from perdure.domain.pending import PendingMessage, schema_of, steering
from perdure.domain.projection import Projection, project
from perdure.domain.steps import Started
from perdure.domain.turn import (
    Answered,
    Calling,
    Failed,
    Idle,
    Ready,
    Reasoning,
    RunningTurn,
    TurnState,
    fold,
)
from perdure.domain.turn_totals import Turn
from tests.unit.logs import CLIENT, MOVES, RULES, Writer, finish, logs, stored

PENDING = (PendingMessage("message_2", "turn_1", "And?"),)
TURN = Turn("turn_1", "message_1", "Hello?", 0, iterations=1, llm_calls=1)
READY = Ready(turn=TURN)
REASONING = Reasoning(turn=TURN, exec_id="exec_1", started_at=0, prompt_through=3)
CALLING = Calling(turn=TURN, exec_id="exec_1", calls=())
ANSWERED = Answered(turn=TURN, message_id="message_3", preview="So.")
FAILED = Failed(turn=TURN, code="provider_auth", message="no")
GATED = TurnRules(client_tools=frozenset({CLIENT}), gated=frozenset({"drop"}))


def _call(name: str, **how: object) -> CallState:
    return replace(CallState(f"call_{name}", name, {}), **how)


def _at_the_limit(state: RunningTurn) -> RunningTurn:
    return replace(state, turn=replace(TURN, iterations=200))


@given(logs(), st.data())
def test_folding_a_log_in_batches_gives_the_same_state_as_folding_it_at_once(
    log: list[NewEvent], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(log)), max_size=4)))
    state: TurnState = Idle()
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
def test_a_runner_only_has_to_read_the_events_since_the_session_was_last_idle(log: list[NewEvent]) -> None:
    projection = project(Projection(), log)
    whole, part = fold(log), fold(log[projection.turn_after :], Idle(head=projection.turn_after))
    assert part == whole


@given(logs(whole=True))
def test_there_is_something_to_do_while_the_session_is_active_unless_all_is_parked(
    log: list[NewEvent],
) -> None:
    projection, state = project(Projection(), log), fold(log)
    action = next_action(state, RULES, log[-1].ts if log else 0)
    idle = projection.status != "active" or _waits_for_callbacks(state, projection)
    assert isinstance(action, Nothing) == idle


def _waits_for_callbacks(state: TurnState, projection: Projection) -> bool:
    """Whether all calls that are left are parked: a session that waits for callbacks alone stays active.

    A message that steers the turn withdraws them, so there is something to do.
    """
    if not isinstance(state, Calling) or steering(state.pending):
        return False
    left = {call.id for call in state.calls if not isinstance(call.status, Done)}
    return bool(left) and left == {call.tool_call_id for call in projection.parked}


@given(logs())
def test_the_row_names_the_running_turn(log: list[NewEvent]) -> None:
    state = fold(log)
    if not isinstance(state, Idle):
        assert project(Projection(), log).turn_id == state.turn.id


@given(st.data())
def test_every_turn_that_begins_ends_exactly_once(data: st.DataObject) -> None:
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


def _steered(state: RunningTurn) -> RunningTurn:
    return replace(state, pending=PENDING)


LIMIT = "The turn reached its limit of 200 model calls."
AFTER_TOOLS = replace(CALLING, calls=(_call("look", status=Done(failed=False)),))


@pytest.mark.parametrize(
    ("state", "action"),
    [
        (Idle(), Nothing()),
        (Idle(pending=PENDING), StartTurn("turn_1", "message_2", "And?")),
        (REASONING, CallModel(REASONING, resumed=True)),
        (READY, CallModel(READY, resumed=False)),
        (ANSWERED, Finish(ANSWERED)),
        (_steered(ANSWERED), CallModel(_steered(ANSWERED), resumed=False)),
        (_at_the_limit(READY), Fail(_at_the_limit(READY), "max_iterations", LIMIT)),
        (_at_the_limit(ANSWERED), Finish(_at_the_limit(ANSWERED))),
        (FAILED, Fail(FAILED, "provider_auth", "no")),
        (_steered(FAILED), Fail(_steered(FAILED), "provider_auth", "no")),
        (AFTER_TOOLS, CallModel(AFTER_TOOLS, resumed=False)),
    ],
)
def test_a_turn_goes_from_message_to_answer(state: TurnState, action: Action) -> None:
    assert next_action(state, TurnRules(), 0) == action


@pytest.mark.parametrize(
    ("before", "status", "fails"),
    [
        (MAX_INTERRUPTIONS - 1, Done(failed=True, interrupted=True), True),
        (MAX_INTERRUPTIONS - 2, Done(failed=True, interrupted=True), False),
        (MAX_INTERRUPTIONS, Done(failed=True), False),
        (MAX_INTERRUPTIONS, Done(failed=False), False),
    ],
)
def test_a_turn_fails_whose_tools_are_interrupted_again_and_again(
    before: int, status: Done, fails: bool
) -> None:
    state = replace(CALLING, turn=replace(TURN, interruptions=before), calls=(_call("look", status=status),))
    action = next_action(state, TurnRules(), 0)
    assert isinstance(action, Fail) == fails
    if isinstance(action, Fail):
        assert action.code == "no_progress"


LOOK, ASK, DROP = _call("look"), _call(CLIENT), _call("drop")
STARTED = _call("look", status=Started(replayable=False))
DONE = _call("look", status=Done(failed=False))
ALLOWED_DROP = _call("drop", status=ALLOWED)


def _asked(until: int) -> CallState:
    return _call(CLIENT, status=Parked("client", until))


def _question(until: int) -> CallState:
    return _call("drop", status=Parked("approval", until))


def _ordered(until: int) -> CallState:
    return _call("order", status=Parked("callback", until))


LATE = (PendingMessage("message_9", "turn_1", "It is here.", late=True),)
TimedOut, Withdrawn = partial(ExpireCalls, withdrawn=False), partial(ExpireCalls, withdrawn=True)


@pytest.mark.parametrize(
    ("calls", "pending", "action"),
    [
        ((LOOK, ASK), (), (RunTools, (LOOK,))),
        ((STARTED,), (), (RunTools, (STARTED,))),
        ((DONE, ASK), (), (AwaitClient, (ASK,))),
        ((_asked(10),), (), None),
        ((_asked(5),), (), (TimedOut, (_asked(5),))),
        ((_asked(10),), PENDING, (Withdrawn, (_asked(10),))),
        ((ASK, DROP), PENDING, (Withdrawn, (ASK, DROP))),
        ((LOOK, DROP), (), (RunTools, (LOOK,))),
        ((DROP, ASK), (), (AskApproval, (DROP,))),
        ((_question(10),), (), None),
        ((_question(5),), (), (TimedOut, (_question(5),))),
        ((ALLOWED_DROP, ASK), (), (RunTools, (ALLOWED_DROP,))),
        ((_call("unknown"),), (), (RunTools, (_call("unknown"),))),
        ((_ordered(10),), (), None),
        ((_ordered(10), LOOK), (), (RunTools, (LOOK,))),
        ((_ordered(10), DROP, ASK), (), (AskApproval, (DROP,))),
        ((_ordered(10), _question(10), ASK), (), None),
        ((_ordered(5), _question(10)), (), (TimedOut, (_ordered(5),))),
        ((_ordered(10), _question(10)), PENDING, (Withdrawn, (_ordered(10), _question(10)))),
        ((_ordered(10),), LATE, (Withdrawn, (_ordered(10),))),
        ((_question(10),), LATE, None),
        ((_question(5),), LATE, (TimedOut, (_question(5),))),
        ((_question(10),), (*LATE, *PENDING), (Withdrawn, (_question(10),))),
    ],
)
def test_server_tools_run_first_then_approvals_are_requested_then_client_calls(
    calls: tuple[CallState, ...],
    pending: tuple[PendingMessage, ...],
    action: tuple[Callable[[Calling, tuple[CallState, ...]], Action], tuple[CallState, ...]] | None,
) -> None:
    state = replace(CALLING, calls=calls, pending=pending)
    expected = Nothing() if action is None else action[0](state, action[1])
    assert next_action(state, GATED, 5) == expected


def test_a_message_meant_to_steer_a_failed_turn_begins_a_new_turn() -> None:
    state = _steered(FAILED)
    writer = Writer(lambda strategy: None)
    writer.state = state
    writer.act(next_action(state, RULES, 0))
    assert next_action(writer.state, RULES, 0) == StartTurn(None, "message_2", "And?")


@given(logs())
def test_the_state_has_the_controls_of_the_last_message_until_the_session_is_idle(
    log: list[NewEvent],
) -> None:
    state = fold(log)
    asked = [
        event.data.message
        for event in log
        if isinstance(event.data, InputMessageData) and event.context.input_message_id is not None
    ]
    rests = isinstance(state, Idle) and not state.pending
    assert state.controls == (None if rests else asked[-1].controls)


def test_metadata_of_a_client_cannot_make_its_message_a_cancel_notice() -> None:
    writer = Writer(lambda strategy: None)
    message = writer.message({"cancel_notice": True})
    events: list[Event] = stored(writer.events)
    assert project(Projection(), writer.events).status == "active"
    assert next_action(fold(events), RULES, 0) == StartTurn(
        writer.events[0].context.turn_id or "", message.id, "Hello?"
    )


def _typed(writer: Writer, schema: dict[str, object] | None) -> None:
    """A message arrives that sets this schema."""
    message = writer.message()
    controls = None if schema is None else Controls(output_schema=schema)
    writer.events[-1] = NewEvent(
        InputMessageData(replace(message, controls=controls)), writer.events[-1].context, writer.now
    )
    writer.state = fold(writer.events)


def test_the_newest_schema_holds_and_a_message_without_one_keeps_it() -> None:
    writer = Writer(lambda strategy: 9)  # type: ignore[arg-type, return-value]
    _typed(writer, {"type": "string"})
    _typed(writer, None)
    writer.move("step")
    assert isinstance(writer.state, Reasoning)
    assert writer.state.turn.output_schema == {"type": "string"}
    _typed(writer, {})
    assert writer.state.turn.output_schema == {"type": "string"}, "the running call does not see it"
    state = replace(READY, pending=writer.state.pending)
    assert schema_of(state.pending) == {}


REJECTED = replace(TURN, rejected=3, problems=("answer: wrong",))


def test_after_three_rejected_answers_the_turn_fails_unless_a_message_steers_it() -> None:
    assert next_action(Ready(turn=replace(REJECTED, rejected=2)), TurnRules(), 0) == CallModel(
        Ready(turn=replace(REJECTED, rejected=2)), resumed=False
    )
    failed = next_action(Ready(turn=REJECTED), TurnRules(), 0)
    assert isinstance(failed, Fail)
    assert failed.code == "output_invalid"
    assert failed.message.endswith("answer: wrong")
    steered = Ready(turn=REJECTED, pending=PENDING)
    assert isinstance(next_action(steered, TurnRules(), 0), CallModel)


OF_A_TURN = sorted(
    kind
    for kind in EVENT_DATA
    if kind.startswith(("reason.", "output.message.", "output.a", "output.r", "llm.", "act.", "tool."))
    or kind in ("turn.parked", "turn.resumed")
)


@pytest.mark.parametrize("kind", OF_A_TURN)
def test_what_belongs_to_a_turn_changes_nothing_while_none_runs(kind: str) -> None:
    event = Event(event_id(1, 1, 1), "session_1", 1, kind, 1_000, "{}", "{}")
    assert fold([event]) == Idle(head=1)


@pytest.mark.parametrize(
    "kind", [kind for kind in OF_A_TURN if not kind.startswith(("llm.", "reason.", "turn.parked"))]
)
def test_what_belongs_to_another_phase_changes_nothing(kind: str) -> None:
    event = Event(event_id(1, 1, 1), "session_1", 1, kind, 1_000, "{}", "{}")
    assert fold([event], READY) == replace(READY, head=READY.head + 1)
