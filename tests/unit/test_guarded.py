"""What becomes of answers, calls and results that guardrails check."""

from __future__ import annotations

import threading
import time
from typing import Any

import msgspec
import pytest

from perdure.capabilities.guarding import Guard, Masker, Verdict, guardrails_of, holding
from perdure.capabilities.layers import Layer
from perdure.domain.calls import CallState
from perdure.domain.errors import InvalidInput, ModelError
from perdure.domain.events import EventContext, GuardrailHitData, OutputMessageReplacedData
from perdure.domain.guardrail_checks import AnyCheck, GuardrailsConfig
from perdure.domain.guardrails import Guardrails, Hit
from perdure.domain.held_text import HeldText
from perdure.domain.ids import MessageId, OrgId, ToolCallId, TurnId
from perdure.domain.messages import MAX_TEXT, ToolCallPart
from perdure.domain.redaction import Redactor
from perdure.domain.tools import CapabilityRef
from perdure.engine.guarded import (
    CheckedAnswer,
    CheckedCalls,
    Writing,
    before_cut,
    check_answer,
    check_calls,
    checked_failure,
    checked_summary,
)
from perdure.engine.guarded_results import check_result, progress_line
from perdure.engine.tool_outcomes import MAX_ERROR, Failure
from perdure.engine.tool_output import RawOutput, json_of
from perdure.llm.driver import ModelResponse
from perdure.store.database import Tx

WRITING = Writing(TurnId("turn_1"), MessageId("message_1"), EventContext(TurnId("turn_1")), False)


def guard_with(**fields: Any) -> Guard:
    """A guard with one check of the word `heron`."""
    return guard_of_checks(
        {"type": "regex", "pattern": "heron", "id": "bird", "reason_code": "no_birds", **fields}
    )


def guard_of_checks(*checks: Any) -> Guard:
    rules = Guardrails(msgspec.convert({"checks": checks}, GuardrailsConfig).checks)

    async def no_model(tx: Tx) -> None:
        return None

    return Guard(rules, None, OrgId("org_1"), no_model, Redactor({}))


async def answered(guard: Guard, **fields: Any) -> CheckedAnswer:
    response = ModelResponse(**{"text": "A crow.", **fields})
    return await check_answer(guard, response, WRITING, 0)


def hits_of(checked: CheckedAnswer | CheckedCalls) -> list[tuple[str, str]]:
    events = checked.events if isinstance(checked, CheckedAnswer) else checked.hits
    return [
        (event.data.action, event.data.part) for event in events if isinstance(event.data, GuardrailHitData)
    ]


# --- answers ------------------------------------------------------------------


async def test_a_blocked_text_takes_the_calls_and_the_reasoning_with_it() -> None:
    call = ToolCallPart(ToolCallId("c1"), "look", {"at": "it"})
    checked = await answered(
        guard_with(), text="A heron.", thinking="Hm.", tool_calls=(call,), reasoning_items=({"type": "x"},)
    )
    assert checked.replaced
    assert checked.response == ModelResponse("This answer was withheld because it violates a rule.")
    assert isinstance(checked.events[-1].data, OutputMessageReplacedData)
    assert hits_of(checked) == [("block", "text")]


async def test_a_blocked_thinking_is_dropped_with_what_the_vendor_would_get_of_it() -> None:
    checked = await answered(
        guard_with(),
        thinking="A heron?",
        thinking_signature="signed",
        reasoning_items=({"type": "thinking", "thinking": "A heron?"},),
    )
    assert checked.response == ModelResponse("A crow.")
    assert not checked.replaced


@pytest.mark.parametrize("action", ["block", "replace"])
async def test_reasoning_that_only_its_blocks_have_is_not_sent_back_to_the_vendor(action: str) -> None:
    items = ({"type": "reasoning", "summary": [{"text": "A heron?"}], "id": "rs_1"},)
    checked = await answered(guard_with(action=action), thinking="Hm.", reasoning_items=items)
    assert checked.response == ModelResponse("A crow.", thinking="Hm.")
    kept = ({"type": "reasoning", "summary": [{"text": "A crow?"}], "encrypted_content": "heron"},)
    checked = await answered(guard_with(action=action), thinking="Hm.", reasoning_items=kept)
    assert checked.response.reasoning_items == kept


