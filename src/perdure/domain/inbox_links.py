"""Links by which one item of the inbox can be decided without a login."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from perdure.domain.decisions import Reason
from perdure.domain.inbox import InboxItem, InboxKind
from perdure.domain.messages import JsonValue
from perdure.domain.questions import ANSWERS, Answers
from perdure.domain.times import Timestamp

LINK_PREFIX = "pdr_il_"
MAX_LINK_SECONDS = 30 * 24 * 3600
"""The longest time that a link stays valid: 30 days."""
MAX_LINKS = 20
"""Links of one item that may be valid at once."""
MAX_SHOWN_BYTES = 128 * 1024
"""Bytes of a call's arguments, as JSON, that a page shows. What is longer cannot be allowed by link."""
MAX_SHOWN_PARTS = 10_000
"""Newlines, commas and brackets in these arguments, each of which may begin a line of the page."""
MAX_LINK_BODY = 32 * 1024
"""The most bytes of a decision by link."""

SHOWN_EXAMPLE = "5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9"

LinkChoice = Literal["allow", "reject"]
LinkOutcome = Literal["allow", "reject", "answer"]

_EXPIRES_AT = Meta(
    description="When the link stops working: no later than the item's deadline.",
    examples=["2026-03-14T10:26:53.589793Z"],
)
_SHOWN = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
_DIGEST = Meta(
    description=(
        'The SHA-256 of what is shown: of the JSON `{"arguments":…,"tool_call_id":…,"tool_name":…}` '
        "without spaces, its keys sorted at every level."
    ),
    examples=[SHOWN_EXAMPLE],
)


class CreateLink(Struct, frozen=True, omit_defaults=True):
    """The body that creates a link to an item."""

    expires_in_seconds: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_LINK_SECONDS)] | None,
        Meta(description="How long the link works, up to 30 days. Default: until the item's deadline."),
    ] = None


class InboxLink(Struct, frozen=True):
    """A link by which whoever has it can decide one item."""

    url: Annotated[
        str,
        Meta(
            description="The URL. It is shown only here, and it is a credential: send it to one person.",
            examples=["https://agents.example.com/v1/links/pdr_il_..."],
        ),
    ]
    expires_at: Annotated[Timestamp, _EXPIRES_AT]


class LinkedItem(Struct, frozen=True, omit_defaults=True):
    """What a link shows of its item."""

    tool_name: Annotated[str, Meta(description="The tool that the agent called.", examples=["send_mail"])]
    tool_call_id: Annotated[str, Meta(description="The call that waits.", examples=["call_1"])]
    summary: Annotated[
        str, Meta(description="What is asked, in a sentence.", examples=["May send_mail run?"])
    ]
    arguments: Annotated[
        JsonValue,
        Meta(
            description=(
                "The call's arguments, with secrets blanked. With the kind `question`: the `questions`."
            ),
            examples=[{"to": "ada@example.com"}],
        ),
    ]
    shown: Annotated[str, _DIGEST]
    expires_at: Annotated[Timestamp, _EXPIRES_AT]
    display_name: Annotated[str | None, Meta(description="The tool's name, for people.")] = None
    session_title: Annotated[str | None, Meta(description="The session's title.")] = None
    agent: Annotated[str | None, Meta(description="The agent's name.")] = None
    truncated: Annotated[
        bool,
        Meta(description="Whether `arguments` are too long to show: only a rejection is accepted then."),
    ] = False
    kind: Annotated[
        InboxKind, Meta(description="`approval`: may the call run? `question`: answer the questions.")
    ] = "approval"


class DecideByLink(Struct, frozen=True, omit_defaults=True):
    """The body of a decision or of answers by link. It cannot change the arguments or decide later calls."""

    shown: Annotated[_SHOWN, Meta(description="The digest `shown` of what you saw, from the same URL.")]
    decision: Annotated[
        LinkChoice | None, Meta(description="With an approval: the decision.", examples=["allow"])
    ] = None
    answers: Annotated[Answers | None, ANSWERS] = None
    reason: Annotated[Reason | None, Meta(description="Why, for the model.")] = None


class LinkDecision(Struct, frozen=True):
    """The outcome of a decision by link."""

    status: Annotated[
        Literal["decided"], Meta(description="The decision is stored.", examples=["decided"])
    ] = "decided"
    decision: Annotated[LinkOutcome, Meta(description="The decision, or `answer`.", examples=["allow"])] = (
        "allow"
    )


def linked(item: InboxItem, expires_at: Timestamp) -> LinkedItem:
    """Return what a link shows of an item. The digest covers what would run."""
    asked = {"questions": msgspec.to_builtins(item.questions)}
    arguments = asked if item.kind == "question" else item.arguments
    truncated = _is_too_long(msgspec.json.encode(arguments))
    return LinkedItem(
        item.tool_name,
        item.tool_call_id,
        item.summary,
        "" if truncated else arguments,
        digest_of_shown(item.tool_name, item.tool_call_id, arguments),
        expires_at,
        item.display_name,
        item.session_title,
        item.agent,
        truncated,
        item.kind,
    )


def _is_too_long(text: bytes) -> bool:
    """Whether these arguments, as JSON, make a page that nobody reads, and that is costly to build."""
    parts = sum(text.count(each) for each in (b"\\n", b",", b"[", b"{"))
    return len(text) > MAX_SHOWN_BYTES or parts > MAX_SHOWN_PARTS


def digest_of_shown(tool_name: str, tool_call_id: str, arguments: JsonValue) -> str:
    """Return the SHA-256 of a call as it is shown."""
    shown = {"tool_name": tool_name, "tool_call_id": tool_call_id, "arguments": arguments}
    return hashlib.sha256(msgspec.json.encode(shown, order="deterministic")).hexdigest()
