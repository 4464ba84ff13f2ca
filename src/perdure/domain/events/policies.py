"""The data of events about the decisions of policies."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from perdure.domain.event_data import EventData
from perdure.domain.ids import MessageId, ToolCallId, TurnId
from perdure.domain.messages import JsonObject


class ChangedText(Struct, frozen=True):
    """A message of the user that the model receives with another text."""

    id: Annotated[MessageId, Meta(description="The message.")]
    text: Annotated[str, Meta(description="The text that the model receives instead.")]


class HookDecidedData(EventData, frozen=True, omit_defaults=True):
    """A policy hook did not simply allow a model call or a tool call, or gave no decision.

    Before a call, the event is in the log before the call starts. A hook that allows leaves no event.
    """

    kind = "hook.decided"
    turn_id: Annotated[TurnId, Meta(description="The turn whose call it is.")]
    hook: Annotated[str, Meta(description="The hook's name, or the host of its URL.", examples=["dlp"])]
    event: Annotated[
        Literal["before_model", "before_tool", "after_tool"],
        Meta(description="What the hook was asked about.", examples=["before_tool"]),
    ]
    decision: Annotated[
        Literal["modify", "block", "none"],
        Meta(
            description=(
                "`none`: the hook gave no decision (see `failure`), and its configuration lets the call go "
                "on."
            ),
            examples=["block"],
        ),
    ]
    reason: Annotated[str | None, Meta(description="Why, as the hook says.")] = None
    failure: Annotated[
        str | None,
        Meta(description="Why the hook gave no decision. With `block`, its configuration blocks then."),
    ] = None
    tool_call_id: Annotated[ToolCallId | None, Meta(description="The tool call.")] = None
    tool_name: Annotated[str | None, Meta(description="The tool.")] = None
    arguments: Annotated[
        JsonObject | None,
        Meta(
            description="With `modify`, before a tool call: the arguments that take the place of the model's."
        ),
    ] = None
    messages: Annotated[
        tuple[ChangedText, ...],
        Meta(description="With `modify`, before a model call: messages that the model receives changed."),
    ] = ()
