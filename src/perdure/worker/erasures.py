"""Goes on with erasures until they are finished, whoever began them."""

from __future__ import annotations

import logging
from functools import partial

from perdure.app.context import App
from perdure.app.erasure_steps import take_step
from perdure.domain.errors import PerdureError
from perdure.engine.context import Clock
from perdure.store.erasures import (
    ErasureRow,
    free_erasures,
    get_erasure,
    running_erasures,
    take_erasure,
)
from perdure.worker.rounds import again_and_again

log = logging.getLogger("perdure.erasures")

LOOK_EVERY = 1.0
"""Seconds between two looks for erasures that can go on."""
SECONDS = 1.0
"""Seconds after which an erasure lets others have their turn."""
LEASE = 15_000_000
"""Microseconds for which a process has an erasure to itself: after a kill, another one waits so long."""


class Eraser:
    """Runs beside a worker, in every process that has one."""

    def __init__(self, app: App, clock: Clock) -> None:
        self._app = app
        self._clock = clock

    async def run(self) -> None:
        """Erase until cancelled."""
        await again_and_again(
            self._round, partial(self._clock.sleep, LOOK_EVERY), log, "the erasures failed", at_once=True
        )

    async def _round(self, number: int) -> None:
        if number == 0 and self._app.database.dialect == "sqlite":
            await self._app.database.write(free_erasures)
        while await self.once():
            pass

    async def once(self) -> bool:
        """Go on with each erasure for a moment; return whether one of them has more to do at once."""
        more = False
        for row in await self._app.database.read(running_erasures):
            try:
                more = await self._go_on(row) or more
            except PerdureError as error:
                log.warning("the erasure %s has to wait: %s", row.id, error.message)
            except Exception:  # it must not keep the others waiting
                log.exception("the erasure %s failed; it will be tried again", row.id)
        return more

    async def _go_on(self, row: ErasureRow) -> bool:
        database, now = self._app.database, self._app.now()
        if not await database.write(lambda tx: take_erasure(tx, row.id, now, now + LEASE)):
            return False
        began = self._clock.elapsed()
        try:
            while await take_step(
                self._app, await database.read(lambda tx: get_erasure(tx, row.org_id, row.id))
            ):
                if self._clock.elapsed() - began > SECONDS:
                    return True
        finally:
            await database.write(lambda tx: free_erasures(tx, row.id))
        return False