async def test_a_masked_thinking_loses_its_signature() -> None:
    checked = await answered(
        guard_with(action="replace", replacement="bird"), thinking="A heron?", thinking_signature="signed"
    )
    assert checked.response == ModelResponse("A crow.", thinking="A bird?")


async def test_an_answer_of_which_masks_leave_nothing_is_not_empty() -> None:
    checked = await answered(guard_with(action="replace", replacement=""), text="heron")
    assert checked.response.text == "This answer was withheld because it violates a rule."


async def test_what_a_mask_joins_is_checked_again() -> None:
    checks = [
        {"type": "regex", "pattern": "heron", "id": "bird"},
        {"type": "regex", "pattern": "[0-9]{2}", "action": "replace", "replacement": "", "stage": "output"},
        {"type": "regex", "pattern": "heron", "id": "bird", "stage": "tool_use"},
        {"type": "regex", "pattern": "[0-9]{2}", "action": "replace", "replacement": "", "stage": "tool_use"},
    ]
    guard = guard_of_checks(*checks)
    checked = await answered(guard, text="A her12on.")
    assert checked.replaced
    calls = await called(guard, {"at": "her12on"})
    assert calls.errors
    assert hits_of(calls) == [("replace", "call"), ("block", "call")]
    hold = guard.holds("output")
    assert hold is not None
    stream = hold()
    assert "her" not in "".join([stream.feed("her12on "), *(stream.feed("and so on ") for _ in range(40))])


async def test_half_of_a_match_at_the_end_of_what_is_stored_is_found_before_the_text_is_cut() -> None:
    text = f"{'x ' * (MAX_TEXT // 2 - 1)}heron{'y' * 100}"
    _, hit = await before_cut(guard_with(), ModelResponse(text))
    assert hit is not None
    checked = await check_answer(guard_with(), ModelResponse(text[:MAX_TEXT]), WRITING, 0, hit)
    assert checked.replaced
    masked, hit = await before_cut(guard_with(action="replace", replacement="-"), ModelResponse(text))
    assert hit is None
    assert masked.text[MAX_TEXT - 2 : MAX_TEXT + 1] == "-yy"
    hidden, _ = await before_cut(guard_with(), ModelResponse("Hi.", thinking=text, thinking_signature="s"))
    assert hidden == ModelResponse("Hi.")


async def test_a_summary_has_masks_in_place_of_what_is_blocked() -> None:
    assert await checked_summary(guard_with(), "They saw a heron.") == "They saw a [removed]."
    assert await checked_summary(None, "They saw a heron.") == "They saw a heron."


@pytest.mark.parametrize(
    ("message", "pattern", "said"),
    [
        ("bad: a heron", "heron", "[withheld by a guardrail: no_birds]"),
        ("bad: a crow", "heron", "bad: a crow"),
        (f"{'x' * 497}her", "heron", "x"),
        ("bad: a crow", "her.*on", "The message is withheld."),
    ],
)
def test_the_message_of_a_failed_call_is_checked(message: str, pattern: str, said: str) -> None:
    error = ModelError(message, code="provider_bad_response", transient=True, status=500)
    checked = checked_failure(guard_with(pattern=pattern), error)
    assert checked is not None
    assert "her" not in checked.message
    assert checked.message.startswith(said)
    assert (checked.code, checked.transient, checked.status) == ("provider_bad_response", True, 500)


# --- calls --------------------------------------------------------------------


async def called(guard: Guard, *arguments: Any, name: str = "look") -> CheckedCalls:
    calls = tuple(ToolCallPart(ToolCallId(f"c{n}"), name, each) for n, each in enumerate(arguments))
    return await check_calls(guard, calls, frozenset({"look"}), WRITING, 0)


@pytest.mark.parametrize(
    "arguments",
    [
        {"at": "a heron"},
        {"heron": 1},
        {"deep": [{"at": ["x", "heron"]}]},
        '{"at": "a her',
    ],
)
async def test_blocked_arguments_are_withheld_wherever_they_have_it(arguments: Any) -> None:
    pattern = "her" if isinstance(arguments, str) else "heron"
    checked = await called(guard_with(stage="tool_use", pattern=pattern), arguments, {"at": "a crow"})
    first, second = checked.calls
    assert list(checked.errors) == ["c0"]
    assert "no_birds" in checked.errors[ToolCallId("c0")]
    assert type(first.arguments) is type(arguments)
    assert "her" not in str(first.arguments)
    assert second.arguments == {"at": "a crow"}


