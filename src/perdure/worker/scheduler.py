"""The scheduler: fires schedules that are due.

Every process may run one: a compare-and-set on the schedule's row decides which process fires it.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from perdure.app.context import App
from perdure.app.schedules import fire_due, redate_schedules
from perdure.worker.rounds import again_and_again

log = logging.getLogger("perdure.scheduler")

CHECK_EVERY = 1.0
"""Seconds between two checks, and so the delay of a firing at most."""

REDATE_EVERY = 60
"""Checks between two looks for firings that a wrong clock has put off, about a minute."""


class Scheduler:
    """Runs beside a worker, in every process that has one."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def run(self) -> None:
        """Fire due schedules until cancelled."""

        async def check(number: int) -> None:
            if number % REDATE_EVERY == 0:
                await redate_schedules(self._app)
            await fire_due(self._app)

        pause = partial(asyncio.sleep, CHECK_EVERY)
        await again_and_again(check, pause, log, "schedules cannot be fired", at_once=True)
