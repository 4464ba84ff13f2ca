"""The tool calls of the model's last answer, and the status of each.

    Announced -> Started -> Done
        |           |-> Parked -> Done        the result comes later, from outside (callback, question)
        |-> Parked (approval) -> Allowed -> Started -> Done
        |-> Parked (client) -> Done

    Started -> Parked (sign_in, input) -> Allowed -> Started -> Done

A call can also be done without having started: it was refused or withdrawn, or its arguments are invalid.
"""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.data_flow import External, ReasonCode
from perdure.domain.decisions import ANYBODY, Approvers
from perdure.domain.effects import effect_key
from perdure.domain.events import ToolCall
from perdure.domain.ids import SessionId, ToolCallId
from perdure.domain.messages import JsonValue
from perdure.domain.parked import ParkedKind
from perdure.domain.steps import Started
from perdure.domain.times import Micros


class Announced(Struct, frozen=True):
    """The model requested the call; nothing else has happened yet."""


class Parked(Struct, frozen=True):
    """The call waits until `until` for a result, or an approval, from outside.

    Attributes:
        asked_at: the sequence of the event that parked it; index: the call's position in that event.
        approvers: who may approve it.
        reasons: why it is asked about, beyond that its tool needs approval.
        external: where the result of a client's call comes from, if that is outside.
    """

    kind: ParkedKind
    until: Micros
    asked_at: int = 0
    index: int = 0
    approvers: Approvers = ANYBODY
    reasons: tuple[ReasonCode, ...] = ()
    external: External | None = None


class Allowed(Struct, frozen=True):
    """A person approved the call, signed in for it, or gave what it asked for."""


class Done(Struct, frozen=True):
    """The call has a result or, if it `failed`, an error, which the model receives.

    `interrupted`: its process died, or lost the database, while it ran.
    """

    failed: bool
    interrupted: bool = False


CallStatus = Announced | Parked | Allowed | Started | Done

ANNOUNCED = Announced()
ALLOWED = Allowed()


class CallState(Struct, frozen=True):
    """One tool call of the model's last answer.

    Attributes:
        announced_at: the event of that answer; `index` counts its calls from 0.
        edited: a person has replaced the arguments, which are no longer the model's.
        asks: a guardrail wants a person to approve it.
        vetted: policy hooks have decided on the arguments as they are.
    """

    id: ToolCallId
    name: str
    arguments: JsonValue
    status: CallStatus = ANNOUNCED
    announced_at: int = 0
    index: int = 0
    edited: bool = False
    vetted: bool = False
    asks: bool = False


class Batch(Struct, frozen=True):
    """The tool calls that the server runs concurrently."""

    calls: frozenset[ToolCallId]
    started_at: Micros


def key_of(session_id: SessionId, call: CallState) -> str:
    """The key of the call's effects."""
    return effect_key(session_id, call.announced_at, call.index)


def as_tool_call(call: CallState) -> ToolCall:
    """The call as events contain it."""
    return ToolCall(call.id, call.name, call.arguments)
