"""The inbox: what the sessions of an organization wait for that a person decides.

An item is a parked call, so nothing stores it: it is in the inbox while its session's row has the call. Its
id names the session, the event that asked, and the question in that event. A model may repeat a call's id,
but an item's id never stands for a later call.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, NewType

from msgspec import Meta, Struct

from perdure.domain.accounts import Caller
from perdure.domain.data_flow import AskReason
from perdure.domain.decisions import AnsweredBy, Approvers, Decided, Decision, Edited, LinkUse, Reason, Via
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import AgentId, BudgetId, SessionId, ToolCallId, UserId
from perdure.domain.input_requests import InputRequest
from perdure.domain.messages import JsonObject, JsonValue
from perdure.domain.questions import ANSWERS, Answers, AskedQuestion
from perdure.domain.speakers import Speaker
from perdure.domain.times import Timestamp

InboxItemId = NewType(
    "InboxItemId", Annotated[str, Meta(extra_json_schema={"pattern": "^inbox_[0-9a-f]{44}$"})]
)
"""`inbox_`, the 32 digits of the session's id, 8 of the sequence of the event that asks, and 4 of the index
of the question in that event; all hexadecimal."""

InboxKind = Literal["approval", "sign_in", "input", "question", "budget"]
"""What a person is asked for. Other kinds will follow."""

MAX_SHOWN = 4_000
"""Characters of the JSON of a call's arguments in a list. Of longer ones, only the start is shown."""

_ITEM_ID = re.compile(r"inbox_([0-9a-f]{32})([0-9a-f]{8})([0-9a-f]{4})")

_ID = Meta(
    description="The item's id. It never stands for another call.",
    examples=["inbox_0195f0c2a4b87c3d9e1f001122334455000000070000"],
)
_KIND = Meta(
    description=(
        "`approval`: may this call run? `sign_in`: sign in at the tool's server; `input`: give what the "
        "tool's server asks for; `question`: answer the agent's questions; `budget`: see to a budget without "
        "money. Other kinds will follow: ignore those that you do not know."
    ),
    examples=["approval"],
)
_SESSION_ID = Meta(description="The session that waits.")
_EXPIRES_AT = Meta(
    description="The deadline, after which the call is refused.", examples=["2026-03-14T10:26:53.589793Z"]
)


class ItemRef(Struct, frozen=True):
    """Which question an item is: the `index`-th of the event `sequence` of a session's log."""

    session_id: SessionId
    sequence: int
    index: int


def item_id(session_id: SessionId, sequence: int, index: int) -> InboxItemId:
    """Return the id of the `index`-th question of an event of a session."""
    return InboxItemId(f"inbox_{session_id[-32:]}{sequence:08x}{index:04x}")


def parse_item_id(text: str) -> ItemRef:
    """Return what an item's id names. Raises InvalidInput: it is not well-formed."""
    match = _ITEM_ID.fullmatch(text)
    if match is None:
        raise InvalidInput(
            "`item_id` must be an id of the form inbox_<44 lower-case hex digits>",
            code="invalid_id",
            field="item_id",
        )
    return ItemRef(SessionId(f"session_{match[1]}"), int(match[2], 16), int(match[3], 16))


def session_of_item(text: str) -> SessionId | None:
    """Return the session that an item's id names; None if it is not well-formed."""
    match = _ITEM_ID.fullmatch(text)
    return None if match is None else SessionId(f"session_{match[1]}")


class InboxLinks(Struct, frozen=True):
    """Where to go on from an item."""

    self: Annotated[str, Meta(description="The URL of the item.")]
    decide: Annotated[
        str,
        Meta(
            description=(
                "Where to POST the decision or the `answers`, the answer to an input request (`kind` is "
                "`input`), or a top-up "
                "(`budget`)."
            )
        ),
    ]
    session: Annotated[str, Meta(description="The URL of the session.")]


class InboxOutcome(Struct, frozen=True, omit_defaults=True):
    """How an item left the inbox."""

    status: Annotated[
        Literal["decided", "expired", "withdrawn"],
        Meta(
            description=(
                "`decided`: somebody decided, or the budget has money; `expired`: nobody did until the "
                "deadline; `withdrawn`: a new "
                "message or a cancel came first."
            ),
            examples=["decided"],
        ),
    ]
    at: Annotated[Timestamp, Meta(description="When.", examples=["2026-03-14T09:27:12.004211Z"])]
    decided: Annotated[
        Decided | None, Meta(description="With `decided`: the decision on an approval, and whose it is.")
    ] = None
    answered: Annotated[
        AnsweredBy | None, Meta(description="With `decided`: whose the answers to questions are.")
    ] = None


