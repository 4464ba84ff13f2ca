"""The conversation that a model receives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.actions import CallModel, Nothing, next_action
from perdure.domain.events import Event, NewEvent
from perdure.domain.history import HISTORY_TYPES, Conversation, estimate_tokens
from perdure.domain.messages import Message, ToolResultPart, text_of
from perdure.domain.projection import Projection, project
from perdure.domain.turn import fold
from tests.simulation.conversations import Key, disorder, expected_prompt, key_of
from tests.unit.logs import RULES, Writer, logs, stored

EVERYTHING = 1 << 60


def _folded(log: Sequence[Event], conversation: Conversation | None = None) -> Conversation:
    conversation = conversation or Conversation()
    for event in log:
        conversation.feed(event, event.sequence)
    return conversation


def _prompt_of(conversation: Conversation, budget: int = EVERYTHING) -> list[Message]:
    return list(conversation.prompt(budget)[0])


def _keys(messages: Sequence[Message]) -> list[Key]:
    return [key_of(message) for message in messages]


def _calls(log: Sequence[Event]) -> list[int]:
    """The sequences at which model calls begin."""
    return [event.sequence for event in log if event.type == "reason.started"]


@given(logs())
def test_every_model_call_sees_each_message_at_its_place_in_the_conversation(log: list[NewEvent]) -> None:
    events = stored(log)
    for begin in _calls(events):
        assert _keys(_prompt_of(_folded(events[:begin]))) == expected_prompt(events, begin)


@given(logs())
def test_every_prompt_is_valid_for_vendors(log: list[NewEvent]) -> None:
    events = stored(log)
    for begin in _calls(events):
        assert list(disorder(_prompt_of(_folded(events[:begin])))) == []


@given(logs(), st.data())
def test_a_conversation_that_is_updated_equals_the_one_of_the_whole_log(
    log: list[NewEvent], data: st.DataObject
) -> None:
    events, cut = stored(log), data.draw(st.integers(0, len(log)))
    assert vars(_folded(events[cut:], _folded(events[:cut]))) == vars(_folded(events))


@given(logs())
def test_a_runners_conversation_of_appended_events_equals_that_of_the_stored_log(
    log: list[NewEvent],
) -> None:
    written = Conversation()
    for new, numbered in zip(log, stored(log), strict=True):
        written.feed(new, numbered.sequence, numbered.id)
    assert vars(written) == vars(_folded(stored(log)))


@given(logs())
def test_a_conversation_depends_only_on_the_kinds_in_history_types(log: list[NewEvent]) -> None:
    events = stored(log)
    whole, part = _folded(events), _folded([event for event in events if event.type in HISTORY_TYPES])
    part.head = whole.head
    assert vars(part) == vars(whole)


@given(logs(), st.integers(1, 200))
def test_a_prompt_over_its_budget_drops_its_oldest_part_up_to_a_user_message(
    log: list[NewEvent], budget: int
) -> None:
    events = stored(log)
    for begin in _calls(events):
        whole, conversation = _prompt_of(_folded(events[:begin])), _folded(events[:begin])
        cut, after = conversation.prompt(budget)
        assert whole[len(whole) - len(cut) :] == cut
        assert list(disorder(cut)) == []
        last = max(index for index, message in enumerate(whole) if message.role == "user")
        assert len(cut) >= len(whole) - last
        assert conversation.tokens() == sum(map(estimate_tokens, cut))
        if len(cut) < len(whole):
            assert cut[0].role == "user"
            assert events[after].decoded().message.id == cut[0].id
        assert _prompt_of(_folded(events[after:begin])) == cut
        if sum(map(estimate_tokens, whole)) <= budget:
            assert (cut, after) == (whole, 0)


@given(logs())
def test_a_copy_of_any_part_of_a_log_that_is_cancelled_continues_with_valid_prompts(
    log: list[NewEvent],
) -> None:
    writer = _writer()
    writer.events, writer.state, writer.count = list(log), fold(log), 1_000
    if project(Projection(), log).status in {"active", "waiting_for_tool_results"}:
        writer.cancel()
    assert isinstance(next_action(writer.state, RULES, writer.now), Nothing)
    writer.message()
    assert list(disorder(_seen_next(writer))) == []


@given(logs())
def test_an_empty_conversation_stays_empty_until_a_model_is_called(log: list[NewEvent]) -> None:
    quiet = [event for event in stored(log) if event.type == "input.message"]
    assert _prompt_of(_folded(quiet)) == []


def _writer(*answers: Any) -> Writer:
    """A writer that draws these values."""
    left = list(answers)
    return Writer(lambda strategy: left.pop(0))


def _seen_next(writer: Writer) -> list[Message]:
    """The messages that the next model call would receive."""
    while not isinstance(action := next_action(writer.state, RULES, writer.now), CallModel):
        writer.act(action)
    if not action.resumed:
        writer.act(action)
    return _prompt_of(_folded(stored(writer.events)))


def test_a_message_that_arrives_during_a_model_call_follows_its_answer() -> None:
    writer = _writer(9, [], "call", 2)
    first = writer.message()
    writer.move("step")
    second = writer.message()
    writer.move("step")
    seen = _seen_next(writer)
    assert [message.role for message in seen] == ["user", "agent", "user"]
    assert (seen[0].id, seen[2].id) == (first.id, second.id)


def test_a_window_that_begins_with_a_steering_message_leaves_out_the_answer_it_arrived_in() -> None:
    writer = _writer(9, [], "call", 2)
    writer.message()
    writer.move("step")
    steering = writer.message()
    writer.move("step")
    begin = len(stored(writer.events)) + 1
    writer.move("step")
    events = stored(writer.events)[:begin]
    seen, after = _folded(events).prompt(10)
    assert [message.id for message in seen] == [steering.id]
    assert _prompt_of(_folded(events[after:])) == seen


def test_what_was_wrong_with_an_answer_follows_it() -> None:
    writer = _writer(9, [], "call", 1)
    first = writer.message()
    writer.move("step")
    second = writer.message()
    writer.move("step")
    seen = _seen_next(writer)
    assert [message.role for message in seen] == ["user", "agent", "user", "system"]
    assert (seen[0].id, seen[2].id) == (first.id, second.id)
    assert "- answer: the text is not valid JSON" in text_of(seen[3].content)


def test_after_a_cancel_during_a_model_call_the_request_precedes_the_confirmation() -> None:
    writer = _writer()
    writer.message()
    writer.move("step")
    writer.move("cancel")
    writer.message()
    assert [message.role for message in _seen_next(writer)] == ["user", "user", "agent", "user"]


def test_results_are_in_the_order_of_their_calls_and_a_missing_one_is_an_error() -> None:
    writer = _writer(9, ["once", "look"], "call", 1, 0, True)
    writer.message()
    for _ in range(4):
        writer.move("step")
    writer.move("seal")
    writer.message()
    results = [message.content[0] for message in _seen_next(writer) if message.role == "tool_result"]
    first, second = results
    assert isinstance(first, ToolResultPart)
    assert isinstance(second, ToolResultPart)
    assert (first.tool_call_id, first.error) == ("call_0", None)
    assert (second.tool_call_id, second.error) == (
        "call_1",
        "This call did not finish: the turn ended before its result came.",
    )


def test_an_answer_that_only_reports_a_failure_is_not_part_of_the_conversation() -> None:
    writer = _writer(0, "call")
    writer.message()
    for _ in range(3):
        writer.move("step")
    writer.message()
    assert [message.role for message in _seen_next(writer)] == ["user", "user"]
