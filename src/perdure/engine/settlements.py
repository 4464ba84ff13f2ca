"""What a model call holds of its budgets, and what its end settles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from perdure.domain.events import BudgetEventData, BudgetExceededData, BudgetWarningData, NewEvent
from perdure.domain.messages import Usage
from perdure.domain.spans import turn_context
from perdure.domain.spending import Reservation, SpentOn, Standing, charge, said_of, shown
from perdure.domain.times import Micros
from perdure.domain.turn_totals import Turn
from perdure.engine.outages import Also, both
from perdure.store.budgets import Charge, HoldRow, cost_in, hold, mark_warned, settle_hold
from perdure.store.database import Tx
from perdure.store.model_calls import add_lost_call
from perdure.store.rows import to_json

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
        new_id: Callable[[Literal["hold", "entry"]], str],
    ) -> None:
        self.output = reservation.output
        self._on, self._held, self._prompt = on, reservation.held, prompt
        self._standings = {each.id: each for each in standings}
        self._epoch, self._now, self._new_id = epoch, now, new_id
        self._id = new_id("hold")
        self._sent = False
        self._received = 0

    async def hold(self, tx: Tx) -> None:
        """Hold it, in the transaction that opens the call. Raises OverBudget: others were faster."""
        on, held = self._on, to_json(self._held)
        row = HoldRow(self._id, on.org_id, on.session_id, self._epoch, held, to_json(on), self._now)
        await hold(tx, row, self._held)

    def send(self) -> None:
        """Note that the call leaves: from now on, its prompt has to be paid for."""
        self._sent = True

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
        charges = tuple(Charge(each, charge(each, used), self._new_id("entry")) for each in self._held)
        after = tuple(
            msgspec.structs.replace(standing, spent=standing.spent + each.amount)
            for each in charges
            if (standing := self._standings[each.held.budget_id]).spent < standing.limit
        )
        return Settlement(self._on, self._id, charges, after)


class Settlement(Struct, frozen=True):
    """The end of a call, as its budgets see it."""

    on: SpentOn
    hold_id: str
    charges: tuple[Charge, ...]
    after: tuple[Standing, ...] = ()
    """The budgets that had money left when the call was planned, as they are now."""

    lost: Usage | None = None
    """What the call is counted as in the ledger, if its end is not in the log."""

    async def settle(self, tx: Tx, now: Micros) -> None:
        """Settle it. Only the first time counts."""
        held = await settle_hold(
            *(tx, self.on.org_id, self.hold_id, self.charges),
            session_id=self.on.session_id,
            source="model",
            ref_id=self.hold_id,
            now=now,
        )
        if held and self.lost is not None and (self.lost.input_tokens or self.lost.output_tokens):
            await add_lost_call(tx, self.on, self.hold_id, self.lost, cost_in(self.charges), now)
        warned = [each.id for each in self.after if _reached_soft_limit(each)]
        if held and warned:
            await mark_warned(tx, self.on.org_id, warned)

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


def _reached_soft_limit(standing: Standing) -> bool:
    return standing.soft_limit is not None and standing.spent >= standing.soft_limit and not standing.warned


def settled_also(settling: Sequence[Settlement], also: Also | None, now: Micros) -> Also:
    """Return what a transaction changes besides the log if it settles these calls, too."""

    async def settled(tx: Tx) -> None:
        for each in settling:
            await each.settle(tx, now)

    return both(settled, also)