class InboxItem(Struct, frozen=True, omit_defaults=True):
    """What a session waits for that a person decides."""

    id: Annotated[InboxItemId, _ID]
    kind: Annotated[InboxKind, _KIND]
    session_id: Annotated[SessionId, _SESSION_ID]
    tool_name: Annotated[
        str,
        Meta(description="The tool that the agent called. Empty with `budget`.", examples=["send_mail"]),
    ]
    tool_call_id: Annotated[
        ToolCallId, Meta(description="The call that waits. Empty with `budget`.", examples=["call_1"])
    ]
    summary: Annotated[
        str, Meta(description="What is asked, in a sentence.", examples=["May send_mail run?"])
    ]
    may_decide: Annotated[
        Approvers, Meta(description="Who may decide. Empty: every member of the organization.", examples=[{}])
    ]
    you_may_decide: Annotated[bool, Meta(description="Whether you may decide.", examples=[True])]
    created_at: Annotated[
        Timestamp, Meta(description="Since when it waits.", examples=["2026-03-14T09:26:53.589793Z"])
    ]
    expires_at: Annotated[Timestamp, _EXPIRES_AT]
    links: Annotated[
        InboxLinks,
        Meta(
            description="Where to go on.",
            examples=[
                {
                    "self": "/v1/inbox/inbox_0195f0c2a4b87c3d9e1f001122334455000000070000",
                    "decide": "/v1/inbox/inbox_0195f0c2a4b87c3d9e1f001122334455000000070000/decision",
                    "session": "/v1/sessions/session_0195f0c2a4b87c3d9e1f001122334455",
                }
            ],
        ),
    ]
    session_title: Annotated[str | None, Meta(description="The session's title.")] = None
    agent_id: Annotated[AgentId | None, Meta(description="The session's agent, if it has one.")] = None
    agent: Annotated[str | None, Meta(description="The agent's name.")] = None
    asked_by: Annotated[
        Speaker | None,
        Meta(description="The agent that asks, if it is not the session's own: a participant, for example."),
    ] = None
    display_name: Annotated[str | None, Meta(description="The tool's name, for people.")] = None
    arguments: Annotated[
        JsonValue,
        Meta(
            description=(
                "With `approval`: the call's arguments, with secrets blanked. In lists, long ones are a "
                "text, the start of their JSON, and `truncated` is true."
            )
        ),
    ] = None
    truncated: Annotated[
        bool, Meta(description="Whether the end of `arguments` is left out: read the item itself.")
    ] = False
    schema: Annotated[
        JsonObject | None,
        Meta(description="With `approval`: the JSON Schema of the arguments. Not in lists."),
    ] = None
    input_requests: Annotated[
        tuple[InputRequest, ...],
        Meta(description="With `sign_in` and `input`: the questions that are still open."),
    ] = ()
    questions: Annotated[
        tuple[AskedQuestion, ...], Meta(description="With `question`: what the agent asks.")
    ] = ()
    budget_id: Annotated[
        BudgetId | None, Meta(description="With `budget`: the budget that has no money for the turn.")
    ] = None
    outcome: Annotated[
        InboxOutcome | None, Meta(description="How it left the inbox. Absent while it waits.")
    ] = None
    reasons: Annotated[
        tuple[AskReason, ...],
        Meta(description="With `approval`: why it is asked, beyond that the tool needs it."),
    ] = ()


class InboxCount(Struct, frozen=True):
    """How much is in the inbox."""

    total: Annotated[int, Meta(description="The number of items that match.", examples=[3])]
    mine: Annotated[int, Meta(description="How many of them you may decide.", examples=[2])]
    by_kind: Annotated[
        dict[str, int], Meta(description="The number by kind.", examples=[{"approval": 2, "input": 1}])
    ]


class DecideItem(Struct, frozen=True, omit_defaults=True):
    """The body of `POST /v1/inbox/{item_id}/decision`: a `decision` on an approval, or `answers`."""

    decision: Annotated[
        Decision | None,
        Meta(
            description=(
                "With `approval`: the decision. `..._always` also applies to every later call of that "
                "tool in this session."
            ),
            examples=["allow"],
        ),
    ] = None
    arguments: Annotated[JsonObject | None, Edited] = None
    reason: Annotated[Reason | None, Meta(description="Why, for the model.")] = None
    answers: Annotated[Answers | None, ANSWERS] = None


class Decider(Struct, frozen=True):
    """Who decides, and how.

    Attributes:
        caller: on whose authority: the caller of the API, or, for a link, who made it.
        address: the network address that the decision came from, if it is known.
        shown: the SHA-256 of what was shown to the person, in hexadecimal, if the server knows.
        link: the link that was used, if one was.
    """

    caller: Caller
    via: Via = "api"
    address: str | None = None
    user_agent: str | None = None
    shown: str | None = None
    link: LinkUse | None = None

    @property
    def user_id(self) -> UserId:
        """The user whose authority is used."""
        return self.caller.user_id
