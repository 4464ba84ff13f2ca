"""The server's processes, their health and what they count: for operators."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from msgspec.structs import asdict

from perdure.app.backlog import LONGEST
from perdure.app.context import App
from perdure.app.operators import require_operator
from perdure.domain.accounts import Caller
from perdure.domain.errors import Conflict, NotFound
from perdure.domain.ids import WorkerId
from perdure.domain.processes import (
    MetricsPoint,
    ProcessState,
    Role,
    TimeSeries,
    TurnCounts,
    TurnsHealth,
    Worker,
    Workers,
    WorkersSummary,
)
from perdure.domain.times import to_rfc3339
from perdure.store.backlog import Backlog, read_backlog
from perdure.store.database import Tx
from perdure.store.processes import ProcessRow, all_processes, counts_by, counts_of_day, want_drain
from perdure.store.workflows import count_sealed

FINE_HOURS, COARSE = 4, 5
"""Up to so many hours, a time series has a part for each minute; a longer one, for so many minutes."""


def to_worker(row: ProcessRow) -> Worker:
    """Convert a row to the resource that operators see."""
    process, takes = row.process, row.process.role != "api"
    stopped = row.state == "stopped"
    return Worker(
        id=process.id,
        worker_group=process.role,
        status=row.state,
        accepting_tasks=takes and row.state == "active" and not row.drain,
        activity_types=("turn",) if takes else (),
        max_concurrency=process.places,
        current_load=0 if stopped else row.running,
        tasks_completed=row.completed,
        tasks_failed=row.failed,
        hostname=process.host,
        pid=process.pid,
        version=process.version,
        started_at=to_rfc3339(row.started_at),
        last_heartbeat_at=to_rfc3339(row.seen_at),
    )


async def all_workers(
    app: App, caller: Caller, status: ProcessState | None = None, group: Role | None = None
) -> Workers:
    """List the processes of the server; the summary counts all of them. Raises Forbidden."""

    async def work(tx: Tx) -> list[ProcessRow]:
        await require_operator(tx, caller)
        return await all_processes(tx)

    workers = list(map(to_worker, await app.database.read(work)))
    found = tuple(
        each
        for each in workers
        if (status is None or each.status == status) and (group is None or each.worker_group == group)
    )
    return Workers(found, len(found), _summary(workers))


def _summary(workers: Sequence[Worker]) -> WorkersSummary:
    active = [each for each in workers if each.status == "active"]
    return WorkersSummary(
        active=len(active),
        draining=sum(each.status in ("draining", "drained") for each in workers),
        stopped=sum(each.status == "stopped" for each in workers),
        total_capacity=sum(each.max_concurrency for each in active),
        total_load=sum(each.current_load for each in workers),
    )


async def drain_worker(app: App, caller: Caller, worker_id: WorkerId, wanted: bool) -> Worker:
    """Have a process take no more turns, or take them again. It follows within seconds. Idempotent.

    Raises:
        Conflict: `worker_takes_no_turns`: it has stopped, or only serves the API.
        Forbidden, NotFound.
    """

    async def work(tx: Tx) -> ProcessRow:
        await require_operator(tx, caller)
        row = await _find(tx, worker_id)
        if row.process.role == "api" or row.state == "stopped":
            why = "has stopped" if row.state == "stopped" else "only serves the API"
            raise Conflict(f"the process {worker_id} {why}: it takes no turns", code="worker_takes_no_turns")
        await want_drain(tx, worker_id, wanted)
        return await _find(tx, worker_id)

    return to_worker(await app.database.write(work))


async def _find(tx: Tx, worker_id: WorkerId) -> ProcessRow:
    row = next((row for row in await all_processes(tx) if row.process.id == worker_id), None)
    if row is None:
        raise NotFound("worker")
    return row


async def read_time_series(app: App, caller: Caller, hours: int) -> TimeSeries:
    """Return what all processes have counted in the last hours, 24 at most. Raises Forbidden."""
    step = 1 if hours <= FINE_HOURS else COARSE

    async def work(tx: Tx) -> tuple[list[tuple[int, TurnCounts]], list[ProcessRow]]:
        await require_operator(tx, caller)
        return await counts_by(tx, hours * 60, step), await all_processes(tx)

    found, rows = await app.database.read(work)
    points = tuple(
        MetricsPoint(**asdict(counts), timestamp=to_rfc3339(minute * 60_000_000)) for minute, counts in found
    )
    return TimeSeries(points, step * 60, sum(row.state == "active" for row in rows))


async def read_turns_health(app: App, caller: Caller) -> TurnsHealth:
    """Return the health of what runs turns, in all organizations. Raises Forbidden."""

    async def work(tx: Tx) -> tuple[list[ProcessRow], Backlog, TurnCounts, int]:
        await require_operator(tx, caller)
        return (
            await all_processes(tx),
            await read_backlog(tx, app.queue),
            await counts_of_day(tx),
            await count_sealed(tx),
        )

    read = partial(app.database.read, long=True, seconds=LONGEST)
    rows, backlog, counts, sealed = await read(work)
    return _health(list(map(to_worker, rows)), backlog, counts, sealed)


def _health(workers: Sequence[Worker], backlog: Backlog, counts: TurnCounts, sealed: int) -> TurnsHealth:
    alive = [each for each in workers if each.status != "stopped"]
    accepting = [each for each in alive if each.accepting_tasks]
    capacity, load = sum(each.max_concurrency for each in accepting), sum(each.current_load for each in alive)
    failed = counts.turns_failed + counts.turns_sealed
    ended = counts.turns_completed + counts.turns_cancelled + failed
    full = bool(accepting) and load >= capacity
    return TurnsHealth(
        status="unhealthy" if not accepting else "degraded" if sealed or full else "healthy",
        total_workers=len(alive),
        active_workers=sum(each.status == "active" for each in alive),
        workers_accepting=len(accepting),
        total_capacity=capacity,
        current_load=load,
        load_percentage=round(100 * load / capacity, 1) if capacity else 0.0,
        pending_tasks=backlog.jobs,
        claimed_tasks=load,
        started_tasks=backlog.active + ended,
        completed_tasks=counts.turns_completed,
        failed_tasks=failed,
        running_workflows=backlog.active,
        pending_workflows=backlog.jobs,
        started_workflows=backlog.active + ended,
        completed_workflows=counts.turns_completed,
        failed_workflows=failed,
        parked_workflows=backlog.parked,
        dlq_size=sealed,
    )
