"""What runs turns, for operators: processes, turns, what is stuck, circuit breakers."""

from __future__ import annotations

from typing import Literal

from perdure.client import routes
from perdure.client.routes import Caller, path_of
from perdure.client.transport import Params
from perdure.domain.cancels import CancelledTurn
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
from perdure.domain.workflows import DeadLetters, Retried, Workflow, WorkflowEvents, Workflows

_DURABLE = "/v1/durable"
_WORKFLOW = f"{_DURABLE}/workflows/{{}}"
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

    get_workflow = routes.reads(
        _WORKFLOW, Workflow, "Return a turn by the id of its session, a dot, and its id."
    )
    cancel_workflow = routes.acts(
        "POST", f"{_WORKFLOW}/cancel", CancelledTurn, "Cancel a turn that runs or is parked."
    )
    retry_dead_letter = routes.acts(
        "POST",
        f"{_DURABLE}/dlq/{{}}/retry",
        Retried,
        "Post the message of a sealed turn again, or try a stuck turn again.",
    )

    async def list_workflows(
        self,
        *,
        status: Literal["running", "parked", "pending", "failed"] | None = None,
        offset: int = 0,
        limit: int = 50,
    ) -> Workflows:
        """List the turns of the organization that run, wait or were sealed, oldest first.

        Args:
            status: only turns in this status.
            offset: how many to skip.
            limit: how many to return, 100 at most.
        """
        params: Params = [("status", status), ("offset", offset), ("limit", limit)]
        return await self.call("GET", f"{_DURABLE}/workflows", Workflows, params=params)

    async def list_workflow_events(
        self, workflow_id: str, *, after_sequence: int | None = None, limit: int = 200
    ) -> WorkflowEvents:
        """List the events of a turn, oldest first.

        Args:
            workflow_id: the turn's id.
            after_sequence: only events after this one of the session's log.
            limit: how many to return, 1000 at most.
        """
        path = path_of(f"{_WORKFLOW}/events", workflow_id)
        params: Params = [("after_sequence", after_sequence), ("limit", limit)]
        return await self.call("GET", path, WorkflowEvents, params=params)

    async def list_dead_letters(self, *, offset: int = 0, limit: int = 50) -> DeadLetters:
        """List the turns of the organization that were sealed or are stuck.

        Args:
            offset: how many to skip.
            limit: how many to return, 100 at most.
        """
        params: Params = [("offset", offset), ("limit", limit)]
        return await self.call("GET", f"{_DURABLE}/dlq", DeadLetters, params=params)

    async def metrics_timeseries(self, hours: int = 3) -> TimeSeries:
        """Return what all processes have counted.

        Args:
            hours: how many to go back, 24 at most.
        """
        params = [("hours", hours)]
        return await self.call("GET", f"{_DURABLE}/metrics/timeseries", TimeSeries, params=params)