async def test_what_json_escapes_is_found_as_it_is() -> None:
    guard = guard_with(stage="tool_use", pattern='say "heron"\n')
    assert (await called(guard, {"text": 'say "heron"\n'})).errors
    guard = guard_with(stage="tool_use", pattern="^heron$")
    assert (await called(guard, {"text": "heron"})).errors


async def test_masks_are_in_the_texts_of_arguments() -> None:
    guard = guard_with(stage="tool_use", action="replace", replacement='"')
    checked = await called(guard, {"at": "a heron", "heron": ["heron", 1, None, {"x": "crow"}]})
    assert checked.calls[0].arguments == {"at": 'a "', '"': ['"', 1, None, {"x": "crow"}]}
    assert hits_of(checked) == [("replace", "call")]


async def test_what_cannot_be_masked_is_blocked() -> None:
    guard = guard_with(stage="tool_use", action="replace", pattern='"amount":[0-9]{4,9}')
    checked = await called(guard, {"amount": 12345})
    assert checked.errors
    assert hits_of(checked) == [("block", "call")]


async def test_a_call_that_a_check_asks_about_is_not_changed() -> None:
    checked = await called(guard_with(stage="tool_use", action="ask"), {"at": "heron"})
    assert (checked.errors, checked.calls[0].arguments) == ({}, {"at": "heron"})
    assert hits_of(checked) == [("ask", "call")]


async def test_an_invented_name_of_a_tool_is_a_text_too() -> None:
    checked = await called(guard_with(stage="tool_use"), {"at": "crow"}, name="see_heron")
    assert checked.calls[0].name == "unknown_tool"
    assert checked.errors


async def test_arguments_with_very_many_texts_are_searched_as_one() -> None:
    many = {"all": [f"crow {n}" for n in range(3_000)]}
    assert not (await called(guard_with(stage="tool_use"), many)).errors
    many["all"][2_000] = "heron"
    assert (await called(guard_with(stage="tool_use"), many)).errors
    assert (await called(guard_with(stage="tool_use", action="replace"), many)).errors


# --- results ------------------------------------------------------------------

CALL = CallState(ToolCallId("c1"), "look", {})


async def test_a_blocked_result_is_withheld_and_the_call_has_succeeded() -> None:
    guard = guard_with(stage="tool_output")
    for value in ("A heron.", {"seen": ["heron"]}):
        output = RawOutput(value, value if isinstance(value, str) else json_of(value), loads=("more",))
        checked = await check_result(guard, CALL, output, None)
        assert checked.output == RawOutput(*["[withheld by a guardrail: no_birds]"] * 2, loads=("more",))


async def test_an_error_is_checked_also_where_it_was_cut() -> None:
    guard = guard_with(stage="tool_output", action="replace")
    checked = await check_result(guard, CALL, None, Failure("error", "No heron."))
    assert checked.failure == Failure("error", "No [removed].")
    cut = f"{'x' * (MAX_ERROR - 3)}her ..."
    checked = await check_result(guard, CALL, None, Failure("error", cut))
    assert checked.failure is not None
    assert "her" not in checked.failure.error
    whole = guard_with(stage="tool_output", pattern="her.*on")
    checked = await check_result(whole, CALL, None, Failure("error", cut))
    assert checked.failure is not None
    assert "withheld" in checked.failure.error


async def test_lines_of_progress_are_masked_or_not_shown() -> None:
    guard = guard_with(stage="tool_output", action="replace")
    assert progress_line(guard, "look", "A heron.") == "A [removed]."
    whole = guard_with(stage="tool_output", pattern="her.*on")
    assert progress_line(whole, "look", "A crow.") == ""


async def test_a_service_that_is_missing_counts_as_a_failed_check() -> None:
    guard = guard_of_checks({"type": "judge", "policy": "No birds.", "stage": "output"})
    verdict = await guard.text("output", "A crow.")
    assert verdict.blocked is not None
    assert verdict.blocked.reason_code == "not_checked"
    assert await guard.text("output", "  ") == Verdict("  ")


# --- layers -------------------------------------------------------------------


def layer(*checks: Any, policy_only: bool = False) -> Layer:
    ref = CapabilityRef("guardrails", {"checks": list(checks)})
    return Layer("agent", "a", None, (ref, CapabilityRef("other", {"checks": 1})), policy_only=policy_only)


