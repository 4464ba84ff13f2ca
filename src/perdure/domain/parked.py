"""Parked calls: tool calls whose results come later, from outside the turn. Turns are parked, too."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from msgspec import Meta, Struct

from perdure.domain.decisions import ANYBODY, Approvers
from perdure.domain.ids import BudgetId, ToolCallId
from perdure.domain.times import Micros, Timestamp, to_rfc3339

ParkedKind = Literal["client", "approval", "callback", "sign_in", "input", "question", "child"]
"""Whom a parked call waits for: a client that runs it, a person who approves it, a callback's URL, a person
who signs in at another server, one who gives it what it asks for, one who answers the agent's questions, or
tasks of the session."""

ASKED: tuple[ParkedKind, ...] = ("client", "approval", "sign_in", "input", "question")
"""Kinds that wait for the session's own clients and people, whose next message withdraws such calls."""

CONSENT: tuple[ParkedKind, ...] = ("sign_in", "input")
"""Kinds whose answer does not end the call: it is made again, with what it waited for."""

ASKED_BY_TOOLS: tuple[ParkedKind, ...] = (*CONSENT, "question")
"""Kinds by which a tool that has begun waits for people: the session does when nothing else runs in it."""

PARKED_KIND = Meta(
    description=(
        "`client`: a client runs it; `approval`: somebody approves; `callback`: a URL is called; "
        "`sign_in`: somebody signs in; `input`: somebody gives what the tool asks for; `question`: somebody "
        "answers; `child`: tasks end; `rate_limit`: the model can be called again; `active_turns`: other "
        "turns end; `tokens_per_minute`: tokens may be used again; `budget`: a budget has money again; "
        "`reservation`: calls under way release the rest of a budget."
    )
)


LimitKind = Literal["rate_limit", "active_turns", "tokens_per_minute", "budget", "reservation"]
"""What a parked turn waits for: the end of its model's rate limit, room under a limit of its organization or
user, money in a budget, or calls that are under way and hold the rest of a budget."""
LIMITS: tuple[LimitKind, ...] = get_args(LimitKind)
ASKED_LIMITS: tuple[LimitKind, ...] = ("rate_limit", "budget")
"""Kinds whose wait a message of a person ends."""
LimitScope = Literal["organization", "user"]
"""Whose limit it is."""

AwaitedKind = ParkedKind | LimitKind
"""What a session waits for: that of a parked call, or of a parked turn."""


class ParkedCall(Struct, frozen=True, omit_defaults=True):
    """A parked call, as the session's row has it.

    A parked turn has an entry, too: without a tool.

    Attributes:
        until: its deadline.
        asked_at: the sequence of the event that parked it; 0 if an older release did.
        index: the call's position in that event, from 0.
        since: the time of that event.
        approvers: who may approve it.
        budget_id: the budget that a turn waits for.
    """

    kind: AwaitedKind
    tool_call_id: ToolCallId
    tool_name: str
    until: Micros
    asked_at: int = 0
    index: int = 0
    since: Micros = 0
    approvers: Approvers = ANYBODY
    budget_id: BudgetId | None = None

    def is_ahead(self, now: Micros) -> bool:
        """Whether this is a turn that a clock ahead of ours has parked: it would wait for too long."""
        return self.kind in LIMITS and self.since > now

    def on_wire(self) -> ParkedOn:
        """The call as clients see it."""
        return ParkedOn(self.kind, self.tool_call_id, self.tool_name, to_rfc3339(self.until), self.budget_id)


def parked_turn(
    kind: LimitKind, until: Micros, asked_at: int, since: Micros, budget_id: BudgetId | None
) -> ParkedCall:
    """The entry of a turn that waits."""
    return ParkedCall(kind, ToolCallId(""), "", until, asked_at=asked_at, since=since, budget_id=budget_id)


class ParkedOn(Struct, frozen=True, omit_defaults=True):
    """What a session waits for: a tool call, or what its parked turn waits for."""

    kind: Annotated[AwaitedKind, PARKED_KIND]
    tool_call_id: Annotated[
        ToolCallId,
        Meta(description="The tool call's id, as the model wrote it. Empty for a parked turn."),
    ]
    tool_name: Annotated[str, Meta(description="The tool. Empty for a parked turn.")]
    until: Annotated[
        Timestamp,
        Meta(description=("The deadline of the call. Of a parked turn: when the model is called again.")),
    ]
    budget_id: Annotated[
        BudgetId | None, Meta(description="With `budget`: the budget that has no money for the turn.")
    ] = None


def deadline_of(ts: Micros, timeout_ms: int) -> Micros:
    """The deadline of calls that were parked at `ts`."""
    return ts + timeout_ms * 1000


def next_deadline(calls: tuple[ParkedCall, ...]) -> Micros | None:
    """The earliest deadline of these calls; None without any."""
    return min((call.until for call in calls), default=None)
