"""Routes of the server's processes, for operators."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.api.kernel.call import Call
from perdure.api.kernel.route import route
from perdure.app import circuit_breakers as breakers
from perdure.app import processes as use
from perdure.domain.ids import ModelId, WorkerId
from perdure.domain.processes import (
    CircuitBreaker,
    CircuitBreakers,
    ClosedBreaker,
    ProcessState,
    Role,
    TimeSeries,
    TurnsHealth,
    Worker,
    Workers,
)


class ListWorkers(Struct, frozen=True):
    """Query parameters of the list of processes."""

    status: Annotated[ProcessState | None, Meta(description="Return only processes in this status.")] = None
    worker_group: Annotated[Role | None, Meta(description="Return only processes with this role.")] = None


class ReadTimeSeries(Struct, frozen=True):
    """Query parameters of the time series."""

    hours: Annotated[
        int,
        Meta(
            description="How many hours to go back. Up to 4, each point is a minute, else five.",
            ge=1,
            le=24,
        ),
    ] = 3


@route("GET", "/v1/durable/workers", "operations", errors=(403,))
async def list_workers(call: Call, query: ListWorkers) -> Workers:
    """List the processes of the server.

    Those that have stopped are shown for an hour. For administrators of the first organization.
    """
    return await use.all_workers(call.app, call.caller, query.status, query.worker_group)


@route("POST", "/v1/durable/workers/{worker_id}/drain", "operations", errors=(403, 404, 409))
async def drain_worker(call: Call, worker_id: WorkerId) -> Worker:
    """Have a process take no more turns.

    It follows within seconds. Running turns get `PERDURE_DRAIN_SECONDS`; what is unfinished then goes to
    other processes, or waits in the queue if there is none. The process still serves the API. For
    administrators of the first organization.
    """
    return await use.drain_worker(call.app, call.caller, worker_id, wanted=True)


@route("POST", "/v1/durable/workers/{worker_id}/resume", "operations", errors=(403, 404, 409))
async def resume_worker(call: Call, worker_id: WorkerId) -> Worker:
    """Have a drained process take turns again.

    It follows within seconds. For administrators of the first organization.
    """
    return await use.drain_worker(call.app, call.caller, worker_id, wanted=False)


@route("GET", "/v1/durable/health", "operations", errors=(403,))
async def get_turns_health(call: Call) -> TurnsHealth:
    """Get the health of what runs turns.

    The figures are about all organizations, so this is for administrators of the first one.
    """
    return await use.read_turns_health(call.app, call.caller)


@route("GET", "/v1/durable/metrics/timeseries", "operations", errors=(403,))
async def get_metrics_timeseries(call: Call, query: ReadTimeSeries) -> TimeSeries:
    """Get what all processes have counted in the last hours.

    Parts of the time in which nothing was counted are left out. Counts are kept for a day, and are about all
    organizations: this is for administrators of the first one.
    """
    return await use.read_time_series(call.app, call.caller, query.hours)


@route("GET", "/v1/durable/circuit-breakers", "operations", errors=(403,))
async def list_circuit_breakers(call: Call) -> CircuitBreakers:
    """List the circuit breakers of models that fail.

    Of the organization's models, in all processes; each process has its own, and reports it within seconds. A
    model whose last call was answered has none. Requires the role `admin`.
    """
    return await breakers.all_breakers(call.app, call.caller)


@route("GET", "/v1/durable/circuit-breakers/{key}", "operations", errors=(403, 404))
async def get_circuit_breaker(call: Call, key: ModelId) -> CircuitBreaker:
    """Get the circuit breaker of a model.

    From the process where it is worst. 404 if the model's last call was answered. Requires the role `admin`.
    """
    return await breakers.read_breaker(call.app, call.caller, key)


@route("POST", "/v1/durable/circuit-breakers/{key}/close", "operations", errors=(403, 404))
async def close_circuit_breaker(call: Call, key: ModelId) -> ClosedBreaker:
    """Close the circuit breakers of a model's provider.

    In all processes, from their next call on. It counts as a change of the provider. Requires the role
    `admin`.
    """
    return await breakers.close_breaker(call.app, call.caller, key)


ROUTES = (
    list_workers,
    drain_worker,
    resume_worker,
    get_turns_health,
    get_metrics_timeseries,
    list_circuit_breakers,
    get_circuit_breaker,
    close_circuit_breaker,
)
