"""Sees to budgets: turns whose money is there now, what lost model calls hold, and entries of ended ones."""

from __future__ import annotations

import logging

from perdure.app.budget_waits import book_ended_calls, resume_waiting, settle_left_holds
from perdure.app.context import App
from perdure.engine.context import Clock
from perdure.worker.rounds import again_and_again

log = logging.getLogger("perdure.budgets")

SWEEP_EVERY = 2.0
"""Seconds between two sweeps."""
LOOK_EVERY = 10
"""Sweeps between two looks for what lost calls hold, about 20 seconds."""


class BudgetSweep:
    """Runs beside a worker, in every process that has one."""

    def __init__(self, app: App, clock: Clock) -> None:
        self._app = app
        self._clock = clock

    async def run(self) -> None:
        """Sweep until cancelled."""
        await again_and_again(
            lambda number: self.once(look=number % LOOK_EVERY == 0),
            lambda: self._clock.sleep(SWEEP_EVERY),
            log,
            "the sweep of budgets failed",
        )

    async def once(self, *, look: bool = True) -> int:
        """Sweep once; return how many turns and lost calls it saw to. `look`: also look for lost calls."""
        resumed = await resume_waiting(self._app)
        lost = await settle_left_holds(self._app) if look else 0
        await book_ended_calls(self._app)
        return resumed + lost
