"""Turns for searches are shared fairly."""

from __future__ import annotations

import asyncio

import pytest

from perdure.app.shares import Shares
from perdure.domain.errors import RateLimited
from perdure.domain.ids import OrgId

A, B = OrgId("org_a"), OrgId("org_b")


class Work:
    """Work that ends when told to."""

    def __init__(self, shares: Shares, org_id: OrgId) -> None:
        self.began, self.may_end = asyncio.Event(), asyncio.Event()
        self.task = asyncio.create_task(self._run(shares, org_id))

    async def _run(self, shares: Shares, org_id: OrgId) -> None:
        async with shares.turn(org_id):
            self.began.set()
            await self.may_end.wait()

    async def end(self) -> None:
        self.may_end.set()
        await self.task


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_an_organization_with_much_work_leaves_a_turn_to_the_others() -> None:
    shares = Shares(slots=3, each=2)
    many = [Work(shares, A) for _ in range(6)]
    await settle()
    assert [work.began.is_set() for work in many] == [True, True, False, False, False, False]
    other = Work(shares, B)
    await settle()
    assert other.began.is_set()
    await many[0].end()
    await settle()
    assert many[2].began.is_set()
    for work in (*many, other):
        work.may_end.set()
    await asyncio.gather(other.task, *(work.task for work in many))


async def test_organizations_have_their_turns_in_rotation() -> None:
    shares = Shares(slots=1, each=1)
    works = [Work(shares, org_id) for org_id in (A, A, A, B)]
    await settle()
    order = []
    for _ in works:
        running = next(work for work in works if work.began.is_set() and not work.task.done())
        order.append(works.index(running))
        await running.end()
        await settle()
    assert order == [0, 1, 3, 2]


async def test_work_is_refused_when_too_much_waits_or_its_turn_does_not_come() -> None:
    shares = Shares(slots=1, each=1, queue=1, patience=0.01)
    first = Work(shares, A)
    await settle()
    waiting = Work(shares, A)
    await settle()
    with pytest.raises(RateLimited) as caught:
        async with shares.turn(A):
            pass
    assert caught.value.code == "too_many_searches"
    assert caught.value.retry_after
    with pytest.raises(RateLimited):
        await waiting.task
    await first.end()
    async with shares.turn(A):
        pass


async def test_work_that_is_cancelled_gives_its_turn_back() -> None:
    shares = Shares(slots=1, each=1)
    first, second = Work(shares, A), Work(shares, A)
    await settle()
    second.task.cancel()
    await settle()
    third = Work(shares, A)
    first.task.cancel()
    await settle()
    assert third.began.is_set()
    await third.end()
