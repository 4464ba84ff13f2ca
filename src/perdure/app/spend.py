"""What was spent on model calls, from the ledger."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from msgspec.structs import replace

from perdure.app.context import App
from perdure.domain.accounts import RANK, Caller
from perdure.domain.errors import InvalidInput, NotFound
from perdure.domain.model_profiles import CallPrice
from perdure.domain.money import to_usd
from perdure.domain.spend import ModelCall, SpendGroup, SpendKey, SpendReport, SpendSum
from perdure.domain.times import Micros, to_rfc3339
from perdure.store.database import Row, Tx
from perdure.store.model_calls import (
    DAY,
    CallFilter,
    ModelCallRow,
    list_calls,
    sums_of_calls,
    time_of_call,
)
from perdure.store.rows import from_json

DEFAULT_DAYS = 30
"""The days that a report covers, unless it is asked for others."""
SECONDS = 20.0
"""The time limit of a sum, in seconds."""
BATCH = 1_000
"""Calls that an export reads at a time."""
CSV_COLUMNS = (
    "id", "created_at", "session_id", "root_session_id", "user_id", "agent_id", "kind", "provider", "model",
    "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "cost_usd",
    "input_price", "output_price", "cache_read_price", "cache_write_price",
)  # fmt: skip
"""The columns of an export. Prices are US dollars per million tokens."""

_PRICE = msgspec.json.Decoder(CallPrice)


async def spend_report(
    app: App, caller: Caller, filters: CallFilter, by: SpendKey, limit: int
) -> SpendReport:
    """Sum up the model calls in a time. Members see their own, admins everybody's.

    Raises:
        InvalidInput: the time ends before it begins.
        Unavailable: summing up takes too long: ask for less.
    """
    filters = _allowed(caller, filters)
    end = app.now() if filters.end is None else filters.end
    begin = end - DEFAULT_DAYS * DAY if filters.begin is None else filters.begin
    if begin >= end:
        raise InvalidInput("`from_ts` must be before `to_ts`", field="from_ts")
    timed = replace(filters, begin=begin, end=end)

    async def work(tx: Tx) -> tuple[list[Row], Row]:
        return await sums_of_calls(tx, caller.organization_id, timed, by, limit)

    groups, total = await app.database.read(work, seconds=SECONDS)
    named = tuple(SpendGroup(*_sum(row[1:]), _key(by, row[0])) for row in groups)
    return SpendReport(by, to_rfc3339(begin), to_rfc3339(end), named, SpendSum(*_sum(total)))


def _allowed(caller: Caller, filters: CallFilter) -> CallFilter:
    """The filters, which show members only their own sessions' calls."""
    if RANK[caller.role] >= RANK["admin"]:
        return filters
    if filters.user_id not in (None, caller.user_id):
        raise NotFound("user")
    return replace(filters, user_id=caller.user_id)


def _sum(row: Row) -> tuple[int, int, int, int, int, float, int]:
    calls, read, written, cached, stored, cost, unpriced = row
    return calls, read, written, cached, stored, to_usd(cost), unpriced


def _key(by: SpendKey, key: str | int) -> str:
    if by != "day":
        return str(key)
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=int(key))).date().isoformat()


async def list_model_calls(
    app: App, caller: Caller, filters: CallFilter, before: str | None, limit: int
) -> tuple[ModelCall, ...]:
    """List the rows of the ledger, newest first. Members see their own, admins everybody's.

    Args:
        before: only calls before the one with this id.

    Raises:
        NotFound: there is no such call.
    """
    filters = _allowed(caller, filters)

    async def work(tx: Tx) -> list[ModelCallRow]:
        cursor: tuple[Micros, str] | None = None
        if before is not None:
            ended = await time_of_call(tx, caller.organization_id, before)
            if ended is None:
                raise NotFound("model call")
            cursor = (ended, before)
        return await list_calls(tx, caller.organization_id, filters, cursor, limit)

    return tuple(map(_to_call, await app.database.read(work, long=True)))


def _to_call(row: ModelCallRow) -> ModelCall:
    return ModelCall(
        row.id,
        to_rfc3339(row.created_at),
        row.session_id,
        row.root_session_id,
        row.user_id,
        row.kind,
        row.model,
        row.input_tokens,
        row.output_tokens,
        row.cache_read_tokens,
        row.cache_write_tokens,
        None if row.cost is None else to_usd(row.cost),
        None if row.price is None else from_json(_PRICE, row.price, f"the model call {row.id}"),
        row.provider,
        row.agent_id,
    )


async def export_calls(app: App, caller: Caller, filters: CallFilter) -> AsyncIterator[bytes]:
    """Export the ledger's rows as CSV, newest first, some at a time."""
    filters = _allowed(caller, filters)
    yield _csv([CSV_COLUMNS])
    cursor: tuple[Micros, str] | None = None
    while True:
        after = cursor

        async def work(tx: Tx, after: tuple[Micros, str] | None = after) -> list[ModelCallRow]:
            return await list_calls(tx, caller.organization_id, filters, after, BATCH)

        rows = await app.database.read(work, long=True)
        if not rows:
            return
        yield _csv([_csv_row(_to_call(row)) for row in rows])
        cursor = (rows[-1].created_at, rows[-1].id)


def _csv_row(call: ModelCall) -> list[object]:
    price = call.price
    prices = (
        (None,) * 4 if price is None else (price.input, price.output, price.cache_read, price.cache_write)
    )
    return [
        *(call.id, call.created_at, call.session_id, call.root_session_id, call.user_id, call.agent_id),
        *(call.kind, call.provider, _cell(call.model), call.input_tokens, call.output_tokens),
        *(call.cache_read_tokens, call.cache_write_tokens, _plain(call.cost_usd), *map(_plain, prices)),
    ]


def _plain(number: float | None) -> str | None:
    """A number without an exponent, which some spreadsheets read as text."""
    return None if number is None else f"{number:.12f}".rstrip("0").rstrip(".")


def _cell(text: str) -> str:
    """A text that spreadsheets do not take for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _csv(rows: Sequence[Sequence[object]]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerows(rows)
    return out.getvalue().encode()
