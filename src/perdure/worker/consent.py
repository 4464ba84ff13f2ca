"""Resumes calls whose sign-in has happened, if the process that stored the tokens died before it did."""

from __future__ import annotations

import asyncio
import logging

from perdure.app.context import App
from perdure.app.input_requests import resume_signed_in
from perdure.store.connections import purge_sign_ins
from perdure.store.input_requests import purge_input_requests
from perdure.worker.rounds import again_and_again

log = logging.getLogger("perdure.sign_in")

CHECK_EVERY = 2.0
"""Seconds between two looks."""
PURGE_EVERY = 300
"""Looks between two removals of what is over, about ten minutes."""
KEPT = 24 * 3600 * 1_000_000
"""Microseconds for which a question is kept after its deadline."""


class Resumer:
    """Runs beside a worker, in every process that has one."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def run(self) -> None:
        """Look until cancelled."""
        await again_and_again(
            lambda number: self.once(purge=number % PURGE_EVERY == 0),
            lambda: asyncio.sleep(CHECK_EVERY),
            log,
            "calls cannot be resumed",
            at_once=True,
        )

    async def once(self, *, purge: bool = False) -> int:
        """Resume what can be resumed; return how many calls that were."""
        app, now = self._app, self._app.now()
        if purge:
            await app.database.write(lambda tx: purge_sign_ins(tx, now))
            await app.database.write(lambda tx: purge_input_requests(tx, now - KEPT))
        return await resume_signed_in(app)
