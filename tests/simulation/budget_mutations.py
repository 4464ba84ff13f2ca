"""Mutations of what the server does with money. They take what those in `mutations.py` take."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from perdure.app import budget_waits
from perdure.domain.messages import Usage
from perdure.engine import advance, settlements, spending
from perdure.store import budget_holds, budgets, call_reads

Patch = pytest.MonkeyPatch


def money_is_released_twice(patch: Patch) -> None:
    real = budget_holds.move_money

    async def move(tx: Any, given: Any) -> Any:
        done = await real(tx, given)
        for each in given.settled:
            for charge in each.charges:
                await tx.run(
                    "UPDATE budget_shards SET reserved = reserved - ? WHERE budget_id = ?",
                    charge.held.amount,
                    charge.held.budget_id,
                )
        return done

    patch.setattr(settlements, "move_money", move)
    patch.setattr(budget_holds, "move_money", move)


def a_call_is_settled_as_often_as_it_is_told(patch: Patch) -> None:
    patch.setattr(budget_holds, "_END_HOLD", budget_holds._END_HOLD.replace(" AND settled_at IS NULL", ""))


def money_is_not_released(patch: Patch) -> None:
    real = budget_holds._settle
    patch.setattr(
        budget_holds, "_settle", lambda count: real(count).replace("reserved - CASE", "reserved - 0 * CASE")
    )


def a_call_is_settled_at_its_estimate(patch: Patch) -> None:
    real = settlements.Money.settlement

    def settlement(self: Any, usage: Any) -> Any:
        end = real(self, usage)
        used = self.so_far() if usage is None else usage
        amounts = [each.held.amount if used.output_tokens else 0 for each in end.charges]
        charges = [replace(each, amount=held) for each, held in zip(end.charges, amounts, strict=True)]
        return replace(end, charges=tuple(charges))

    patch.setattr(settlements.Money, "settlement", settlement)


def a_resumed_call_holds_nothing(patch: Patch) -> None:
    async def nothing(run: Any, agent: Any, choice: Any) -> list[Any]:
        return []

    patch.setattr(advance, "reopen", nothing)


def a_child_is_not_charged_to_the_budget_of_its_root(patch: Patch) -> None:
    real = budgets.standings_query

    def query(row: Any, *args: Any) -> Any:
        return real(replace(row, root_session_id=None, parent_session_id=None), *args)

    patch.setattr(budgets, "standings_query", query)
    patch.setattr(call_reads, "standings_query", query)


def a_turn_that_waits_is_forgotten(patch: Patch) -> None:
    async def nothing(tx: Any, *args: Any) -> None:
        return None

    patch.setattr(settlements, "wait_for_budget", nothing)


def money_is_held_whatever_is_left(patch: Patch) -> None:
    real = budget_holds._hold
    patch.setattr(budget_holds, "_hold", lambda count: real(count).replace(">= CASE", ">= 0 * CASE"))

    async def always(tx: Any, org_id: Any, held: Any, now: int) -> bool:
        await budgets.save_budget(
            tx,
            replace(
                row := await budgets.lock_budget(tx, org_id, held.budget_id), leased=row.leased + held.amount
            ),
        )
        await tx.run(
            "INSERT INTO budget_shards (budget_id, shard, leased, spent, reserved) VALUES (?, 0, ?, 0, 0)"
            " ON CONFLICT (budget_id, shard) DO UPDATE SET leased = budget_shards.leased + excluded.leased",
            held.budget_id,
            held.amount,
        )
        return True

    patch.setattr(spending, "lease", always)


def what_dead_attempts_hold_is_left(patch: Patch) -> None:
    async def nothing(*args: Any) -> list[Any]:
        return []

    patch.setattr(spending, "holds_of", nothing)
    patch.setattr(budget_waits, "left_holds", nothing)


def the_first_of_two_answers_is_not_paid_for(patch: Patch) -> None:
    real = spending.renew

    async def renew(run: Any, agent: Any, choice: Any, money: Any, used: Any = None) -> Any:
        return await real(run, agent, choice, money, None if used is None else Usage(0, 0))

    patch.setattr("perdure.engine.model_call.renew", renew)


def the_wait_of_a_turn_is_noted_before_it_is_parked(patch: Patch) -> None:
    real = spending.parked_instead

    async def parked(run: Any, *args: Any) -> Any:
        events = await real(run, *args)
        waits = [each for each in run.settling if isinstance(each, settlements.Awaited)]
        for each in waits:
            await run.engine.database.write(each.note)
            run.settling.remove(each)
        return events

    patch.setattr(spending, "parked_instead", parked)
    patch.setattr("perdure.engine.model_call.parked_instead", parked)


def a_new_period_forgets_what_is_held(patch: Patch) -> None:
    real = budgets.roll

    async def roll(tx: Any, row: Any, now: int) -> Any:
        rolled = await real(tx, row, now)
        if rolled is not row:
            await tx.run("UPDATE budget_shards SET reserved = 0 WHERE budget_id = ?", row.id)
        return rolled

    patch.setattr(budgets, "roll", roll)


def a_live_call_is_taken_for_a_lost_one(patch: Patch) -> None:
    real = budgets_left = budget_waits.left_holds

    async def left(tx: Any, before: int, latest: int) -> Any:
        rows = await tx.all(f"{budget_holds_sql} WHERE settled_at IS NULL AND created_at < ?", before)
        return [budget_holds.HoldRow(*row) for row in rows]

    budget_holds_sql = f"SELECT {budget_holds._HOLD_COLUMNS} FROM budget_holds"
    patch.setattr(budget_waits, "left_holds", left)
    assert real is budgets_left


BUDGET_FOCUS: dict[str, tuple[str, tuple[str, ...]]] = {
    "money_is_held_whatever_is_left": ("race", ("linger",)),
    "a_resumed_call_holds_nothing": ("used up", ("crash",)),
    "what_dead_attempts_hold_is_left": ("used up", ("crash",)),
    "a_call_is_settled_as_often_as_it_is_told": ("race", ("fault",)),
    "the_wait_of_a_turn_is_noted_before_it_is_parked": ("trouble", ("sweep_budgets", "linger")),
}
"""By mutation: the scenario and the kinds of injections that it takes, if few schedules have them."""

BUDGET_MUTATIONS = [
    money_is_released_twice,
    a_call_is_settled_as_often_as_it_is_told,
    money_is_not_released,
    a_call_is_settled_at_its_estimate,
    a_resumed_call_holds_nothing,
    a_child_is_not_charged_to_the_budget_of_its_root,
    a_turn_that_waits_is_forgotten,
    money_is_held_whatever_is_left,
    what_dead_attempts_hold_is_left,
    the_first_of_two_answers_is_not_paid_for,
    a_new_period_forgets_what_is_held,
    a_live_call_is_taken_for_a_lost_one,
]
