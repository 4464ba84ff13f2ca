"""Tests of policy hooks: a question that is made up, and what the hook answers."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from perdure.domain.ids import OrgId, UserId
from perdure.domain.messages import JsonObject, JsonValue
from perdure.domain.policy_hooks import Answer, HookEvent, NewText

_TOOL = Meta(description="The tool that the made-up call names.", min_length=1, max_length=128)
_ID = "0" * 32
_MESSAGE = f"message_{_ID}"


class AskHook(Struct, frozen=True):
    """The body of `POST /v1/capabilities/policy_hook/test`."""

    config: Annotated[
        JsonObject,
        Meta(
            description="The configuration of the capability `policy_hook`.",
            examples=[{"url": "https://policy.example.com/decide", "secret": "whsec_..."}],
        ),
    ]
    event: Annotated[HookEvent, Meta(description="What to ask about.", examples=["before_tool"])] = (
        "before_tool"
    )
    tool_name: Annotated[str, _TOOL] = "web_fetch"
    arguments: Annotated[JsonObject, Meta(description="The arguments of the made-up call.")] = {}
    text: Annotated[
        str,
        Meta(
            description="The result of the call for `after_tool`, or the user's message for `before_model`.",
            max_length=10_000,
        ),
    ] = "This is a test."


class HookReply(Struct, frozen=True, omit_defaults=True):
    """What a policy hook answered to a test."""

    ok: Annotated[bool, Meta(description="Whether the answer is a decision that can be used.")]
    duration_ms: Annotated[int, Meta(description="How long the answer took, in milliseconds.", examples=[12])]
    decision: Annotated[
        Literal["allow", "modify", "block"] | None, Meta(description="The decision.", examples=["allow"])
    ] = None
    reason: Annotated[str | None, Meta(description="Why, as the hook says.")] = None
    arguments: Annotated[JsonValue, Meta(description="The arguments that it answered.")] = None
    result: Annotated[JsonValue, Meta(description="The result that it answered.")] = None
    messages: Annotated[
        tuple[NewText, ...], Meta(description="The messages that it answered, with their new texts.")
    ] = ()
    error: Annotated[str | None, Meta(description="Why there is no decision that can be used.")] = None
    on_failure: Annotated[
        Literal["open", "closed"] | None,
        Meta(description="Without a decision: whether a session would go on (`open`) or block (`closed`)."),
    ] = None

    @classmethod
    def of(cls, answer: Answer, duration_ms: int) -> HookReply:
        """The outcome of a test that has an answer."""
        return cls(
            True,
            duration_ms,
            answer.decision,
            answer.reason,
            answer.arguments,
            answer.result,
            answer.messages,
        )


def made_up(body: AskHook, org_id: OrgId, user_id: UserId) -> JsonObject:
    """The question of a test: like those of sessions, with ids of zeros and `test`."""
    question: JsonObject = {
        "test": True,
        "event": body.event,
        "organization_id": org_id,
        "session_id": f"session_{_ID}",
        "root_session_id": f"session_{_ID}",
        "turn_id": f"turn_{_ID}",
        "agent": None,
        "user": {"id": user_id},
    }
    if body.event == "before_model":
        message = {
            "id": _MESSAGE, "role": "user", "text": body.text, "truncated": False, "changeable": True,
        }  # fmt: skip
        model = {"id": f"model_{_ID}", "name": "test", "provider_id": f"provider_{_ID}"}
        return question | {
            "message_count": 1, "messages": [message], "model": model, "estimated_tokens": 10,
        }  # fmt: skip
    question["tool_call"] = {
        "id": "call_test",
        "name": body.tool_name,
        "run_by": "server",
        "effect_key": f"effect_{_ID}",
        "in_background": False,
        "capability_id": "test",
        "hints": {},
        "arguments": body.arguments,
        "arguments_truncated": False,
    }
    if body.event == "after_tool":
        question |= {"success": True, "images": 0, "result": body.text, "result_truncated": False}
    return question
