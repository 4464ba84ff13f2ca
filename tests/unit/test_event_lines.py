"""Events as lines: what waits and why, what a guardrail did, which model answers instead."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.cli.render import brief, limit_text, narrations, waits_for
from perdure.domain.ids import new_id
from perdure.domain.tools import APPROVE
from tests.unit.test_cli import AGENT, NOW, TURN, completed, event, printed, text

MODEL: dict[str, Any] = {"model": "big"}
FALLBACK = {
    "turn_id": TURN,
    "from": MODEL,
    "to": {"model": "small"},
    "error_code": "provider_overloaded",
    "error": "busy",
    "skipped": [{"model": {"model": "odd"}, "error_code": "provider_misconfigured", "error": "no key"}],
}
FELL_BACK = "big does not answer: busy → small (not odd: no key)"
PARKED = {"turn_id": TURN, "kind": "rate_limit", "until": NOW, "error": "429", "error_code": "rate_limited"}
WITHDRAWN = {"turn_id": TURN, "message_id": "message_1", "reason": "fallback"}
GUARDED = {"guardrail_capability_id": "guardrails", "guardrail_id": "names", "reason_code": "pii"}
REPLACED = {"turn_id": TURN, **GUARDED, "replacement": "…"}
HIT = {**GUARDED, "stage": "tool_output", "rule_type": "regex", "part": "result", "action": "replace"}
HANDED = {"tool_call_id": "c", "to_agent_id": AGENT, "to_agent_name": "billing", "history": "full"}
DEFERRED = {"tool_call_id": "c", "tool_name": "pay", "kind": "callback", "timeout_ms": 60_000}
LATER = "2026-03-14T09:27:53.589793Z"
ASKS = f"pay waits for an answer to its server's question until {LATER}"
REQUEST = new_id("input")


def asked(**fields: Any) -> dict[str, Any]:
    return {"id": REQUEST, "mode": "form", "server": "shop", **fields}


@pytest.mark.parametrize(
    ("kind", "data", "line"),
    [
        ("tool.parked", DEFERRED, f"pay waits for a callback until {LATER}"),
        ("session.handed_off", HANDED, "to billing"),
        ("reason.fallback", FALLBACK, FELL_BACK),
        ("turn.parked", PARKED, f"rate limit: the provider asks to wait until {NOW}: 429"),
        ("output.message.withdrawn", WITHDRAWN, "the text above is withdrawn"),
        ("output.message.replaced", REPLACED, "the answer is replaced by the guardrail names (pii)"),
        ("guardrail.hit", {**HIT, "tool_name": "look_up"}, "the guardrail names (pii): replace look_up"),
        ("guardrail.hit", HIT, "the guardrail names (pii): replace result"),
        (
            "tool.step",
            {"tool_call_id": "c", "tool_name": "pay", "name": "book\x1b", "status": "failed", "error": "no"},
            "pay book\\u001b failed no",
        ),
        (
            "tool.verified",
            {"tool_call_id": "c", "tool_name": "pay", "outcome": "not_done", "effect_key": "k"},
            "pay not_done",
        ),
        (
            "message.feedback",
            {"message_id": "message_1", "user_id": "user_1", "rating": "down", "comment": "Too\nlong."},
            "down message_1 Too long.",
        ),
        ("message.feedback", {"message_id": "message_1", "user_id": "user_1"}, "none message_1"),
        ("llm.generation", {"metadata": {"model": "m", "success": True}, "output": {}}, "m"),
    ],
)
def test_an_event_is_summarized_in_a_line(kind: str, data: dict[str, Any], line: str) -> None:
    assert brief(event(kind, data)).strip() == line


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {
                "kind": "sign_in",
                "sign_in_url": "https://here/sign-in",
                "input_requests": [asked(mode="sign_in")],
            },
            f"pay waits for a sign-in until {LATER} (open https://here/sign-in)",
        ),
        (
            {"kind": "input", "input_requests": [asked()]},
            f"{ASKS} (input request {REQUEST})",
        ),
        (
            {"kind": "input", "input_requests": [asked(mode="url", url="https://there/\u202e")]},
            f"{ASKS} (input request {REQUEST}: visit https://there/\\u202e only if you trust it)",
        ),
        ({"message": "The bank\nis asked."}, f"pay waits for a callback until {LATER}: The bank is asked."),
    ],
)
def test_a_call_that_waits_says_for_what_and_where_a_person_goes(fields: dict[str, Any], said: str) -> None:
    assert printed(event("tool.parked", {**DEFERRED, **fields})) == f"‖ {said}\n"


def test_what_is_waited_for_has_a_name_also_if_it_is_newer_than_the_program() -> None:
    assert [waits_for(each) for each in ("child", "question", "signal")] == [
        "what it has begun",
        "an answer",
        "a signal",
    ]
    assert [limit_text(each) for each in ("budget", "phase_of_the_moon")] == [
        "paused by a budget",
        "limit: phase_of_the_moon",
    ]


def test_a_text_that_another_model_takes_over_is_withdrawn_on_the_screen() -> None:
    withdrawn, fallback = event("output.message.withdrawn", WITHDRAWN), event("reason.fallback", FALLBACK)
    shown = printed(text("Hel"), withdrawn, fallback, completed("Hi.", "message_2"))
    assert shown == f"Hel\n‖ the text above is withdrawn\n‖ {FELL_BACK}\nHi.\n"
    assert printed(withdrawn) == "", "nothing was shown of it"


def test_what_a_guardrail_masks_is_told_and_what_it_only_notes_is_not() -> None:
    replaced = event("output.message.replaced", REPLACED)
    masked, noted = (event("guardrail.hit", {**HIT, "action": each}) for each in ("replace", "log"))
    assert printed(replaced, masked, noted) == (
        "‖ the answer is replaced by the guardrail names (pii)\n‖ the guardrail names (pii): replace result\n"
    )


def test_the_agent_that_answers_from_now_on_is_named() -> None:
    speaker = {"agent_id": AGENT, "agent_name": "billing", "participant_id": new_id("participant")}
    begun = event("turn.started", {"turn_id": TURN, "input_message_id": "message_1", "speaker": speaker})
    assert printed(event("session.handed_off", HANDED), begun) == (
        "→ handed off to the agent billing\n→ the agent billing answers\n"
    )


def test_only_what_says_more_than_the_tools_name_is_told_of_a_request() -> None:
    said = [(APPROVE, "May pay run?"), (APPROVE, "It costs 3 EUR."), ("other", "Not asked about.")]
    told = [{"id": f"{name}{text}", "name": name, "narration": text} for name, text in said]
    request = event("tool.call_requested", {"tool_calls": [], "tool_summaries": told})
    assert narrations(request) == ["It costs 3 EUR."]
    assert narrations(event("tool.call_requested", {"tool_calls": []})) == []
