"""The scheduler: fires what is due.

Every process may run one: a firing belongs to whoever moves its row on.
"""

from __future__ import annotations

import asyncio
import logging

from perdure.app.context import App
from perdure.app.schedules import fire_due
from perdure.domain.errors import PerdureError

log = logging.getLogger("perdure.scheduler")

LOOK_EVERY = 1.0
"""Seconds between two looks: how late a firing may be."""


class Scheduler:
    """Runs beside a worker, in every process that has one."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def run(self) -> None:
        """Fire for ever."""
        while True:
            try:
                await fire_due(self._app)
            except PerdureError as error:
                log.warning("schedules cannot be fired: %s", error.message)
            except Exception:
                log.exception("schedules cannot be fired")
            await asyncio.sleep(LOOK_EVERY)
