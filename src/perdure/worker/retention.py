"""Deletes what is older than it is kept: what the server keeps for a fixed time, and what organizations set.

Everything is done in small transactions that can be repeated. So a process that dies leaves nothing half
done, and several processes do no harm to one another.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from perdure.app.context import App
from perdure.app.purges import PURGES
from perdure.app.retention import delete_due
from perdure.app.session_ends import remove_session
from perdure.domain.errors import Conflict, NotFound, PerdureError
from perdure.domain.ids import OrgId
from perdure.domain.retention import RetentionKind
from perdure.domain.times import Micros
from perdure.engine.context import Clock
from perdure.store.database import Purged, Tx
from perdure.store.retention import (
    DAY,
    SESSIONS,
    all_organization_ids,
    days_of,
    delete_rows,
    due_sessions,
    organizations_with_days,
)
from perdure.store.session_deletion import orphans
from perdure.worker.rounds import again_and_again

log = logging.getLogger("perdure.retention")

EVERY = 60.0
"""Seconds between two rounds."""
SECONDS = 1.0
"""The most seconds per round for each kind of an organization, and for each fixed purge."""
REST = 3600.0
"""Seconds of rest once all of an organization's sessions were looked at."""
ORPHANS = 100
"""The most sessions that one round deletes because the one above them is deleted."""

_Key = tuple[OrgId, RetentionKind, int]


class RetentionSweep:
    """Runs beside a worker, in every process that has one."""

    def __init__(self, app: App, clock: Clock) -> None:
        self._app = app
        self._clock = clock
        self._places: dict[_Key, tuple[Micros, str]] = {}
        """The last session that was looked at, where a round has not come to the end."""
        self._rests: dict[_Key, float] = {}
        """Until when nothing is looked at again, in seconds on this process's monotonic clock."""

    async def run(self) -> None:
        """Delete until cancelled."""
        pause = partial(self._clock.sleep, EVERY)
        await again_and_again(lambda number: self.once(), pause, log, "the retention failed", at_once=True)

    async def once(self) -> None:
        """Do one round."""
        for purge in PURGES:
            await self._safely(purge.kind, partial(self._purge, purge.batch))
        await self._safely("sessions below deleted ones", self._delete_orphans)
        await self._safely("organizations", self._organizations)

    async def _safely(self, what: str, work: Callable[[], Awaitable[object]]) -> None:
        """Do one of many: what fails must not keep the others waiting."""
        try:
            await work()
        except PerdureError as error:
            log.warning("the retention of %s has to wait: %s", what, error.message)
        except Exception:
            log.exception("the retention of %s failed", what)

    async def _purge(self, batch: Callable[[Tx, Micros], Awaitable[Purged]]) -> None:
        """Purge batch by batch, so that other writes come in between."""
        now, began = self._app.now(), self._clock.elapsed()
        while (await self._app.database.write(lambda tx: batch(tx, now))).more:
            if self._clock.elapsed() - began > SECONDS:
                return

    async def _delete_orphans(self) -> None:
        """Delete sessions of sub-agents whose parents are deleted, and whose tasks were forgotten before."""
        for org_id, session_id in await self._app.database.read(lambda tx: orphans(tx, ORPHANS), long=True):
            with contextlib.suppress(NotFound, Conflict):
                await remove_session(self._app, org_id, session_id)

    async def _organizations(self) -> None:
        server = bool(self._app.retention.limited())
        ids = await self._app.database.read(all_organization_ids if server else organizations_with_days)
        alive = set[_Key]()
        for org_id in ids:
            own = await self._app.database.read(partial(days_of, org_id=org_id))
            for kind, days in own.over(self._app.retention).limited().items():
                key = (org_id, kind, days)
                alive.add(key)
                if self._rests.get(key, 0.0) <= self._clock.elapsed():
                    await self._safely(f"{kind} of {org_id}", partial(self._go_through, key))
        self._places = {key: place for key, place in self._places.items() if key in alive}
        self._rests = {key: until for key, until in self._rests.items() if key in alive}

    async def _go_through(self, key: _Key) -> None:
        """Delete what is due of a kind, as far as the time goes; the next round goes on."""
        org_id, kind, days = key
        now, began = self._app.now(), self._clock.elapsed()
        before = now - days * DAY
        while self._clock.elapsed() - began <= SECONDS:
            if kind in SESSIONS:
                ended = await self._remove_sessions(key, before)
            else:
                ended = not (
                    await self._app.database.write(lambda tx: delete_rows(tx, org_id, kind, before, now))
                ).more
            if ended:
                self._rests[key] = self._clock.elapsed() + REST
                return

    async def _remove_sessions(self, key: _Key, before: Micros) -> bool:
        """Delete those of the next sessions that are due; return whether none are left to look at."""
        org_id, kind, _ = key
        after = self._places.get(key, (-1, ""))
        due, last = await self._app.database.read(
            lambda tx: due_sessions(tx, org_id, kind, before, after), long=True
        )
        deleted, began, cut = 0, self._clock.elapsed(), False
        for session_id in due:
            cut = self._clock.elapsed() - began > SECONDS
            if cut:  # the next round finds the others at the same place
                break
            deleted += await delete_due(self._app, org_id, session_id, kind, before)
        if deleted:
            log.info("%d sessions of %s are older than they are kept (%s)", deleted, org_id, kind)
        if cut:
            return False
        if last is None:
            self._places.pop(key, None)
            return True
        self._places[key] = last
        return False
