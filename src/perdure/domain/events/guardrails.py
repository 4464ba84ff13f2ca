"""The data of events about guardrails: what their checks have found, never the text that they found."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from perdure.domain.event_data import EventData
from perdure.domain.events.fields import TURN_ID
from perdure.domain.ids import MessageId, ToolCallId, TurnId

_CAPABILITY = Meta(description="The capability that the check is of.", examples=["guardrails"])
_CHECK = Meta(description="The check's id.", examples=["card-numbers"])
_REASON = Meta(description="Why the check exists, as its configuration says.", examples=["pii_card"])


class OutputMessageReplacedData(EventData, frozen=True, omit_defaults=True):
    """A check has blocked what the model wrote: the message has the replacement instead.

    Text of the message that followers have seen so far is no part of the conversation.
    """

    kind = "output.message.replaced"
    turn_id: Annotated[TurnId, TURN_ID]
    guardrail_capability_id: Annotated[str, _CAPABILITY]
    guardrail_id: Annotated[str, _CHECK]
    reason_code: Annotated[str, _REASON]
    replacement: Annotated[str, Meta(description="The text that the message has now.")]
    message_id: Annotated[MessageId | None, Meta(description="The message that was being written.")] = None


class GuardrailHitData(EventData, frozen=True, omit_defaults=True):
    """A check has found something, or could not be made. What it found is left out."""

    kind = "guardrail.hit"
    guardrail_capability_id: Annotated[str, _CAPABILITY]
    guardrail_id: Annotated[str, _CHECK]
    stage: Annotated[
        Literal["output", "tool_use", "tool_output"],
        Meta(description="What was checked: the model's text, a tool call, or a tool's output."),
    ]
    action: Annotated[
        Literal["block", "log", "replace", "ask"],
        Meta(
            description=(
                "What was done: the text was withheld, nothing, the place was masked, or a person is asked."
            )
        ),
    ]
    reason_code: Annotated[str, _REASON]
    rule_type: Annotated[str, Meta(description="The kind of the check.", examples=["regex"])]
    part: Annotated[
        Literal["text", "thinking", "call", "result"], Meta(description="The part that was checked.")
    ]
    count: Annotated[int, Meta(description="How many places it found.", examples=[1])] = 1
    turn_id: Annotated[TurnId | None, TURN_ID] = None
    message_id: Annotated[MessageId | None, Meta(description="The message that was checked.")] = None
    tool_call_id: Annotated[ToolCallId | None, Meta(description="The tool call that was checked.")] = None
    tool_name: Annotated[str | None, Meta(description="The tool of that call.")] = None
