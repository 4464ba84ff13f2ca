"""Measure what budgets cost: a turn under four of them, and 64 turns at once under one of an organization."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from functools import partial
from statistics import median

from bench.figures import Figures, Once, Scale, nothing
from bench.site import Site, open_site
from bench.turns import TEXT
from bench.variant import Stopwatch, Variant
from perdure.app.accounts import bootstrap
from perdure.domain.ids import BudgetId, new_id
from perdure.domain.model_profiles import ModelCost
from perdure.domain.money import NANOS
from perdure.settings import Settings
from perdure.store.budgets import BudgetRow
from perdure.store.database import Tx
from perdure.store.rows import insert, to_json, values
from perdure.wiring import open_parts

MANY = 64
LIMIT = 1_000_000 * NANOS
FOUR = (("organization", "usd"), ("organization", "tokens"), ("user", "usd"), ("user", "tokens"))
HOT = FOUR[:1]


@contextlib.asynccontextmanager
async def budgets(variant: Variant, scale: Scale) -> AsyncIterator[Once]:
    """Measure turns under budgets against turns of a server without any, in turns."""
    if variant.source is not None:
        yield nothing  # an older source may not know budgets
        return

    async def once() -> Figures:
        return {**await _alone(variant, scale), **await _at_once(variant, scale)}

    yield once


async def _alone(variant: Variant, scale: Scale) -> Figures:
    took: tuple[list[float], list[float]] = ([], [])
    cpu = [0.0, 0.0]
    async with contextlib.AsyncExitStack() as stack:
        places = [await stack.enter_async_context(_place(variant, kinds)) for kinds in (FOUR, ())]
        seats = [await site.seat() for site in places]
        for number in range(-10, scale.turns):  # in turns, so that drift affects both
            for at, (site, seat) in enumerate(zip(places, seats, strict=True)):
                watch = Stopwatch(site.server)
                total = (await seat.turn(site.desk, TEXT)).total
                if number >= 0:  # the first ones warm up
                    took[at].append(total)
                    cpu[at] += watch.cpu()
        for seat in seats:
            seat.close()
    return {
        "budgets_ms": median(four - none for four, none in zip(*took, strict=True)) * 1e3,
        "budgets_cpu_ms": (cpu[0] - cpu[1]) / scale.turns * 1e3,
    }


async def _at_once(variant: Variant, scale: Scale) -> Figures:
    async with contextlib.AsyncExitStack() as stack:
        places = [await stack.enter_async_context(_place(variant, kinds)) for kinds in (HOT, ())]
        crowds = [await stack.enter_async_context(site.seats(MANY * 4)) for site in places]
        rates: tuple[list[float], list[float]] = ([], [])
        for number in range(-1, 7):
            for at, (site, seats) in enumerate(zip(places, crowds, strict=True)):
                rate = await site.play(seats, MANY, scale.turns_at_once // 5, TEXT)
                if number >= 0:
                    rates[at].append(rate)
    return {"hot_budget_ratio": median(hot / none for hot, none in zip(*rates, strict=True))}


@contextlib.asynccontextmanager
async def _place(variant: Variant, kinds: tuple[tuple[str, str], ...]) -> AsyncIterator[Site]:
    """A server whose organization and user have these budgets, with plenty of money."""
    seed = partial(_endow, kinds=kinds)
    async with variant.server(seed=seed) as server, open_site(server, variant.model) as site:
        yield site


async def _endow(settings: Settings, kinds: tuple[tuple[str, str], ...]) -> None:
    async with open_parts(settings) as parts:
        owner, now = await bootstrap(parts.app), parts.app.now()

        async def write(tx: Tx) -> None:
            for kind, currency in kinds:
                subject = owner.organization_id if kind == "organization" else owner.user_id
                row = BudgetRow(
                    BudgetId(new_id("budget")),
                    owner.organization_id,
                    kind,
                    subject,
                    currency,  # type: ignore[arg-type]
                    LIMIT,
                    *(None, 0, None, None, None, "active"),
                    to_json(ModelCost(1.0, 2.0)),
                    *("{}", 0, 0, None, 0, now, now),
                )
                await tx.run(insert("budgets", BudgetRow), *values(row))

        await parts.database.write(write)
