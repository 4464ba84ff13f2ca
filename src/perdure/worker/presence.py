"""Presence: tells the database that this process lives, what it does, and what it counts.

It also does what operators want of the process: to take no more turns, and to take them again. Nothing else
depends on the rows: who works on a session is decided by its own row.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from functools import partial

from msgspec.structs import astuple

from perdure import __version__
from perdure.app.context import App
from perdure.domain.errors import PerdureError
from perdure.domain.ids import WorkerId
from perdure.domain.metrics import Metrics
from perdure.domain.processes import ProcessReport, ProcessState, Role, TurnCounts
from perdure.store.database import Tx
from perdure.store.processes import (
    Process,
    add_counts,
    drain_wanted,
    leave,
    purge_processes,
    remove_others,
    report,
)
from perdure.worker.rounds import again_and_again
from perdure.worker.worker import Worker

log = logging.getLogger("perdure.presence")

LOOK_EVERY = 1.0
"""Seconds between two looks at what has changed here, and at what operators want."""
WRITE_EVERY = {"sqlite": 60.0, "postgres": 2.0}
"""Seconds after which a heartbeat is written although nothing has changed. On SQLite there is nobody else who
would have to know."""
PURGE_EVERY = 60
"""Looks between two clean-ups."""
SESSIONS, BREAKERS = 200, 100
"""How many sessions and breakers a heartbeat has at most."""
LEAVING = 2.0
"""Seconds that the last report may take."""


class Presence:
    """The heartbeats of one process.

    Args:
        worker: what a drain stops; it does nothing in a process that only serves the API.
        places: how many turns it runs at a time.
        grace: seconds that running turns have before a drain gives them away.
        stopping: returns whether the process was asked to stop.
    """

    def __init__(
        self,
        app: App,
        worker: Worker,
        role: Role,
        places: int,
        grace: float,
        stopping: Callable[[], bool],
    ) -> None:
        self._app, self._worker = app, worker
        self._grace, self._stopping = grace, stopping
        self._process = Process(
            WorkerId(app.new_id("worker")),
            role,
            socket.gethostname()[:200],
            os.getpid(),
            __version__,
            0 if role == "api" else places,
        )
        self._state: ProcessState = "active"
        self._resting: asyncio.Task[None] | None = None
        self._said: ProcessReport | None = None
        self._said_at = 0.0
        self._counted = TurnCounts()

    async def run(self) -> None:
        """Give signs of life until cancelled."""
        pause = partial(asyncio.sleep, LOOK_EVERY)
        await again_and_again(self._beat, pause, log, "the heartbeat failed", at_once=True)

    async def leave(self) -> None:
        """Say that this process has stopped, if the database hears it soon."""
        try:
            async with asyncio.timeout(LEAVING):
                await self._tell()
                await self._app.database.write(lambda tx: leave(tx, self._process.id))
        except (TimeoutError, PerdureError) as error:
            log.warning("the database does not know that this process stops: %s", type(error).__name__)

    async def _beat(self, number: int) -> None:
        app = self._app
        if number == 0 and app.database.dialect == "sqlite":
            await app.database.write(lambda tx: remove_others(tx, self._process.id))
        wanted = await self._tell()
        if self._process.role != "api" and not self._stopping():
            await self._obey(wanted)
        if number % PURGE_EVERY == 0:
            await app.database.write(purge_processes)

    async def _tell(self) -> bool:
        """Write what is new; return whether an operator wants this process to drain."""
        database, process = self._app.database, self._process
        said, counted = self._report(), counts_of(self._app.metrics)
        now = asyncio.get_running_loop().time()
        every = WRITE_EVERY[database.dialect]
        more = TurnCounts(*(a - b for a, b in zip(astuple(counted), astuple(self._counted), strict=True)))
        if said == self._said and not any(astuple(more)) and now - self._said_at < every:
            wanted = await database.read(lambda tx: drain_wanted(tx, process.id))
            if wanted is not None:
                return wanted

        async def work(tx: Tx) -> bool:
            if any(astuple(more)):
                await add_counts(tx, more)
            return await report(tx, process, said)

        wanted = await database.write(work)
        self._said, self._said_at, self._counted = said, now, counted
        return wanted

    def _report(self) -> ProcessReport:
        app, worker = self._app, self._worker
        turns = app.metrics.turns.values
        return ProcessReport(
            "draining" if self._state == "active" and self._stopping() else self._state,
            worker.running,
            sum(int(count) for (outcome, _), count in turns.items() if outcome == "completed"),
            sum(int(count) for (outcome, _), count in turns.items() if outcome in ("failed", "sealed")),
            worker.sessions(SESSIONS),
            app.breakers.reports(app.now(), BREAKERS),
        )

    async def _obey(self, drain: bool) -> None:
        """Begin to drain, or take turns again."""
        if drain and self._state == "active":
            log.info("an operator drains this process: it takes no more turns")
            self._state = "draining"
            self._resting = asyncio.create_task(self._rest())
        elif not drain and self._state == "drained":
            await self._worker.resume()
            log.info("an operator lets this process take turns again")
            self._state = "active"

    async def _rest(self) -> None:
        left = await self._worker.rest(self._grace)
        self._state = "drained"
        log.info("this process is drained; it has given %d turns away", left)


def counts_of(metrics: Metrics) -> TurnCounts:
    """Sum up what this process has counted."""
    turns: dict[str, int] = {}
    for (outcome, _), count in metrics.turns.values.items():
        turns[outcome] = turns.get(outcome, 0) + int(count)
    return TurnCounts(
        turns_completed=turns.get("completed", 0),
        turns_failed=turns.get("failed", 0),
        turns_cancelled=turns.get("cancelled", 0),
        turns_sealed=turns.get("sealed", 0),
        recoveries=int(sum(metrics.recoveries.values.values())),
        model_calls=int(sum(metrics.model_calls.values.values())),
        model_failures=int(sum(metrics.model_failures.values.values())),
        tokens=int(
            sum(count for labels, count in metrics.tokens.values.items() if labels[-1] in ("input", "output"))
        ),
    )
