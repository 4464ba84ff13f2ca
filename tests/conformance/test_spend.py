"""The ledger of model calls, on both databases."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perdure.app.accounts import bootstrap
from perdure.app.session_ends import delete_session
from perdure.app.sessions import create_session
from perdure.app.spend import CSV_COLUMNS, export_calls, list_model_calls, spend_report
from perdure.domain.accounts import Caller
from perdure.domain.errors import InvalidInput, NotFound, StaleHead
from perdure.domain.events import (
    EventContext,
    LlmGenerationData,
    LlmGenerationMetadata,
    LlmGenerationOutput,
    NewEvent,
    PromptRef,
)
from perdure.domain.ids import SessionId, new_id
from perdure.domain.messages import Usage
from perdure.domain.model_profiles import CallPrice
from perdure.domain.sessions import CreateSession
from perdure.domain.spend import SpendKey
from perdure.domain.times import Micros
from perdure.settings import Settings
from perdure.store.database import Tx
from perdure.store.model_calls import DAY, CallFilter
from perdure.store.sessions import append, get_session
from perdure.wiring import Parts, open_parts

NOON = 20_000 * DAY + DAY // 2


class Desk:
    """A session, whose model calls the test writes."""

    def __init__(self, parts: Parts, owner: Caller, session_id: SessionId) -> None:
        self.app, self.owner, self.session_id = parts.app, owner, session_id

    async def call(
        self, ts: Micros = NOON, model: str = "big", cost: float | None = 0.25, **fields: Any
    ) -> None:
        """Append the end of a model call with 100 tokens of input, 10 of them cached, and 5 of output."""
        usage = fields.pop("usage", Usage(100, 5, 10, None, cost))
        price = None if cost is None else CallPrice(2.5, 10.0)
        metadata = LlmGenerationMetadata(model, True, usage=usage, price=price, **fields)
        data = LlmGenerationData(metadata, LlmGenerationOutput("Yes."), PromptRef(0, 1))

        async def work(tx: Tx) -> None:
            row = await get_session(tx, self.owner.organization_id, self.session_id)
            await append(tx, row, [NewEvent(data, EventContext(), ts)], now=ts)

        await self.app.database.write(work, single=True)

    async def groups(self, by: SpendKey, **filters: Any) -> list[tuple[str, int, float]]:
        where = CallFilter(**{"begin": NOON - 10 * DAY, "end": NOON + 10 * DAY, **filters})
        report = await spend_report(self.app, self.owner, where, by, 100)
        assert report.total.calls == sum(group.calls for group in report.groups)
        return [(group.key, group.calls, group.cost_usd) for group in report.groups]


@pytest.fixture
async def desk(database_url: str, tmp_path: Path) -> AsyncIterator[Desk]:
    settings = Settings(data=str(tmp_path / "data"), database_url=database_url)
    async with open_parts(settings) as parts:
        owner = await bootstrap(parts.app)
        session = await create_session(parts.app, owner, CreateSession())
        yield Desk(parts, owner, session.id)


async def test_calls_are_summed_by_model_day_session_and_user(desk: Desk) -> None:
    agent = new_id("agent")
    await desk.call(NOON - DAY, "small", 0.01)
    await desk.call(NOON - DAY // 2, "big", 0.2)  # midnight: the next day begins
    await desk.call(NOON, "big", 0.1, agent_id=agent)
    await desk.call(NOON, "unknown", None)
    await desk.call(NOON, "silent", usage=None)
    assert await desk.groups("model") == [("big", 2, 0.3), ("small", 1, 0.01), ("unknown", 1, 0.0)]
    assert await desk.groups("day") == [("2024-10-03", 1, 0.01), ("2024-10-04", 3, 0.3)]
    assert await desk.groups("agent") == [("", 3, 0.21), (agent, 1, 0.1)]
    assert await desk.groups("session") == [(desk.session_id, 4, 0.31)]
    assert await desk.groups("root_session") == [(desk.session_id, 4, 0.31)]
    assert await desk.groups("user", model="big") == [(desk.owner.user_id, 2, 0.3)]
    assert await desk.groups("model", agent_id=agent) == [("big", 1, 0.1)]
    assert await desk.groups("kind", begin=NOON) == [("turn", 2, 0.1)]
    report = await spend_report(desk.app, desk.owner, CallFilter(NOON, NOON + 1), "model", 1)
    assert [group.key for group in report.groups] == ["big"]
    total = report.total
    assert (total.calls, total.unpriced_calls, total.cost_usd) == (2, 1, 0.1)
    assert (total.input_tokens, total.output_tokens, total.cache_read_tokens) == (200, 10, 20)


async def test_a_call_stays_in_the_ledger_when_its_session_is_deleted(desk: Desk) -> None:
    await desk.call()
    await delete_session(desk.app, desk.owner, desk.session_id)
    assert await desk.groups("session") == [(desk.session_id, 1, 0.25)]


async def test_a_call_whose_append_is_refused_is_not_in_the_ledger(desk: Desk) -> None:
    async def stale(tx: Tx) -> None:
        row = await get_session(tx, desk.owner.organization_id, desk.session_id)
        data = LlmGenerationData(
            LlmGenerationMetadata("big", True, usage=Usage(1, 1)), LlmGenerationOutput(None)
        )
        old = msgspec.structs.replace(row, head=row.head - 1)
        await append(tx, old, [NewEvent(data, EventContext(), NOON)], now=NOON)

    with pytest.raises(StaleHead):
        await desk.app.database.write(stale, single=True)
    assert await desk.groups("model") == []


async def test_rows_are_listed_newest_first_in_pages_and_exported(desk: Desk) -> None:
    for hour in range(5):
        await desk.call(NOON + hour, "=cmd()" if hour == 4 else "big", 1e-9)
    pages: list[list[Micros]] = []
    before: str | None = None
    while calls := await list_model_calls(desk.app, desk.owner, CallFilter(), before, 2):
        pages.append([int(call.created_at[-7:-1]) for call in calls])
        before = calls[-1].id
    assert pages == [[4, 3], [2, 1], [0]]
    text = b"".join([part async for part in export_calls(desk.app, desk.owner, CallFilter())]).decode()
    lines = list(csv.DictReader(io.StringIO(text)))
    assert tuple(lines[0]) == CSV_COLUMNS
    assert (len(lines), lines[0]["model"], lines[1]["model"]) == (5, "'=cmd()", "big")
    assert (lines[0]["cost_usd"], lines[0]["input_price"], lines[0]["cache_read_price"]) == (
        "0.000000001", "2.5", "",
    )  # fmt: skip
    with pytest.raises(NotFound):
        await list_model_calls(desk.app, desk.owner, CallFilter(), new_id("event"), 2)
    with pytest.raises(InvalidInput):
        await spend_report(desk.app, desk.owner, CallFilter(NOON, NOON), "day", 1)


async def test_members_see_what_their_own_sessions_spent_and_no_organization_sees_another(
    desk: Desk,
) -> None:
    await desk.call()
    member = msgspec.structs.replace(desk.owner, user_id=new_id("user"), role="member")
    stranger = msgspec.structs.replace(desk.owner, organization_id=new_id("org"))
    for caller in (member, stranger):
        assert await list_model_calls(desk.app, caller, CallFilter(), None, 10) == ()
        assert [part async for part in export_calls(desk.app, caller, CallFilter())][1:] == []
    with pytest.raises(NotFound):
        await list_model_calls(desk.app, member, CallFilter(user_id=desk.owner.user_id), None, 10)
    own = msgspec.structs.replace(desk.owner, role="member")
    assert len(await list_model_calls(desk.app, own, CallFilter(), None, 10)) == 1
