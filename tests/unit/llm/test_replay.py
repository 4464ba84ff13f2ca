"""Recovery from a vendor that rejects stored reasoning."""

from __future__ import annotations

import msgspec

from perdure.domain.errors import ModelError
from perdure.llm.replay import MAX_REMEMBERED, Replay
from tests.unit.llm.talk import agent, ask, user

REFUSAL = ModelError("Invalid `signature` in `thinking` block", code="invalid_model_request", status=400)
THOUGHT = msgspec.structs.replace(
    agent("x"), reasoning_items=({"type": "thinking"},), reasoning_provider="anthropic"
)


def test_it_remembers_up_to_which_message_reasoning_is_left_out() -> None:
    replay = Replay()
    history = (user("a"), THOUGHT, user("b"))
    request = ask(*history, cache_key="session_1")
    assert replay.bare(request) == 0
    assert replay.refused(request, REFUSAL, 0)
    assert replay.bare(request) == 3
    assert replay.bare(ask(*history, agent("c"), user("d"), cache_key="session_1")) == 3
    assert replay.bare(ask(*history, cache_key="session_2")) == 0
    assert replay.bare(ask(user("another history"), cache_key="session_1")) == 0


def test_it_is_tried_only_once() -> None:
    replay = Replay()
    request = ask(user("a"), THOUGHT, user("b"), cache_key="session_1")
    assert replay.refused(request, REFUSAL, 0)
    assert not replay.refused(request, REFUSAL, replay.bare(request))


def test_other_failures_are_not_about_reasoning() -> None:
    request = ask(user("a"), THOUGHT, cache_key="session_1")
    for error in (
        ModelError("bad schema", code="invalid_model_request", status=400),
        ModelError('"thinking.type.enabled" is not supported', code="invalid_model_request", status=400),
        ModelError("signature", code="provider_unavailable", status=500),
    ):
        assert not Replay().refused(request, error, 0)


def test_without_reasoning_there_is_nothing_to_leave_out() -> None:
    assert not Replay().refused(ask(user("a"), cache_key="session_1"), REFUSAL, 0)


def test_a_conversation_without_a_key_is_resent_but_not_remembered() -> None:
    replay = Replay()
    request = ask(user("a"), THOUGHT)
    assert replay.refused(request, REFUSAL, 0)
    assert replay.bare(request) == 0


def test_the_memory_is_bounded() -> None:
    replay = Replay()
    for number in range(MAX_REMEMBERED + 3):
        replay.refused(ask(THOUGHT, cache_key=f"session_{number}"), REFUSAL, 0)
    assert replay.bare(ask(THOUGHT, cache_key="session_0")) == 0
    assert replay.bare(ask(THOUGHT, cache_key=f"session_{MAX_REMEMBERED}")) == 1