def test_the_checks_of_all_layers_apply_also_those_of_policies() -> None:
    one: Any = {"type": "regex", "pattern": "one", "id": "one"}
    two: Any = {"type": "regex", "pattern": "two", "id": "two"}
    found = guardrails_of([layer(one, policy_only=True), layer(two, one)])
    assert found is not None
    assert [hit.check_id for hit in found.scan("output", "one two")] == ["one", "two"]
    assert guardrails_of([layer()]) is None
    with pytest.raises(InvalidInput, match="change it"):
        guardrails_of([layer({"type": "magic"})])


def test_a_struct_is_masked_like_a_text() -> None:
    check: AnyCheck = msgspec.convert(
        {"checks": [{"type": "regex", "pattern": "heron", "stage": "tool_output"}]}, GuardrailsConfig
    ).checks[0]
    masker = Masker(Guardrails((check,)), "tool_output")
    assert masker
    assert masker.value({"a": ["heron", 1], "b": "crow"}) == {
        "a": ["[withheld by a guardrail: regex_match]", 1],
        "b": "crow",
    }
    unchanged = {"a": 1}
    assert masker.value(unchanged) is unchanged
    assert len(masker.verdict().hits) == 1


def streamed(guard: Guard, text: str, size: int = 3) -> HeldText:
    """What holds a stream of the text back, once all of it has come in pieces."""
    hold = holding(guard.rules, "output")
    for at in range(0, len(text), size):
        hold.feed(text[at : at + size])
    return hold


async def test_a_check_that_logs_finds_what_no_piece_of_a_stream_has() -> None:
    guard = guard_of_checks(
        {"type": "regex", "pattern": "a very long word[0-9]{4}", "action": "log"},
        {"type": "regex", "pattern": "zz"},
    )
    text = "Here is a very long word1234, and after it more is said. " * 4
    clean = streamed(guard, text).clean
    assert clean > 100
    verdict = await guard.text("output", text, clean=clean)
    assert verdict.counts == (4,)


COSTLY = {"type": "regex", "pattern": "(?:a?){800}[ab]*a[ab]{900}c", "max_length": 10}


def test_a_stream_that_would_take_long_to_search_is_held_back() -> None:
    quick = guard_of_checks({"type": "regex", "pattern": "zz"})
    slow = guard_of_checks(*({**COSTLY, "id": f"c{n}", "max_length": 2000 + n} for n in range(6)))
    text = "ab" * 500
    assert len(streamed(quick, text).shown) > 900
    assert streamed(slow, text).shown == ""
    assert quick.rules.is_quick("output", 20_000)
    assert not slow.rules.is_quick("output", 2_000)


def test_matches_in_a_row_cost_no_square_of_their_length() -> None:
    guard = guard_of_checks({"type": "url_allowlist", "hosts": []})
    began = time.thread_time()
    streamed(guard, "www." * 4_000, size=4)
    assert time.thread_time() - began < 1.5  # 14 s, if each piece is searched from the beginning


async def test_a_search_that_can_take_long_is_not_made_in_the_event_loops_thread() -> None:
    threads: list[int] = []

    class Noting(Guardrails):
        def scan(self, *args: Any, **more: Any) -> tuple[Hit, ...]:
            threads.append(threading.get_ident())
            return ()

    async def no_model(tx: Tx) -> None:
        return None

    for pattern, text in (
        ("heron", "ab" * 1_000),
        (COSTLY["pattern"], "a"),
        (COSTLY["pattern"], "ab" * 1_000),
    ):
        checks = msgspec.convert({"checks": [{**COSTLY, "pattern": pattern}]}, GuardrailsConfig).checks
        await Guard(Noting(checks), None, OrgId("org_1"), no_model, Redactor({})).text("output", text)
    here = threading.get_ident()
    assert [each == here for each in threads] == [True, True, False]


async def test_a_line_of_progress_that_is_cut_does_not_end_in_half_a_match() -> None:
    guard = guard_with(stage="tool_output")
    assert progress_line(guard, "look", "A hero", cut=True) == ""
    assert progress_line(guard, "look", "Some birds: a hero", cut=True) == "Some birds: "
    slow = guard_of_checks({**COSTLY, "stage": "tool_output"})
    assert progress_line(slow, "look", "ab" * 1_000) == ""
