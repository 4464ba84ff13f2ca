"""The health of the database: whether it can be written, asked at most once a second."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from pathlib import Path

from perdure.domain.errors import Unavailable
from perdure.domain.times import Micros
from perdure.store.database import Database, Tx
from perdure.store.faults import unavailable
from perdure.store.probes import purge_probes, write_probe

FRESH = 1.0
"""Seconds for which an answer counts, so that checks cost the same however often they come."""
PATIENCE = 3.0
"""Seconds to wait for the database."""
RECENT = 5.0
"""Seconds for which a failure of a request counts, because a probe may not meet it."""
WRITABLE = frozenset({"disk_error", "disk_full", "read_only"})
"""Failures that a large write meets again, so that one which succeeds tells that they are over."""
FILLER = 1 << 20
"""Bytes of such a write."""
FILE = "perdure.db"
LEAST_FREE = 1 << 20
"""Bytes that must be free on the disk of the embedded database."""

log = logging.getLogger("perdure")


class DatabaseHealth:
    """Checks the database of this process. Concurrent checks share one probe.

    Args:
        folder: the folder of the embedded database; None for PostgreSQL.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._process = secrets.token_hex(8) if folder is None else "server"
        self._purged = False
        self._file = 0
        self._probe: asyncio.Task[None] | None = None
        self._at = -FRESH
        self._proved_at = -FRESH
        """When the last large write that succeeded began."""
        self._fault: Unavailable | None = None

    async def fault(self, database: Database, now: Micros) -> Unavailable | None:
        """Return what is wrong with the database; None if it is healthy."""
        if time.monotonic() - self._at >= FRESH:
            if self._probe is None or self._probe.done():
                self._probe = asyncio.create_task(self._check(database, now))
            done, _ = await asyncio.wait({self._probe}, timeout=PATIENCE)
            if not done:
                return unavailable("not_responding")
        recent = database.last_fault
        if self._fault is not None or recent is None or recent.at < self._proved_at:
            return self._fault
        return recent.error if time.monotonic() - recent.at < RECENT else None

    async def _check(self, database: Database, now: Micros) -> None:
        began, recent = time.monotonic(), database.last_fault
        doubt = recent is not None and recent.at > self._proved_at and recent.error.cause in WRITABLE
        filler = secrets.token_hex(FILLER // 2) if doubt else None

        async def body(tx: Tx) -> None:
            if not self._purged:
                await purge_probes(tx, now)
            await write_probe(tx, self._process, now, filler)

        try:
            self._check_disk()
            await database.write(body)
            self._purged, self._fault = True, None
            if doubt:
                self._proved_at = began
        except Unavailable as fault:
            self._fault = fault
        except Exception as error:
            log.exception("the health check failed")
            self._fault = Unavailable(f"the health check failed: {type(error).__name__}", cause="internal")
        self._at = time.monotonic()

    def _check_disk(self) -> None:
        if self._folder is None:
            return
        try:
            about = os.statvfs(self._folder)
            file = (self._folder / FILE).stat().st_ino
        except FileNotFoundError:
            raise unavailable("moved") from None
        except OSError as error:
            raise unavailable("unopenable", str(error.strerror)) from error
        self._file = self._file or file
        if self._file != file:
            raise unavailable("moved")  # SQLite goes on with the old file, which nobody finds again
        if about.f_bavail * about.f_frsize < LEAST_FREE:
            raise unavailable("disk_full")
