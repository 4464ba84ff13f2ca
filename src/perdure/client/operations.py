"""What runs turns, for operators: processes, turns, what is stuck, circuit breakers."""

from __future__ import annotations

from perdure.client import routes
from perdure.client.routes import Caller
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

_DURABLE = "/v1/durable"
_BREAKER = f"{_DURABLE}/circuit-breakers/{{}}"
_WORKER = f"{_DURABLE}/workers/{{}}"


class OperationMethods(Caller):
    """The client's methods for operators."""

    drain_worker = routes.acts(
        "POST",
        f"{_WORKER}/drain",
        Worker,
        "Have a process take no more turns, and give away those that do not end in time.",
    )
    resume_worker = routes.acts("POST", f"{_WORKER}/resume", Worker, "Have a process take turns again.")
    turns_health = routes.fetches(
        f"{_DURABLE}/health", TurnsHealth, "Return the health of what runs turns, in all organizations."
    )
    list_circuit_breakers = routes.fetches(
        f"{_DURABLE}/circuit-breakers",
        CircuitBreakers,
        "List the circuit breakers of the organization's models that fail, in all processes.",
    )
    get_circuit_breaker = routes.reads(
        _BREAKER, CircuitBreaker, "Return the circuit breaker of a model, from the process where it is worst."
    )
    close_circuit_breaker = routes.acts(
        "POST",
        f"{_BREAKER}/close",
        ClosedBreaker,
        "Close the circuit breakers of a model's provider, in all processes.",
    )

    async def list_workers(
        self, *, status: ProcessState | None = None, worker_group: Role | None = None
    ) -> Workers:
        """List the processes of the server, in one status or with one role if it is given."""
        params = [("status", status), ("worker_group", worker_group)]
        return await self.call("GET", f"{_DURABLE}/workers", Workers, params=params)

    async def metrics_timeseries(self, hours: int = 3) -> TimeSeries:
        """Return what all processes have counted.

        Args:
            hours: how many to go back, 24 at most.
        """
        params = [("hours", hours)]
        return await self.call("GET", f"{_DURABLE}/metrics/timeseries", TimeSeries, params=params)
