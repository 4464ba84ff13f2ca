"""What a model call holds of its budgets, and what its end settles."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from perdure.domain.events import BudgetEventData, BudgetExceededData, BudgetWarningData, NewEvent
from perdure.domain.ids import BudgetId
from perdure.domain.messages import Usage
from perdure.domain.spans import turn_context
from perdure.domain.spending import Held, Reservation, SpentOn, Standing, charge, said_of, shown
from perdure.domain.times import Micros
from perdure.domain.turn_totals import Turn
from perdure.engine.outages import Also, both
from perdure.llm.driver import DeltaKind
from perdure.store.budget_holds import Charge, HoldRow, Move, Settled, cost_in, mark_warned, move_money
from perdure.store.budgets import wait_for_budget
from perdure.store.database import Tx
from perdure.store.model_calls import add_lost_call
from perdure.store.rows import to_json
from perdure.store.sessions import SessionRow

CHARACTERS = 4
"""Characters per token, for the part of an answer that was received when its call was given up."""


class Money:
    """What one model call holds of its budgets.

    Args:
        prompt: the estimated tokens of the prompt.
        epoch: that of the claim under which the call is made.

    Attributes:
        output: tokens of answer to ask for at most; None if no budget limits them.
    """

    def __init__(
        self,
        on: SpentOn,
        reservation: Reservation,
        standings: Sequence[Standing],
        prompt: int,
        *,
        epoch: int,
        now: Micros,
        hold_id: str,
    ) -> None:
        self.output = reservation.output
        self._on, self._held, self._prompt = on, reservation.held, prompt
        self._prices = reservation.prices
        self._standings = {each.id: each for each in standings}
        self._epoch, self._now, self._id = epoch, now, hold_id
        self._sent = False
        self._received = 0

    @property
    def held(self) -> tuple[Held, ...]:
        """What it holds of each budget."""
        return self._held

    def row(self) -> HoldRow:
        """What is stored of it while the call is under way."""
        on, held = self._on, to_json(self._held)
        return HoldRow(self._id, on.org_id, on.session_id, self._epoch, held, to_json(on), self._now)

    async def hold(self, tx: Tx) -> None:
        """Hold it, in a transaction that opens no call in the log. Raises OverBudget: others were faster."""
        await move_money(tx, Move([], self._now, self.row(), self._held))

    def send(self) -> None:
        """Note that the call leaves: from now on, its prompt has to be paid for."""
        self._sent = True

    def note_delta(self, kind: DeltaKind, text: str) -> None:
        """Note a piece of an answer that nobody follows."""
        self.receive(text)

    def receive(self, text: str) -> None:
        """Note a piece of the answer, in case its end never arrives."""
        self._received += len(text)

    @property
    def is_owed(self) -> bool:
        """Whether a part of the answer has arrived, so that the prompt was read and has to be paid for."""
        return self._received > 0

    def so_far(self) -> Usage:
        """Estimate what the call has used, without its end."""
        return Usage(self._prompt if self._sent else 0, -(-self._received // CHARACTERS))

    def given_up(self) -> Settlement:
        """Return what settles the call if its end will not be in the log."""
        return msgspec.structs.replace(self.settlement(None), lost=self.so_far())

    def settlement(self, usage: Usage | None) -> Settlement:
        """Return what settles the call. `usage`: what its end said; None if it said nothing."""
        used = self.so_far() if usage is None else usage
        charges = tuple(
            Charge(each, charge(price, used)) for each, price in zip(self._held, self._prices, strict=True)
        )
        after = tuple(
            msgspec.structs.replace(standing, spent=standing.spent + each.amount)
            for each in charges
            if (standing := self._standings[each.held.budget_id]).spent < standing.limit
            and standing.spent + each.amount >= _first_limit(standing)
        )
        return Settlement(self._on, self._id, charges, after)


class Settlement(Struct, frozen=True):
    """The end of a call, as its budgets see it."""

    on: SpentOn
    hold_id: str
    charges: tuple[Charge, ...]
    after: tuple[Standing, ...] = ()
    """The budgets that had money left when the call was planned and have reached a limit, as they are now."""

    announced: bool = False
    """Whether the log gets `events`. Else the budgets are not noted to have warned: the next call does."""

    lost: Usage | None = None
    """What the call is counted as in the ledger, if its end is not in the log."""

    async def count_lost(self, tx: Tx, now: Micros) -> None:
        """Count a call whose end is not in the log, once it is settled."""
        if self.lost is not None and (self.lost.input_tokens or self.lost.output_tokens):
            await add_lost_call(tx, self.on, self.hold_id, self.lost, cost_in(self.charges), now)

    def warned(self) -> list[BudgetId]:
        """The budgets of which the log says that the call has reached the soft limit."""
        if not self.announced:
            return []
        return [each.id for each in self.after if _reached_soft_limit(each)]

    def settled(self) -> Settled:
        """What ends it in the database."""
        return Settled(self.on.org_id, self.on.session_id, self.hold_id, self.charges)

    def events(self, turn: Turn, now: Micros) -> list[NewEvent]:
        """The events of the limits that the call has reached."""
        data: list[BudgetEventData] = []
        for each in self.after:
            if _reached_soft_limit(each):
                soft = shown(each.currency, each.soft_limit or 0)
                left, limit = shown(each.currency, each.balance), shown(each.currency, each.limit)
                message = f"The budget has reached its soft limit of {soft}: {left} of {limit} are left."
                data.append(BudgetWarningData(*said_of(each), message))
            if each.balance <= 0:
                message = f"The budget of {shown(each.currency, each.limit)} is used up."
                data.append(BudgetExceededData(*said_of(each), message))
        return [NewEvent(each, turn_context(turn), now) for each in data]


def _first_limit(standing: Standing) -> int:
    return standing.limit if standing.soft_limit is None else min(standing.soft_limit, standing.limit)


def _reached_soft_limit(standing: Standing) -> bool:
    return standing.soft_limit is not None and standing.spent >= standing.soft_limit and not standing.warned


class Awaited(Struct, frozen=True):
    """A budget that a turn waits for, which an append of the turn parks."""

    row: SessionRow
    budget_id: BudgetId
    needed: int
    since: Micros

    async def note(self, tx: Tx) -> None:
        """Note it in the transaction that parks the turn."""
        await wait_for_budget(tx, self.row, self.budget_id, self.needed, self.since)


def money_move(owed: Sequence[Settlement | Awaited], money: Money | None, now: Micros) -> Move | None:
    """Return what the statement of an append changes of budgets; None if nothing, or if it needs more.

    Arguments are those of `settled_also`, which does the rest.
    """
    if not owed and money is None:
        return None
    ended = [each for each in owed if isinstance(each, Settlement)]
    if len(ended) < len(owed) or len(ended) > 1:
        return None
    if any(each.lost is not None or each.warned() for each in ended):
        return None
    return _move(ended, money, now)


def _move(ended: Sequence[Settlement], money: Money | None, now: Micros) -> Move:
    settled = [each.settled() for each in ended]
    return Move(settled, now) if money is None else Move(settled, now, money.row(), money.held)


def settled_also(
    owed: Sequence[Settlement | Awaited], money: Money | None, also: Also | None, now: Micros
) -> Also | None:
    """Return what a transaction changes besides the log.

    Args:
        owed: the calls that it settles, and what a turn that it parks waits for.
        money: what the call holds that it opens.
        also: what it changes in addition.
    """
    if not owed and money is None:
        return also
    ended = [each for each in owed if isinstance(each, Settlement)]
    waits = [each for each in owed if isinstance(each, Awaited)]

    async def settled(tx: Tx) -> None:
        if warned := {each for end in ended for each in end.warned()}:
            await mark_warned(tx, ended[0].on.org_id, warned)
        done = await move_money(tx, _move(ended, money, now))
        for end, was_held in zip(ended, done, strict=True):
            if was_held:
                await end.count_lost(tx, now)
        for wait in waits:
            await wait.note(tx)

    return settled if also is None else both(also, settled)
