"""Resumes calls whose sign-in has happened, if the process that stored the tokens died before it did."""

from __future__ import annotations

import asyncio
import logging

from perdure.app.context import App
from perdure.app.input_requests import resume_signed_in
from perdure.worker.rounds import again_and_again

log = logging.getLogger("perdure.sign_in")

CHECK_EVERY = 2.0
"""Seconds between two looks."""


class Resumer:
    """Runs beside a worker, in every process that has one."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def run(self) -> None:
        """Look until cancelled."""
        await again_and_again(
            lambda number: self.once(),
            lambda: asyncio.sleep(CHECK_EVERY),
            log,
            "calls cannot be resumed",
            at_once=True,
        )

    async def once(self) -> int:
        """Resume what can be resumed; return how many calls that were."""
        return await resume_signed_in(self._app)
