"""The metrics that the database knows, read once for many scrapes, and never at the cost of others."""

from __future__ import annotations

import logging
import time

from perdure.app.context import App
from perdure.domain.errors import PerdureError
from perdure.store.backlog import Backlog, read_backlog

FRESH = 5.0
"""Seconds for which an answer counts, however often it is asked for."""
SHARE = 20
"""After a slow read, it counts for so many times as long as the read took."""
LONGEST = 2.0
"""Seconds that the read may take."""

log = logging.getLogger("perdure.metrics")


class CachedBacklog:
    """What waits in the database. Without an answer of the database, the last one, or nothing."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._until = 0.0
        self._last: Backlog | None = None

    async def read(self) -> Backlog | None:
        """Return what waits."""
        began = time.monotonic()
        if began < self._until:
            return self._last
        self._until = began + FRESH  # those who ask meanwhile get the last answer
        try:
            queue = self._app.queue
            self._last = await self._app.database.read(
                lambda tx: read_backlog(tx, queue), long=True, seconds=LONGEST
            )
        except PerdureError as error:
            self._last = None
            log.warning("the backlog cannot be read for the metrics: %s", error.message)
        now = time.monotonic()
        self._until = max(self._until, now + SHARE * (now - began))
        return self._last
