"""The witness of the money of budgets, and checks at the end of a schedule (promise P13)."""

from __future__ import annotations

from collections import Counter
from typing import Any

from perdure.store.budget_holds import HoldRow
from perdure.store.budgets import BudgetRow
from perdure.store.rows import columns
from tests.simulation.world import World

BUDGETS = f"SELECT {columns(BudgetRow)} FROM budgets ORDER BY id"
HOLDS = f"SELECT {columns(HoldRow)} FROM budget_holds WHERE settled_at IS NULL ORDER BY id"

ENTRIES = (
    "SELECT budget_id, SUM(amount) FROM (SELECT budget_id, amount FROM budget_entries UNION ALL"
    " SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM budget_holds, json_each(charges))"
    " GROUP BY 1"
)


class BudgetWitness:
    """Checks in each transaction that moves money that the sums add up, and that no hold passes a limit."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._before = self._look()
        self.settled: Counter[str] = Counter()
        """By hold: how often it was settled."""

    def check(self) -> None:
        """Check the current transaction."""
        before, after = self._before, self._look()
        if after == before:
            return
        self._before = after
        held: Counter[str] = Counter()
        for row in after["holds"].values():
            for part in row.held_structs():
                held[part.budget_id] += part.amount
        for budget_id, row in after["budgets"].items():
            leased, spent, reserved = after["shards"].get(budget_id, (0, 0, 0))
            was = before["shards"].get(budget_id, (0, 0, 0))
            if reserved != held[budget_id]:
                self._world.blame(
                    f"P13: {reserved} is reserved of {budget_id}, and calls hold {held[budget_id]}"
                )
            if leased != row.leased:
                self._world.blame(
                    f"the shards of {budget_id} have leased {leased}, and its row says {row.leased}"
                )
            limit = row.limit_amount + row.credit
            if reserved > was[2] and row.spent + spent + reserved > limit:
                self._world.blame(f"P13: a call holds more of {budget_id} than its {limit}")
            old = before["budgets"][budget_id]
            if row.period_started_at == old.period_started_at:
                more = row.spent + spent - old.spent - was[1]
                entered = after["entries"].get(budget_id, 0) - before["entries"].get(budget_id, 0)
                if more != entered:
                    self._world.blame(f"P13: {more} was spent of {budget_id}, and its entries say {entered}")
        for gone in before["holds"].keys() - after["holds"].keys():
            self.settled[gone] += 1

    def _look(self) -> dict[str, Any]:
        run = self._world.store.writer.execute
        return {
            "budgets": {row[0]: BudgetRow(*row) for row in run(BUDGETS)},
            "shards": {
                row[0]: row[1:]
                for row in run(
                    "SELECT budget_id, SUM(leased), SUM(spent), SUM(reserved) FROM budget_shards GROUP BY 1"
                )
            },
            "holds": {row[0]: HoldRow(*row) for row in run(HOLDS)},
            "entries": dict(run(ENTRIES).fetchall()),
        }


def check_parked(world: World) -> None:
    """Every turn that waits for a budget is noted, so that money makes it go on."""
    waits = {row[0] for row in world.store.reader.execute("SELECT session_id FROM budget_waits")}
    for session_id in (world.session_id, *world.store.below(world.session_id)):
        row = world.store.row(session_id)
        kinds = {each.kind for each in row.parked_calls()}
        if row.deleted_at is None and "budget" in kinds and session_id not in waits:
            world.blame(f"P13: {session_id[-4:]} waits for a budget, and nobody knows")
        if row.deleted_at is not None and session_id in waits:
            world.blame(f"{session_id[-4:]} is deleted, and waits for a budget")


def check_budgets(world: World, *, gentle: bool) -> None:
    """Record a violation for each promise about money that is broken once there was plenty of it."""
    run = world.store.reader.execute
    if run("SELECT 1 FROM budget_holds").fetchall():
        world.blame("P13: a hold is left, or a call that was not booked")
    if run("SELECT 1 FROM budget_shards WHERE reserved <> 0").fetchall():
        world.blame("P13: money is left reserved")
    for session_id in (world.session_id, *world.store.below(world.session_id)):
        row = world.store.row(session_id)
        if row.deleted_at is None and (row.status == "paused" or row.turn_id is not None):
            world.blame(f"P13: there is plenty of money, and {session_id[-4:]} is {row.status}")
    assert world.meter is not None
    if any(times > 1 for times in world.meter.settled.values()):
        world.blame("P13: a call was settled twice")
    _check_entries(world, gentle=gentle)


def _check_entries(world: World, *, gentle: bool) -> None:
    """Each call is charged once to each budget above it, and as much as its answer says."""
    found = world.store.reader.execute(
        "SELECT budget_id, ref_id, session_id, amount, source FROM budget_entries"
    ).fetchall()
    left = {row[0] for row in world.store.reader.execute("SELECT id FROM budgets")}
    refs: dict[str, Counter[str]] = {each: Counter() for each in world.budgets if each in left}
    paid: Counter[tuple[str, int]] = Counter()
    for budget_id, ref_id, session_id, amount, source in found:
        if budget_id not in left:
            world.blame(f"P13: an entry is left of {budget_id}, which was deleted with its session")
            continue
        refs[budget_id][ref_id] += 1
        if budget_id == world.budgets[1]:
            paid[session_id, amount] += 1
        if gentle and source == "lost_call" and not world.told.deletion_tried:
            world.blame("P13: nothing died, failed or stalled, but a call is lost")
    kept = {row[0] for row in world.store.reader.execute("SELECT id FROM budgets")}  # a session's die with it
    first, *others = (each for budget_id, each in refs.items() if budget_id in kept)
    if any(set(each) != set(first) for each in others):
        world.blame("P13: a call was not charged to all budgets above it")
    if any(times > 1 for each in refs.values() for times in each.values()):
        world.blame("P13: a call was charged twice")
    for session_id in (world.session_id, *world.store.below(world.session_id)):
        for event in world.store.events(session_id):
            if event.type != "llm.generation" or (usage := event.decoded().metadata.usage) is None:
                continue
            amounts = world.parts.get((usage.input_tokens, usage.output_tokens))
            for amount in amounts or [usage.input_tokens + usage.output_tokens]:
                if not paid[session_id, amount]:
                    world.blame(
                        f"P13: {event.sequence}: {session_id[-4:]} did not pay {amount} for an answer"
                    )
                paid[session_id, amount] -= 1
