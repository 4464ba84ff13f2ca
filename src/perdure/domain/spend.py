"""What was spent on model calls: rows of the ledger, and sums of them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from perdure.domain.ids import AgentId, SessionId, UserId
from perdure.domain.model_profiles import CallPrice
from perdure.domain.times import Timestamp

SpendKey = Literal["model", "provider", "day", "session", "root_session", "agent", "user", "kind"]
CallKind = Literal["turn", "summary", "judge", "lost"]

_CALLS = Meta(description="The number of model calls.", examples=[12])
_INPUT = Meta(description="The number of input tokens, including cached ones.", examples=[48210])
_OUTPUT = Meta(description="The number of output tokens.", examples=[3920])
_READ = Meta(description="The number of input tokens read from vendors' caches.", examples=[40960])
_WRITTEN = Meta(description="The number of input tokens written to vendors' caches.", examples=[0])
_COST = Meta(description="The cost in US dollars, of the calls whose prices are known.", examples=[0.2034])
KIND = Meta(
    description=(
        "`turn`: a turn's own call; `summary`: one that summarized a conversation; `judge`: one that judged "
        "for a guardrail; `lost`: one whose end never arrived, counted as its budgets did."
    )
)


class ModelCall(Struct, frozen=True, omit_defaults=True):
    """A row of the ledger: a model call that was made. It stays when its session is deleted."""

    id: Annotated[
        str,
        Meta(
            description="The id of the event that ended the call.",
            examples=["event_01933b5a00007000800000000000018a"],
        ),
    ]
    created_at: Annotated[Timestamp, Meta(description="When the call ended.")]
    session_id: Annotated[SessionId, Meta(description="The session.")]
    root_session_id: Annotated[SessionId, Meta(description="The session at the top of its tree.")]
    user_id: Annotated[UserId, Meta(description="The session's owner.")]
    kind: Annotated[CallKind, KIND]
    model: Annotated[str, Meta(description="The model's name at its provider.", examples=["gpt-5.2"])]
    input_tokens: Annotated[int, _INPUT]
    output_tokens: Annotated[int, _OUTPUT]
    cache_read_tokens: Annotated[int, _READ] = 0
    cache_write_tokens: Annotated[int, _WRITTEN] = 0
    cost_usd: Annotated[
        float | None, Meta(description="The cost in US dollars. Absent if the price is not known.")
    ] = None
    price: Annotated[CallPrice | None, Meta(description="The prices that it was charged at.")] = None
    provider: Annotated[str | None, Meta(description="The provider's type.")] = None
    agent_id: Annotated[AgentId | None, Meta(description="The agent whose call it was.")] = None


class SpendSum(Struct, frozen=True):
    """What some model calls have used and cost."""

    calls: Annotated[int, _CALLS]
    input_tokens: Annotated[int, _INPUT]
    output_tokens: Annotated[int, _OUTPUT]
    cache_read_tokens: Annotated[int, _READ]
    cache_write_tokens: Annotated[int, _WRITTEN]
    cost_usd: Annotated[float, _COST]
    unpriced_calls: Annotated[
        int,
        Meta(description="How many of the calls have no known price, and are not in the cost.", examples=[0]),
    ]


class SpendGroup(SpendSum, frozen=True):
    """The calls that have the same model, day, session ..."""

    key: Annotated[
        str,
        Meta(
            description="What they share: a name, an id, or a day in UTC. Empty for calls without any.",
            examples=["2026-11-30"],
        ),
    ]


class SpendReport(Struct, frozen=True):
    """What was spent in a time, in groups."""

    by: Annotated[SpendKey, Meta(description="What the calls of a group share.")]
    from_ts: Annotated[Timestamp, Meta(description="The time begins here.")]
    to_ts: Annotated[Timestamp, Meta(description="The time ends before this.")]
    groups: Annotated[
        tuple[SpendGroup, ...],
        Meta(description="By day, oldest first. Otherwise the most expensive first, at most `limit`."),
    ]
    total: Annotated[SpendSum, Meta(description="The sum of all calls, of groups that are left out, too.")]
