"""The scheduler: fires schedules that are due.

Every process may run one: a compare-and-set on the schedule's row decides which process fires it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging

from perdure.app.context import App
from perdure.app.schedules import fire_due, redate_schedules
from perdure.domain.errors import PerdureError

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
        for check in itertools.count():
            try:
                if check % REDATE_EVERY == 0:
                    await redate_schedules(self._app)
                await fire_due(self._app)
            except PerdureError as error:
                log.warning("schedules cannot be fired: %s", error.message)
            except Exception:
                log.exception("schedules cannot be fired")
            await asyncio.sleep(CHECK_EVERY)
