"""What is kept of answered callbacks, and for how long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from perdure.app.callbacks import answer_callback
from perdure.app.session_ends import delete_session
from perdure.domain.callbacks import CallbackResult, hash_of_answer
from perdure.domain.errors import Gone
from perdure.engine.advance import advance
from perdure.store.callbacks import callback_by_hash, list_callbacks, purge_callbacks
from perdure.store.database import Tx
from perdure.store.session_deletion import mark_deleted
from perdure.store.sessions import get_session
from tests.journeys.test_discovery import Inside
from tests.journeys.test_parked_turns import Orders, one_order

RESULT = CallbackResult("result")


async def rows(there: Inside) -> list[tuple[Any, ...]]:
    sql = "SELECT session_id, answered_at IS NOT NULL FROM callbacks"
    return [tuple(row) for row in await there.app.database.read(lambda tx: tx.all(sql))]


async def answered(there: Inside, orders: Orders) -> str:
    """Have the model order, and answer; returns the token."""
    await there.ask()
    token = orders.urls[-1].rsplit("/", 1)[1]
    await answer_callback(there.app, token, RESULT)
    return token


async def test_an_answered_callback_belongs_to_its_session_but_is_not_open(
    database_url: str, tmp_path: Path
) -> None:
    orders = Orders()
    async with one_order(database_url, tmp_path, orders) as there:
        await answered(there, orders)
        assert await rows(there) == [(there.session.id, 1)]
        listed = await there.app.database.read(lambda tx: list_callbacks(tx, there.session.id, 0))
        assert listed == []


@pytest.mark.parametrize("by_itself", [False, True], ids=["use case", "store"])
async def test_a_deleted_session_leaves_nothing_of_its_callbacks(
    by_itself: bool, database_url: str, tmp_path: Path
) -> None:
    orders = Orders()
    async with one_order(database_url, tmp_path, orders) as there:
        token = await answered(there, orders)
        await advance(there.engine, there.session.id)
        if by_itself:

            async def delete(tx: Tx) -> None:
                row = await get_session(tx, there.owner.organization_id, there.session.id)
                await mark_deleted(tx, row, there.app.now())

            await there.app.database.write(delete)
        else:
            await delete_session(there.app, there.owner, there.session.id)
        assert await rows(there) == []
        with pytest.raises(Gone):
            await answer_callback(there.app, token, RESULT)


async def test_an_answer_is_kept_for_a_day_after_it_came_however_long_the_callback_was_open(
    database_url: str, tmp_path: Path
) -> None:
    orders = Orders()
    async with one_order(database_url, tmp_path, orders) as there:
        before = there.app.now()
        token = await answered(there, orders)
        after = there.app.now()
        digest = hash_of_answer(token, RESULT)
        kept = await there.app.database.read(lambda tx: callback_by_hash(tx, digest))
        assert kept is not None
        assert kept.answered_at is not None
        assert before <= kept.answered_at <= after < kept.deadline
        for limit, left in ((kept.answered_at, 1), (kept.answered_at + 1, 0)):
            await there.app.database.write(lambda tx, limit=limit: purge_callbacks(tx, limit))  # type: ignore[misc]
            assert len(await rows(there)) == left
