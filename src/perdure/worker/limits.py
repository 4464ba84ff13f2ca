"""Lets turns go on that wait for others to end, and shares what processes count with one another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial

from perdure.app.context import Services
from perdure.domain.ids import OrgId, SessionId, UserId
from perdure.store.database import Tx
from perdure.store.queue import Job
from perdure.store.turn_slots import (
    ACTIVE,
    AT_ONCE,
    ORGANIZATION_FULL,
    USER_FULL,
    OrgTurns,
    lock_turns,
    move_turn,
    waiting_turns,
)
from perdure.worker.rounds import again_and_again

log = logging.getLogger("perdure.limits")

LOOK_EVERY = 1.0
"""Seconds between two looks, and so until this process knows what others have counted. When a turn ends here,
those that wait for it go on within `LEAST`."""
LEAST = 0.02
"""Seconds between two looks at least."""


class LimitSweep:
    """Runs beside a worker, in every process that has one."""

    def __init__(self, app: Services) -> None:
        self._app = app

    async def run(self) -> None:
        """Look until cancelled."""
        await again_and_again(
            lambda number: self.once(), self._pause, log, "limits cannot be looked at", at_once=True
        )

    async def _pause(self) -> None:
        await asyncio.sleep(LEAST)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_EVERY):
                await self._app.meter.released.wait()

    async def once(self) -> int:
        """Look once; return how many turns go on."""
        app = self._app
        app.meter.released.clear()
        await app.meter.refresh(app.database, app.now())
        count = 0
        for org_id in app.meter.waiting():
            count += await app.database.write(partial(self._let_go, org_id=org_id))
        return count

    async def _let_go(self, tx: Tx, *, org_id: OrgId) -> int:
        """Let the organization's waiting turns go on, as far as there is room."""
        turns = await lock_turns(tx, org_id)
        for owner_id in self._app.meter.pending(org_id):
            turns.add(owner_id, ACTIVE, 1)  # it asks a hook, or writes a summary, before its first call
        most = self._app.meter.limits(org_id)
        limit = most.organization.active_turns
        room = AT_ONCE if limit is None else min(limit - turns.active, AT_ONCE)
        if room <= 0:
            return 0
        await self._join_line(tx, org_id, turns)
        count = 0
        for session_id, owner_id in await waiting_turns(tx, org_id, ORGANIZATION_FULL, None, room):
            own = turns.of(owner_id)
            if most.user.active_turns is not None and own.active >= most.user.active_turns:
                await move_turn(tx, session_id, ORGANIZATION_FULL, USER_FULL)
            elif await move_turn(tx, session_id, ORGANIZATION_FULL, ACTIVE):
                turns.add(owner_id, ACTIVE, 1)
                await self._app.queue.enqueue(tx, Job(org_id, session_id))
                count += 1
        return count

    async def _join_line(self, tx: Tx, org_id: OrgId, turns: OrgTurns) -> None:
        """Let turns that wait for their user's others wait for the organization's, if the user has room."""
        limit = self._app.meter.limits(org_id).user.active_turns
        left = AT_ONCE
        for owner_id, own in list(turns.users.items()):
            room = left if limit is None else min(left, limit - own.active - own.for_all)
            if own.for_own and room > 0:
                found: list[tuple[SessionId, UserId]] = await waiting_turns(
                    tx, org_id, USER_FULL, owner_id, room
                )
                for session_id, _ in found:
                    await move_turn(tx, session_id, USER_FULL, ORGANIZATION_FULL)
                left -= len(found)
