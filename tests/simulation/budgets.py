"""Trees of sessions under budgets: what is injected into them, and how they are played (promise P13)."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec.structs import replace

from perdure.domain.budget_periods import DurationPeriod
from perdure.domain.errors import PerdureError
from perdure.domain.ids import BudgetId, new_id
from perdure.domain.model_profiles import ModelCost
from perdure.domain.spending import BudgetStatus
from perdure.store.budgets import BudgetRow, lock_budget, reclaim, save_budget
from perdure.store.rows import insert, to_json, values
from tests.simulation.budget_checks import BudgetWitness, check_budgets, check_parked
from tests.simulation.client import Client
from tests.simulation.injections import Injections
from tests.simulation.scenarios import TEXT, Scenario, Step
from tests.simulation.schedule import Listed
from tests.simulation.tree_checks import check_tree
from tests.simulation.trees import (
    TREE_GENTLE,
    TREE_KINDS,
    Call,
    TreeDrawn,
    TreeInjections,
    TreeSchedule,
    act,
    background,
    spawn,
    sweep_tasks,
)
from tests.simulation.world import BEGIN, Process, World

LEAST = 1_500
"""Tokens: about what a call of the simulation holds at least."""
PLENTY = 10**9
PERIOD = 600
"""Seconds. Deleted sessions are purged an hour later, which is no part of this."""


def _budgeted(
    name: str,
    *scripts: tuple[Step, ...],
    limit: int,
    actions: tuple[str, ...] = ("post 0", "rest"),
    **more: Any,
) -> Scenario:
    return Scenario(name, scripts, actions, tree=True, budget=limit * LEAST, **more)


def _step(*calls: Any, **more: Any) -> Step:
    return Step(calls, **more)


LOOK: Call = ("look", {})
WORK = (_step(LOOK), TEXT)
CRUMBS = (_step(*(spawn(f"c{number}", 2) for number in range(19))), TEXT)
BUDGETED = (
    _budgeted("enough", (_step(LOOK), TEXT), limit=40),
    _budgeted("used up", (_step(LOOK), _step(LOOK), TEXT), limit=2),
    _budgeted("nothing", (TEXT,), limit=0, actions=("post 0", "rest", "post 0", "rest")),
    _budgeted("race", (_step(*(spawn(f"c{number}", 1) for number in range(4))), TEXT), WORK, limit=6),
    _budgeted(
        "race in the background",
        (_step(*(background(f"c{number}", 1) for number in range(3))), TEXT),
        (Step(seconds=1.0), TEXT),
        limit=4,
        actions=("post 0", "rest", "raise", "rest"),
    ),
    _budgeted(
        "levels",
        (_step(spawn("a", 1)), TEXT),
        (_step(spawn("b", 2), spawn("x", 3)), TEXT),
        (_step(spawn("c", 3)), TEXT),
        (TEXT,),
        limit=6,
    ),
    _budgeted(
        "changed",
        (_step(spawn("a", 1), spawn("b", 1)), TEXT),
        (Step((LOOK,), seconds=2.0), TEXT),
        limit=8,
        actions=("post 0", "wait 1", "lower", "rest", "stop", "raise", "rest", "go", "rest"),
    ),
    _budgeted(
        "periods",
        (_step(background("a", 1), LOOK), TEXT),
        (Step(seconds=900.0), TEXT),
        limit=3,
        actions=("post 0", "rest", "post 0", "wait 700", "sweep", "post 0", "rest", "wait 700", "rest"),
    ),
    _budgeted(
        "trouble",
        (Step((LOOK,), failures=2), Step(empty=True), TEXT),
        (Step(failures=-1),),
        limit=5,
        actions=("post 0", "rest", "raise", "rest", "post 1", "rest"),
        fallback=True,
    ),
    _budgeted(
        "given up",
        (_step(spawn("a", 1), background("b", 1)), TEXT),
        (Step(seconds=90.0),),
        limit=5,
        actions=("post 0", "wait 1", "cancel", "rest", "post 1", "wait 1", "child cancel", "delete", "rest"),
    ),
    _budgeted(
        "summaries",
        (_step(*[LOOK] * 6), TEXT),
        limit=9,
        actions=("post 0", "rest") * 4,
        window=260,
        compaction=True,
    ),
    _budgeted(
        "messages",
        (Step((LOOK,), seconds=3.0), TEXT),
        limit=2,
        actions=("post 0", "wait 1", *("post 0", "rest") * 2),
    ),
)
FORTY = _budgeted("forty", (_step(spawn("a", 1), spawn("b", 1)), TEXT), CRUMBS, (TEXT,), limit=25)
"""Forty children race for the money of one session."""


class BudgetInjections(TreeInjections):
    """The injections into a tree under budgets."""

    async def _happen(self, process: Process, where: str, kind: str) -> None:
        await BUDGET_KINDS[kind](self, process, where)

    async def raise_limit(self, process: Process, where: str) -> None:
        await change(self._world, "raise", process)

    async def lower_limit(self, process: Process, where: str) -> None:
        await change(self._world, "lower", process)

    async def pause(self, process: Process, where: str) -> None:
        """Somebody pauses a budget, and lets it go on later."""
        await change(self._world, "stop", process)
        self._world.keep(self._later("go"))

    async def sweep_budgets(self, process: Process, where: str) -> None:
        """Another process sees to budgets at the same time."""
        other = self._another(process)
        other.spawn(sweep_tasks(other))

    async def next_period(self, process: Process, where: str) -> None:
        """A step takes so long that another period has begun."""
        await process.pause(PERIOD)

    async def _later(self, what: str) -> None:
        await asyncio.sleep(7.0)
        await change(self._world, what)


_ONLY = {name: method for name, method in vars(BudgetInjections).items() if not name.startswith("_")}
BUDGET_KINDS: dict[str, Callable[[Injections, Process, str], Awaitable[None]]] = {**TREE_KINDS, **_ONLY}
BUDGET_GENTLE = TREE_GENTLE | _ONLY.keys() - {"next_period"}


async def change(world: World, what: str, process: Process | None = None) -> None:
    """Have somebody change the budget of the root session, and make turns that wait for it go on."""
    process = process or (world.rng.choice(world.live()) if world.live() else world.start())
    task = process.spawn(_change(world, what, process))
    await asyncio.wait([task])


async def _change(world: World, what: str, process: Process) -> None:
    with contextlib.suppress(PerdureError):
        await process.app.database.write(lambda tx: _changed(tx, world, what))
        world.note(f"{process.name} budget {what}")
        await process.budget_sweep.once(look=False)


async def _changed(tx: Any, world: World, what: str) -> None:
    budget_id = world.budgets[-1]
    row = await lock_budget(tx, world.store.caller.organization_id, budget_id)
    limit, status = row.limit_amount, row.status
    match what:
        case "raise":
            limit += 3 * LEAST
        case "lower":
            limit -= min(limit, 2 * LEAST)
        case "plenty":
            limit, status = PLENTY, "active"
        case "stop":
            status = "paused"
        case "go":
            status = "active"
    await save_budget(tx, await reclaim(tx, replace(row, limit_amount=limit, status=status)))


async def open_budgets(world: World, limit: int) -> None:
    """Give the organization, the user, and the session a budget; only the last one is small."""
    caller = world.store.caller
    unpriced = to_json(ModelCost(1.0, 2.0))
    subjects = (
        ("organization", caller.organization_id, "usd", PLENTY * 1_000, unpriced),
        ("user", caller.user_id, "tokens", PLENTY, None),
        ("session", world.session_id, "tokens", limit, None),
    )
    period = to_json(DurationPeriod(PERIOD)) if world.scenario.name == "periods" else None
    status: BudgetStatus = "active"
    for kind, subject, currency, amount, price in subjects:
        row = BudgetRow(
            BudgetId(new_id("budget")),
            caller.organization_id,
            kind,
            subject,
            currency,  # type: ignore[arg-type]
            amount,
            None if kind != "session" else amount // 2,
            0,
            period,
            None if period is None else BEGIN,
            None if period is None else BEGIN + PERIOD * 1_000_000,
            status,
            price,
            "{}",
            *(0, 0, None, 0, BEGIN, BEGIN),
        )
        await world.store.write(lambda tx, row=row: tx.run(insert("budgets", BudgetRow), *values(row)))  # type: ignore[misc]
        world.budgets.append(row.id)


class BudgetSchedule(TreeSchedule):
    """A schedule of a tree under budgets."""

    replay = "tests/simulation/test_budgets.py"

    async def _live(self, world: World) -> None:
        client = Client(world)
        BudgetInjections(world, client)
        await self._open(world, client)
        world.counting = False
        await open_budgets(world, self.scenario.budget or 0)
        world.meter = BudgetWitness(world)
        world.counting = True
        for action in self.scenario.actions:
            verb, _, what = action.partition(" ")
            if verb == "child":
                await act(world, what)
            elif verb == "sweep":
                await asyncio.wait(
                    [process.spawn(sweep_tasks(process)) for process in world.live() or [world.start()]]
                )
            elif verb in ("raise", "lower", "stop", "go"):
                await change(world, verb)
            else:
                await self._do(world, client, *action.split())
        await self._rest(world)
        check_parked(world)
        await self._pay(world)
        await self._expire(world)
        world.counting = False
        undisturbed = isinstance(self.plan, Listed) and not self.plan.injections
        check_tree(world, gentle=False, undisturbed=undisturbed)
        await self._settle(world)
        check_budgets(world, gentle=self.gentle)

    async def _pay(self, world: World) -> None:
        """There is plenty of money from now on, and every turn goes on."""
        world.counting = False
        await change(world, "plenty")
        for process in world.live():
            process.spawn(sweep_tasks(process))
        await self._rest(world)
        world.counting = True

    async def _settle(self, world: World) -> None:
        """Two sweeps later, what lost calls hold is settled."""
        for _ in range(2):
            await asyncio.sleep(61)
            for process in world.live() or (world.start(),):
                process.spawn(sweep_tasks(process))
            await world.loop.quiet()


def drawn_budgets(seed: int) -> BudgetSchedule:
    """The schedule of a tree under budgets that is drawn with this seed."""
    rng = random.Random(seed)
    kinds = ["linger", "raise_limit", *rng.sample(sorted(BUDGET_KINDS), k=rng.randint(2, 8))]
    plan = TreeDrawn(rng, tuple(kinds))
    gentle = BUDGET_GENTLE.issuperset(kinds)
    return BudgetSchedule(
        rng.choice(BUDGETED), plan, rng, f"budget {seed}", lossy=rng.random() < 0.3, gentle=gentle
    )


def focused_budgets(name: str, kinds: tuple[str, ...], seed: int) -> BudgetSchedule:
    """A schedule of one scenario, with injections of these kinds alone."""
    rng = random.Random(seed)
    scenario, plan = next(each for each in BUDGETED if each.name == name), TreeDrawn(rng, kinds)
    return BudgetSchedule(scenario, plan, rng, f"{name} {seed}", lossy=False, gentle=False)


def listed_budgets(scenario: Scenario, injections: dict[int, str]) -> BudgetSchedule:
    """A schedule with these injections: kinds by the number of their point."""
    name = f"{scenario.name}:{','.join(f'{point}={kind}' for point, kind in injections.items())}"
    gentle = BUDGET_GENTLE.issuperset(injections.values())
    return BudgetSchedule(scenario, Listed(injections), random.Random(name), name, lossy=False, gentle=gentle)


def named_budgets(name: str) -> BudgetSchedule:
    """The schedule with this name: `budget SEED`, or `scenario:point=kind,...`."""
    if name.startswith("budget "):
        return drawn_budgets(int(name[7:]))
    scenario, _, rest = name.partition(":")
    found = next(each for each in (*BUDGETED, FORTY) if each.name == scenario)
    pairs = (pair.partition("=") for pair in rest.split(",") if pair)
    return listed_budgets(found, {int(point): kind for point, _, kind in pairs})
