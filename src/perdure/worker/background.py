"""Runs tools in the background: the jobs of tasks, beside the runners of sessions.

Whoever begins an attempt counts it in the task's row, so that only the newest one can end the task. What a
process leaves when it dies is taken up by another one, which finds the task's job or, without one, its row.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from functools import partial

from msgspec.structs import replace

from perdure.app.background_tools import begin_attempt, put_back
from perdure.app.context import Services
from perdure.app.task_news import settle
from perdure.app.task_reports import Report
from perdure.domain.background import only_reads
from perdure.domain.effects import UNCERTAIN
from perdure.domain.errors import PerdureError
from perdure.domain.ids import SessionId, TaskId
from perdure.domain.tasks import MAX_SUMMARY, TaskArtifact, TaskError, TaskProgress
from perdure.domain.times import Micros, from_rfc3339
from perdure.engine.background_call import BackgroundCall, CallEnd, make_call, prepare
from perdure.engine.context import Engine
from perdure.engine.interrupted import INTERRUPTED
from perdure.engine.outages import outlast
from perdure.store.bus import Stop
from perdure.store.queue import Job, PutBack
from perdure.store.tasks import TaskRow, attempts_of, find_task

log = logging.getLogger("perdure.worker")

WATCH_EVERY = 0.5
"""Seconds between two looks at the rows of the running tasks: a stop whose signal was lost still takes effect
within a second."""
PROGRESS_EVERY, PROGRESS_SHARE = 2.0, 30
"""The least seconds between two updates of a task's progress in the log. After a minute, it is a share of the
time that the attempt has taken: a tool that runs for a day adds some 250 updates to the log, not 43,000."""
MAX_LABEL = 500
"""Characters of a line of progress."""
STOPPING = 7.0
"""Seconds that a process which stops waits for the tools that it has cancelled."""
FAULT = "The server has a fault: its log says more."


class _Running:
    """A task at work in this process. `attempt`: its number, once it has begun."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self.task = task
        self.attempt: int | None = None
        self.stopped = False

    def stop(self) -> None:
        """Stop it for good: the task has ended, or another attempt has begun."""
        self.stopped = True
        self.task.cancel()


class BackgroundTools:
    """The tools that run in the background of one process."""

    def __init__(self, engine: Engine, app: Services) -> None:
        self._engine = engine
        self._app = app
        self._worker_id = f"worker_{secrets.token_hex(8)}"
        self._running: dict[TaskId, _Running] = {}
        self._watching: asyncio.Task[None] | None = None
        self._draining = asyncio.Event()
        engine.bus.on_stop(self._on_stop)

    def start(self) -> None:
        """Start to watch the rows of the tasks that run here."""
        self._watching = asyncio.create_task(self._watch())

    async def handle(self, job: Job) -> None:
        """Run the tool of a task; return when the task has ended, or is somebody else's.

        Raises:
            PutBack: this process stops before that.
        """
        task_id = job.task_id
        if task_id is None:
            raise ValueError("the job is not one of a task")
        while (present := self._running.get(task_id)) is not None:
            await asyncio.wait([present.task])
        if self._draining.is_set():
            raise PutBack
        task = asyncio.create_task(self._run(job.session_id, task_id))
        running = self._running[task_id] = _Running(task)
        task.add_done_callback(lambda done: self._forget(task_id, running))
        await asyncio.wait([task])
        if self._draining.is_set() and not running.stopped and task.cancelled():
            raise PutBack

    def _forget(self, task_id: TaskId, running: _Running) -> None:
        if self._running.get(task_id) is running:
            del self._running[task_id]

    async def _run(self, session_id: SessionId, task_id: TaskId) -> None:
        """Begin an attempt, and end the task with what comes of it."""
        engine = self._engine
        read = partial(engine.database.read, partial(find_task, task_id=task_id))
        seen = await outlast(engine, session_id, read)
        if seen is None or seen.finished_at is not None or seen.wish is not None:
            return
        try:
            call = await outlast(engine, session_id, partial(prepare, engine, seen))
        except Exception:
            log.exception("the tool of task %s cannot be run", task_id)
            call = CallEnd(error=TaskError("internal_error", FAULT))
        if isinstance(call, BackgroundCall):
            call = _given_up(call) or call
        if call is None:
            return
        if isinstance(call, CallEnd):
            await self._end(seen, _unsure(seen, call))
            return
        began = await outlast(
            engine, session_id, partial(begin_attempt, self._app, seen, self._worker_id, call.patience)
        )
        if began is None:
            return
        self._running[task_id].attempt = began.attempt
        await self._end(began, await self._make(call, began))

    async def _make(self, call: BackgroundCall, began: TaskRow) -> CallEnd:
        """Make the call, and tell of its progress meanwhile."""
        earlier = call.task.struct().heartbeat_at if call.task.attempt else None
        progress = _Progress(self._app, self._engine, began)
        try:
            since = None if earlier is None else from_rfc3339(earlier)
            return await make_call(call, since, progress.say)
        except asyncio.CancelledError:
            if self._draining.is_set() and not self._running[began.id].stopped and call.repeatable:
                await self._put_back(began)
            raise
        except Exception:
            log.exception("the call of task %s failed", began.id)
            return CallEnd(error=TaskError("internal_error", FAULT))
        finally:
            await progress.end()

    async def _put_back(self, began: TaskRow) -> None:
        try:
            await put_back(self._app, began)
        except PerdureError as error:
            log.warning("the task %s is counted as interrupted: %s", began.id, error.message)

    async def _end(self, row: TaskRow, end: CallEnd) -> None:
        report = _report(row, end)
        await outlast(self._engine, row.session_id, partial(settle, self._app, row.id, report))

    def _on_stop(self, stop: Stop) -> None:
        running = None if stop.task_id is None else self._running.get(stop.task_id)
        if running is not None:
            running.stop()

    async def _watch(self) -> None:
        """Stop what has ended, is to be stopped, or has begun again elsewhere: signals may be lost."""
        while True:
            await self._engine.clock.sleep(WATCH_EVERY)
            begun = {id_: each.attempt for id_, each in self._running.items() if each.attempt is not None}
            if not begun:
                continue
            try:
                now = await self._engine.database.read(partial(attempts_of, task_ids=list(begun)))
            except PerdureError as error:
                log.warning("cannot read the rows of the running tasks: %s", error.message)
                continue
            for task_id, attempt in begun.items():
                running = self._running.get(task_id)
                if running is not None and running.attempt == attempt and now.get(task_id) != attempt:
                    running.stop()

    def resume(self) -> None:
        """Take tasks again, after `drain`."""
        self._draining.clear()
        self.start()

    async def drain(self, grace: float) -> int:
        """Take no more tasks, wait up to `grace` seconds for the running ones, then cancel the rest.

        Returns:
            The number of cancelled tasks, which another process takes up.
        """
        self._draining.set()
        if self._running:
            await asyncio.wait([each.task for each in self._running.values()], timeout=grace)
        left = [each.task for each in self._running.values()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=STOPPING)
        if self._watching is not None:
            self._watching.cancel()
        return len(left)


