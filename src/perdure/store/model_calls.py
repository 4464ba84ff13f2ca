"""The ledger: one row for each model call, written with the event that ends it, and never changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from perdure.domain.events import Event, LlmGenerationData, NewEvent
from perdure.domain.ids import AgentId, OrgId, SessionId, UserId
from perdure.domain.messages import Usage
from perdure.domain.money import to_nanos
from perdure.domain.spending import SpentOn
from perdure.domain.times import Micros
from perdure.store.database import Tx, Value
from perdure.store.rows import columns, insert, to_json, values

CallKind = Literal["turn", "summary", "lost"]


class ModelCallRow(Struct, frozen=True):
    """A model call that was made. `input_tokens` has the cached ones, too; `cost`: billionths of a dollar."""

    id: str
    org_id: OrgId
    created_at: Micros
    session_id: SessionId
    root_session_id: SessionId
    agent_id: AgentId | None
    user_id: UserId
    kind: CallKind
    provider: str | None
    model: str
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cost: int | None
    price: str | None


_INSERT = insert("model_calls", ModelCallRow)
INSERT_CALLS = f"INSERT INTO model_calls ({columns(ModelCallRow)})"


def calls_in(
    events: Sequence[NewEvent],
    stored: Sequence[Event],
    *,
    org_id: OrgId,
    root_id: SessionId,
    user_id: UserId,
) -> list[tuple[Value, ...]]:
    """Return the rows of the model calls that end with these events, most often one or none."""
    found = []
    for new, event in zip(events, stored, strict=True):
        data = new.data
        if not isinstance(data, LlmGenerationData) or data.metadata.usage is None:
            continue
        metadata, usage = data.metadata, data.metadata.usage
        cost = usage.estimated_cost_usd
        row = ModelCallRow(
            event.id,
            org_id,
            event.ts,
            event.session_id,
            root_id,
            metadata.agent_id,
            user_id,
            "summary" if data.prompt is not None and data.prompt.before is not None else "turn",
            metadata.provider,
            metadata.model,
            usage.input_tokens,
            usage.output_tokens,
            usage.cache_read_tokens or 0,
            usage.cache_creation_tokens or 0,
            None if cost is None else to_nanos(cost),
            None if metadata.price is None else to_json(metadata.price),
        )
        found.append(values(row))
    return found


async def add_lost_call(
    tx: Tx, on: SpentOn, call_id: str, usage: Usage, cost: int | None, now: Micros
) -> None:
    """Add a call whose end never arrived, with what it is counted as."""
    row = ModelCallRow(
        call_id,
        on.org_id,
        now,
        on.session_id,
        on.root_session_id or on.session_id,
        on.agent_id,
        on.user_id,
        "lost",
        on.provider,
        on.model,
        usage.input_tokens,
        usage.output_tokens,
        0,
        0,
        cost,
        None,
    )
    await tx.run(_INSERT, *values(row))
