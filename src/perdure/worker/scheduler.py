"""The scheduler: fires schedules that are due.

Every process may run one: a compare-and-set on the schedule's row decides which process fires it.
"""

from __future__ import annotations

import asyncio
import logging

from perdure.app.context import App
from perdure.app.schedules import fire_due
from perdure.domain.errors import PerdureError

log = logging.getLogger("perdure.scheduler")

CHECK_EVERY = 1.0
"""Seconds between two checks, and so the delay of a firing at most."""


class Scheduler:
    """Runs beside a worker, in every process that has one."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def run(self) -> None:
        """Fire due schedules until cancelled."""
        while True:
            try:
                await fire_due(self._app)
            except PerdureError as error:
                log.warning("schedules cannot be fired: %s", error.message)
            except Exception:
                log.exception("schedules cannot be fired")
            await asyncio.sleep(CHECK_EVERY)
