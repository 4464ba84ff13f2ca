"""What a turn knows of models that do not answer."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from perdure.domain.actions import CallModel, Nothing, Resume, TurnRules, next_action
from perdure.domain.event_data import EventData
from perdure.domain.events import (
    CIRCUIT_OPEN,
    EventContext,
    InputMessageData,
    LlmGenerationData,
    LlmGenerationMetadata,
    LlmGenerationOutput,
    ModelMetadata,
    NewEvent,
    ReasonCompletedData,
    ReasonFallbackData,
    ReasonStartedData,
    TurnParkedData,
    TurnResumedData,
)
from perdure.domain.ids import ExecId, HarnessId, MessageId, TurnId
from perdure.domain.messages import Controls, Message, TextPart
from perdure.domain.pending import PendingMessage
from perdure.domain.times import to_rfc3339
from perdure.domain.turn import Failed, Ready, Turn, TurnState, Waiting, fold
from perdure.engine.patience import fallback_of

TURN = TurnId("turn_1")
READY = Ready(turn=Turn(TURN, MessageId("message_1"), "Hello?", 0))
NOW, LATER = 1_000_000, 3_600_000_000


def event(data: EventData) -> NewEvent:
    return NewEvent(data, EventContext(TURN, None, ExecId("exec_1")), NOW)


STARTED = event(ReasonStartedData(HarnessId("harness_1")))
GENERATION = event(
    LlmGenerationData(LlmGenerationMetadata("gpt", False, time_to_first_token_ms=5), LlmGenerationOutput())
)
FAILED = event(ReasonCompletedData(False, False, 0, error="no", error_code="provider_unavailable"))
RESUMED = event(TurnResumedData(TURN))


def fallback(
    first: str, second: str, code: str = "provider_unavailable", until: int | None = None
) -> NewEvent:
    models = ModelMetadata(first, first), ModelMetadata(second, second)
    data = ReasonFallbackData(TURN, *models, code, "no", None if until is None else to_rfc3339(until))
    return event(data)


def parked(until: int) -> NewEvent:
    return event(TurnParkedData(TURN, "rate_limit", to_rfc3339(until), "provider_rate_limited", "no"))


def message(model_id: str | None) -> NewEvent:
    controls = None if model_id is None else Controls(model_id=model_id)
    data = InputMessageData(Message(MessageId("m"), "user", (TextPart("So?"),), "", controls=controls))
    return event(data)


def turn_of(state: TurnState) -> Turn:
    assert isinstance(state, Ready | Failed | Waiting)
    return state.turn


def test_a_fallback_takes_the_place_of_the_call_that_failed() -> None:
    state = fold([STARTED, GENERATION, FAILED, fallback("a", "b")], READY)
    turn = turn_of(state)
    assert (turn.iterations, turn.llm_calls, turn.time_to_first_token_ms) == (0, 1, None)
    assert next_action(state, TurnRules(max_iterations=1), NOW) == CallModel(state, resumed=False)


def test_models_that_failed_add_up_and_the_earliest_time_counts() -> None:
    events = [STARTED, FAILED, fallback("a", "b", until=9 * LATER), STARTED, FAILED]
    known = turn_of(fold([*events, fallback("b", "c", until=LATER)], READY)).fallback
    assert known is not None
    assert (known.model_id, known.failed, known.until) == ("c", ("a", "b"), LATER)


def test_a_model_that_was_skipped_has_not_failed() -> None:
    state = fold([fallback("a", "b", CIRCUIT_OPEN)], READY)
    known = turn_of(state).fallback
    assert known is not None
    assert (known.model_id, known.failed) == ("b", ())
    assert turn_of(state).iterations == 0


@pytest.mark.parametrize("before", [True, False], ids=["during the call", "after it"])
@pytest.mark.parametrize(("model_id", "kept"), [(None, True), ("model_2", False)])
def test_a_message_that_chooses_another_model_ends_the_fallback(
    before: bool, model_id: str | None, kept: bool
) -> None:
    said = [message(model_id)]
    events = [STARTED, *(said if before else []), FAILED, fallback("a", "b"), *([] if before else said)]
    assert (fallback_of(fold(events, READY), model_id) is not None) is kept


def test_a_parked_turn_begins_with_the_first_model_again() -> None:
    state = fold([STARTED, FAILED, fallback("a", "b"), STARTED, FAILED, parked(LATER)], READY)
    assert isinstance(state, Waiting)
    assert (state.until, state.turn.fallback, state.turn.iterations) == (LATER, None, 0)
    assert isinstance(fold([RESUMED], state), Ready)
    again = fold([RESUMED, STARTED, FAILED, parked(2 * LATER)], state)
    assert turn_of(again).parked_since == NOW
    answered = fold([RESUMED, STARTED, event(ReasonCompletedData(True, False, 0))], state)
    assert turn_of(answered).parked_since is None


@pytest.mark.parametrize(
    ("message", "at_once"),
    [
        (PendingMessage(MessageId("m"), TURN, "So?"), True),
        (PendingMessage(MessageId("m"), TURN, "So?", scheduled=True), False),
        (PendingMessage(MessageId("m"), TURN, "So?", late=True), False),
        (PendingMessage(MessageId("m"), TURN, "So?", queued_at=3), False),
    ],
    ids=["a person's", "a schedule's", "a callback's", "queued"],
)
def test_only_a_persons_message_ends_the_wait(message: PendingMessage, at_once: bool) -> None:
    state = replace(fold([STARTED, FAILED, parked(LATER)], READY), pending=(message,))
    assert isinstance(state, Waiting)
    expected = Resume(state) if at_once else Nothing()
    assert next_action(state, TurnRules(), NOW) == expected
    assert next_action(state, TurnRules(), LATER) == Resume(state)
