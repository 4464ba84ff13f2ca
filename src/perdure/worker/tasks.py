"""Sees to tasks: news that were not delivered, ends that were not carried out, time limits, lost tools."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

from perdure.app.context import App
from perdure.app.session_ends import carry_out, stop_task
from perdure.app.task_news import clear_note, deliver
from perdure.domain.errors import NotFound, PerdureError
from perdure.engine.context import Clock
from perdure.store.database import Tx
from perdure.store.queue import Job
from perdure.store.tasks import (
    Note,
    TaskRow,
    background_tasks,
    due_tasks,
    sessions_with_news,
    wished_tasks,
)
from perdure.worker.rounds import again_and_again

log = logging.getLogger("perdure.tasks")

SWEEP_EVERY = 2.0
"""Seconds between two sweeps."""
AT_ONCE = 200
"""The most tasks of a kind that one sweep sees to."""
NOTES = 2_000
"""The most notes of sessions for their parents that one sweep sees to. Nearly all of them only need to be
cleared, and the database commits many of those at once."""
LOOK_EVERY = 5
"""Sweeps between two looks for tools that nobody runs any more, about ten seconds."""
MOST_TOOLS = 20_000
"""The most tools in the background that one sweep looks at."""
OVERDUE = "its time limit has passed"
"""Why a task is stopped that takes too long, for people."""


class TaskSweep:
    """Runs beside a worker, in every process that has one."""

    def __init__(self, app: App, clock: Clock) -> None:
        self._app = app
        self._clock = clock

    async def run(self) -> None:
        """Sweep until cancelled."""
        await again_and_again(
            lambda number: self.once(look=number % LOOK_EVERY == 0),
            lambda: self._clock.sleep(SWEEP_EVERY),
            log,
            "the sweep of tasks failed",
        )

    async def once(self, *, look: bool = True) -> int:
        """Sweep once; return how many sessions and tasks it saw to.

        Args:
            look: also look for tools in the background that nobody runs.
        """
        app, now = self._app, self._app.now()

        async def candidates(tx: Tx) -> tuple[list[TaskRow], list[TaskRow], list[Note]]:
            wished, due = await wished_tasks(tx, AT_ONCE), await due_tasks(tx, now, AT_ONCE)
            return wished, due, await sessions_with_news(tx, NOTES)

        wished, due, notes = await app.database.read(candidates)
        news = [note.session_id for note in notes if not note.known]
        known = [clear_note(app, note.session_id, note.news) for note in notes if note.known]
        await _seen_to("the notes for parents", asyncio.gather(*known))
        for task in wished:
            await _seen_to(f"the task {task.id}", carry_out(app, task))
        for task in due:
            stopped = stop_task(app, task.org_id, task.session_id, task.id, "time_limit", OVERDUE)
            await _seen_to(f"the task {task.id}", stopped)
        for session_id in news:
            await _seen_to(f"the session {session_id}", deliver(app, session_id))
        lost = await self._take_up() if look else 0
        return len(wished) + len(due) + len(news) + lost

    async def _take_up(self) -> int:
        """Enqueue the tasks of tools that have no job: their process died, or lost the database."""
        queue = self._app.queue

        async def without_job(tx: Tx) -> list[TaskRow]:
            rows = await background_tasks(tx, MOST_TOOLS)
            return [row for row in rows if not await queue.has_live_job(tx, row.id)]

        async def enqueue(tx: Tx) -> None:
            for row in lost:
                if not await queue.has_live_job(tx, row.id):
                    await queue.enqueue(tx, Job(row.org_id, row.session_id, again=True, task_id=row.id))

        lost = await self._app.database.read(without_job)
        if lost:
            await self._app.database.write(enqueue)
        return len(lost)


async def _seen_to(what: str, work: Awaitable[object]) -> None:
    """See to one of many. What fails, such as one that is damaged, must not keep the others waiting."""
    try:
        await work
    except NotFound:
        log.debug("%s is gone", what)
    except PerdureError as error:
        log.warning("the sweep of tasks cannot see to %s: %s", what, error.message)
    except Exception:
        log.exception("the sweep of tasks cannot see to %s", what)
