"""The money of the model calls that judge for guardrails: of the same budgets as all others (promise P13)."""

from __future__ import annotations

from perdure.capabilities.guard_services import Pay
from perdure.capabilities.model_choice import ModelChoice
from perdure.domain.messages import Usage
from perdure.engine.budget import counted
from perdure.engine.run import Run
from perdure.engine.settlements import Money
from perdure.engine.spending import Refused, side_money
from perdure.llm.driver import Driver
from perdure.store.providers import UsableModel

LONGEST = 8_192
"""Tokens that a judge may write, if a budget applies: one word, but some models think before it."""
PAUSE = 0.25
"""Seconds until a judge tries again while other calls hold the rest of a budget. Its deadline ends that."""


def pay_of(run: Run) -> Pay:
    """Return what pays for the judges of a run. It raises ModelError if there is no money."""

    async def pay(model: UsableModel, driver: Driver, prompt: int) -> JudgeMoney | None:
        choice = ModelChoice(model.model, model.provider, driver)
        while True:
            try:
                money = await side_money(run, choice, counted(run, choice, prompt), LONGEST)
            except Refused as error:
                if error.refusal.why != "reserved":
                    raise
                await run.engine.clock.sleep(PAUSE)
                continue
            return None if money is None else JudgeMoney(run, money)

    return pay


class JudgeMoney:
    """What one call of a judge holds. The run's next append settles it, or the run's end."""

    def __init__(self, run: Run, money: Money) -> None:
        self._run, self._money = run, money
        self.receive = money.note_delta
        self.send = money.send

    @property
    def output(self) -> int:
        """Tokens of answer to ask for at most."""
        return min(LONGEST, self._money.output or LONGEST)

    def end(self, usage: Usage | None, *, refused: bool = False) -> None:
        """Settle the call: at what its end said, or else at what has arrived."""
        money = self._money
        if refused and not money.is_owed:
            usage = Usage(0, 0)
        settlement = money.given_up() if usage is None else money.settlement(usage)
        self._run.settling.append(settlement)
