"""The ledger: one row for each model call, written with the event that ends it, and never changed."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from perdure.domain.events import Event, LlmGenerationData, NewEvent
from perdure.domain.ids import AgentId, OrgId, SessionId, UserId
from perdure.domain.messages import Usage
from perdure.domain.money import to_nanos
from perdure.domain.spend import CallKind, SpendKey
from perdure.domain.spending import SpentOn
from perdure.domain.times import Micros
from perdure.store.database import Row, Tx, Value
from perdure.store.rows import columns, insert, to_json, values


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
            _kind_of(data),
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


def _kind_of(data: LlmGenerationData) -> CallKind:
    if data.metadata.check_id is not None:
        return "judge"
    return "summary" if data.prompt is not None and data.prompt.before is not None else "turn"


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


class CallFilter(Struct, frozen=True):
    """The conditions for calls; None means any. `begin` is included, `end` is not."""

    begin: Micros | None = None
    end: Micros | None = None
    session_id: SessionId | None = None
    root_session_id: SessionId | None = None
    agent_id: AgentId | None = None
    user_id: UserId | None = None
    model: str | None = None

    def where(self, org_id: OrgId) -> tuple[str, list[Value]]:
        """Return the condition, and its arguments."""
        parts, args = ["org_id = ?"], list[Value]([org_id])
        plain: list[tuple[str, Value]] = [
            ("created_at >= ?", self.begin),
            ("created_at < ?", self.end),
            ("session_id = ?", self.session_id),
            ("root_session_id = ?", self.root_session_id),
            ("agent_id = ?", self.agent_id),
            ("user_id = ?", self.user_id),
            ("model = ?", self.model),
        ]
        for sql, value in plain:
            if value is not None:
                parts.append(sql)
                args.append(value)
        return " AND ".join(parts), args


DAY = 86_400_000_000
"""Microseconds."""
_KEYS: dict[SpendKey, str] = {
    "model": "model",
    "provider": "COALESCE(provider, '')",
    "day": f"created_at / {DAY}",
    "session": "session_id",
    "root_session": "root_session_id",
    "agent": "COALESCE(agent_id, '')",
    "user": "user_id",
    "kind": "kind",
}
_SUMS = (
    "COUNT(*), "
    + ", ".join(
        f"CAST(COALESCE(SUM({name}), 0) AS BIGINT)"
        for name in ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "cost")
    )
    + ", CAST(COALESCE(SUM(CASE WHEN cost IS NULL THEN 1 ELSE 0 END), 0) AS BIGINT)"
)


async def sums_of_calls(
    tx: Tx, org_id: OrgId, filters: CallFilter, by: SpendKey, limit: int
) -> tuple[list[Row], Row]:
    """Return the groups of calls, and the sum of all.

    A group has its key (of a day: its number since 1970), then what `SpendSum` has, the cost in billionths.
    """
    where, args = filters.where(org_id)
    order = "1" if by == "day" else "7 DESC, 3 DESC, 1"
    groups = await tx.all(
        f"SELECT {_KEYS[by]}, {_SUMS} FROM model_calls WHERE {where} GROUP BY 1 ORDER BY {order} LIMIT ?",
        *args,
        limit,
    )
    total = await tx.one(f"SELECT {_SUMS} FROM model_calls WHERE {where}", *args)
    return groups, total or (0,) * 7


async def list_calls(
    tx: Tx, org_id: OrgId, filters: CallFilter, before: tuple[Micros, str] | None, limit: int
) -> list[ModelCallRow]:
    """Return the newest calls that match, newest first; only those before one that ended then."""
    where, args = filters.where(org_id)
    if before is not None:
        where += " AND (created_at < ? OR (created_at = ? AND id < ?))"
        args += [before[0], before[0], before[1]]
    rows = await tx.all(
        f"SELECT {columns(ModelCallRow)} FROM model_calls WHERE {where}"
        " ORDER BY created_at DESC, id DESC LIMIT ?",
        *args,
        limit,
    )
    return [ModelCallRow(*row) for row in rows]


async def time_of_call(tx: Tx, org_id: OrgId, call_id: str) -> Micros | None:
    """Return when a call ended; None if there is no such call."""
    found = await tx.one("SELECT created_at FROM model_calls WHERE id = ? AND org_id = ?", call_id, org_id)
    return None if found is None else int(found[0])