class _Progress:
    """Tells of a task's progress: of the newest line, and not too often."""

    def __init__(self, app: Services, engine: Engine, began: TaskRow) -> None:
        self._app, self._engine, self._began = app, engine, began
        self._line = ""
        self._ready = asyncio.Event()
        self._over = asyncio.Event()
        self._telling: asyncio.Task[None] | None = None

    def say(self, line: str) -> None:
        """Take a line, to be told soon."""
        self._line = line[:MAX_LABEL]
        self._ready.set()
        if self._telling is None and not self._over.is_set():
            self._telling = asyncio.create_task(self._tell())

    async def end(self) -> None:
        """Tell nothing more. What is being told is waited for, so that it does not follow the end."""
        self._over.set()
        self._ready.set()
        if self._telling is not None:
            await asyncio.wait([self._telling])

    async def _tell(self) -> None:
        began = self._engine.clock.now()
        while not self._over.is_set():
            self._ready.clear()
            progress = TaskProgress(label=self._line)
            report = Report("running", attempt=self._began.attempt, progress=progress)
            try:
                await settle(self._app, self._began.id, report)
            except PerdureError as error:
                log.warning("the progress of task %s is not logged: %s", self._began.id, error.message)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), pause_after(self._engine.clock.now() - began))
            await self._ready.wait()


def pause_after(passed: Micros) -> float:
    """The seconds until a task's progress is told again, after so many microseconds of telling it."""
    return max(PROGRESS_EVERY, passed / 1_000_000 / PROGRESS_SHARE)


def _given_up(call: BackgroundCall) -> CallEnd | None:
    """How a call ends that was interrupted and must not be made again; None if it may be."""
    attempts = call.task.attempt
    if attempts and not call.repeatable and not call.verifiable:
        return CallEnd(error=TaskError("interrupted", INTERRUPTED))
    if attempts > call.engine.policy.max_recoveries:
        often = f"It was interrupted {attempts} times: the server stopped each time while it ran."
        return CallEnd(error=TaskError("interrupted", often))
    return None


def _unsure(row: TaskRow, end: CallEnd) -> CallEnd:
    """Say of a call that cannot be made again that it may have taken effect before."""
    error = end.error
    if not row.attempt or only_reads(row.struct().spec) or error is None or UNCERTAIN in error.message:
        return end
    return CallEnd(error=TaskError(error.kind, f"{error.message} {UNCERTAIN}"))


def _report(row: TaskRow, end: CallEnd) -> Report:
    artifacts = tuple(
        TaskArtifact(each.path.rsplit("/", 1)[-1][:200] or "/", "file", each.path[:1000])
        for each in end.files
        if each.operation != "delete"
    )
    report = Report(
        "succeeded" if end.error is None else "failed",
        attempt=row.attempt,
        answer=end.text,
        output=end.value,
        error=end.error,
        artifacts=artifacts,
        result_path=end.result_path,
        files=end.files,
        external=end.external,
        found=end.found,
    )
    # The summary is only the beginning of a long text.
    return replace(report, output=end.text) if end.value is None and len(end.text) > MAX_SUMMARY else report
