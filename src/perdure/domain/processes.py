"""The processes of the server, as operators see them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from perdure.domain.ids import ModelId, ProviderId, SessionId, WorkerId
from perdure.domain.providers import BreakerState
from perdure.domain.times import Timestamp

Role = Literal["all", "api", "worker"]
"""What a process does: serve the API, run turns, or both. All but `all` need PostgreSQL."""

ProcessState = Literal["active", "draining", "drained", "stopped"]

_RFC3339 = "2026-01-05T09:30:00.000000Z"
_STATUS = Meta(
    description=(
        "`active`: it takes turns, if its role has any; `draining`: it takes no more, and gives away those "
        "that do not end in time; `drained`: it runs none; `stopped`: it has stopped, or given no sign of "
        "life for 10 seconds."
    ),
    examples=["active"],
)


class Worker(Struct, frozen=True):
    """A process of the server."""

    id: Annotated[WorkerId, Meta(description="The process's id, new with each start.")]
    worker_group: Annotated[
        Role,
        Meta(description="Its role: `all`, `api` (no turns) or `worker` (turns only).", examples=["all"]),
    ]
    status: Annotated[ProcessState, _STATUS]
    accepting_tasks: Annotated[bool, Meta(description="Whether it takes turns now.", examples=[True])]
    activity_types: Annotated[
        tuple[str, ...], Meta(description="What it runs: `turn` or nothing.", examples=[["turn"]])
    ]
    max_concurrency: Annotated[
        int, Meta(description="How many turns it runs at a time; 0 with the role `api`.", examples=[1000])
    ]
    current_load: Annotated[int, Meta(description="How many turns it runs.", examples=[3])]
    tasks_completed: Annotated[
        int, Meta(description="Turns that have been completed there since it started.", examples=[120])
    ]
    tasks_failed: Annotated[
        int, Meta(description="Turns that have failed or were sealed there since it started.", examples=[1])
    ]
    hostname: Annotated[str, Meta(description="The name of its machine.", examples=["server-1"])]
    pid: Annotated[int, Meta(description="The number of the process on its machine.", examples=[4711])]
    version: Annotated[str, Meta(description="The version of Perdure that it runs.", examples=["0.1.0"])]
    started_at: Annotated[
        Timestamp, Meta(description="When it started, by the database's clock.", examples=[_RFC3339])
    ]
    last_heartbeat_at: Annotated[
        Timestamp,
        Meta(
            description=(
                "Its last sign of life, by the database's clock. On SQLite, the only process gives one when "
                "something has changed, or after a minute."
            ),
            examples=[_RFC3339],
        ),
    ]


class WorkersSummary(Struct, frozen=True):
    """The processes, counted."""

    active: Annotated[int, Meta(description="Processes that are `active`.", examples=[2])]
    draining: Annotated[int, Meta(description="Processes that are `draining` or `drained`.", examples=[0])]
    stopped: Annotated[int, Meta(description="Processes that are `stopped`.", examples=[0])]
    total_capacity: Annotated[
        int, Meta(description="How many turns those that are `active` run at a time.", examples=[2000])
    ]
    total_load: Annotated[int, Meta(description="How many turns run.", examples=[3])]


class Workers(Struct, frozen=True):
    """The processes of the server."""

    data: Annotated[tuple[Worker, ...], Meta(description="The processes, newest first.")]
    total: Annotated[int, Meta(description="How many there are.", examples=[2])]
    summary: Annotated[WorkersSummary, Meta(description="All processes, counted.")]


class BreakerReport(Struct, frozen=True, omit_defaults=True):
    """The circuit breaker of a model, as a process reports it. `version`: its provider's, in microseconds."""

    model_id: ModelId
    version: int
    state: BreakerState
    failures: int
    code: str
    opened_at: int = 0
    until: int = 0


class ProcessReport(Struct, frozen=True):
    """What a process tells of itself with each heartbeat.

    Attributes:
        state: how far it is with what operators want of it.
        running: how many turns it runs.
        completed, failed: the turns that have ended there since it started.
        sessions: those that it has run for longest, a few hundred at most.
        breakers: those of models that fail there.
    """

    state: ProcessState
    running: int
    completed: int
    failed: int
    sessions: tuple[SessionId, ...] = ()
    breakers: tuple[BreakerReport, ...] = ()


class CircuitBreaker(Struct, frozen=True, omit_defaults=True):
    """The circuit breaker of a model in one process."""

    key: Annotated[ModelId, Meta(description="The model's id.")]
    model: Annotated[str, Meta(description="The model's name.", examples=["gpt-5-mini"])]
    provider_id: Annotated[ProviderId, Meta(description="The model's provider.")]
    worker_id: Annotated[WorkerId, Meta(description="The process: each has breakers of its own.")]
    state: Annotated[
        BreakerState,
        Meta(
            description=(
                "`closed`: calls go there; `open`: they go to other models, if the agent has some; "
                "`half_open`: one call tries."
            ),
            examples=["open"],
        ),
    ]
    failure_count: Annotated[
        int, Meta(description="The number of failures since the last answer.", examples=[5])
    ]
    success_count: Annotated[
        int, Meta(description="Always 0: an answer closes a breaker, which is then forgotten.", examples=[0])
    ]
    last_error_code: Annotated[
        str, Meta(description="The code of the last failure.", examples=["provider_unavailable"])
    ]
    updated_at: Annotated[Timestamp, Meta(description="When the process reported it.", examples=[_RFC3339])]
    opened_at: Annotated[Timestamp | None, Meta(description="When it opened.")] = None
    half_open_at: Annotated[Timestamp | None, Meta(description="When a call tries again.")] = None


class CircuitBreakers(Struct, frozen=True):
    """The circuit breakers of models that fail."""

    data: Annotated[tuple[CircuitBreaker, ...], Meta(description="The breakers.", examples=[[]])]
    total: Annotated[int, Meta(description="How many there are.", examples=[0])]


class ClosedBreaker(Struct, frozen=True):
    """The answer to closing a circuit breaker."""

    provider_id: Annotated[
        ProviderId,
        Meta(description="The provider of which all breakers are closed, in all processes."),
    ]


class TurnCounts(Struct, frozen=True):
    """What is counted of turns and model calls."""

    turns_completed: Annotated[int, Meta(description="Turns that were completed.", examples=[120])] = 0
    turns_failed: Annotated[int, Meta(description="Turns that failed.", examples=[1])] = 0
    turns_cancelled: Annotated[int, Meta(description="Turns that were cancelled.", examples=[2])] = 0
    turns_sealed: Annotated[int, Meta(description="Turns that were sealed.", examples=[0])] = 0
    recoveries: Annotated[
        int, Meta(description="Sessions that were taken over from a lost runner.", examples=[0])
    ] = 0
    model_calls: Annotated[int, Meta(description="Model calls that ended.", examples=[260])] = 0
    model_failures: Annotated[int, Meta(description="Model calls that failed for good.", examples=[1])] = 0
    tokens: Annotated[int, Meta(description="Tokens of model calls, input and output.", examples=[81000])] = 0


class MetricsPoint(TurnCounts, frozen=True, kw_only=True):
    """What all processes have counted in a part of the time."""

    timestamp: Annotated[Timestamp, Meta(description="When it begins.", examples=[_RFC3339])]


class TimeSeries(Struct, frozen=True):
    """What all processes have counted, over time."""

    points: Annotated[
        tuple[MetricsPoint, ...],
        Meta(description="The parts of the time in which something was counted, oldest first."),
    ]
    resolution_seconds: Annotated[int, Meta(description="How long each part is.", examples=[60])]
    instance_count: Annotated[int, Meta(description="How many processes are active.", examples=[2])]


class TurnsHealth(Struct, frozen=True):
    """The health of what runs turns, in all organizations."""

    status: Annotated[
        Literal["healthy", "degraded", "unhealthy"],
        Meta(
            description=(
                "`unhealthy`: no process takes turns; `degraded`: there are sealed turns, or as many turns "
                "run as may."
            ),
            examples=["healthy"],
        ),
    ]
    total_workers: Annotated[int, Meta(description="Processes, without stopped ones.", examples=[2])]
    active_workers: Annotated[int, Meta(description="Processes that are `active`.", examples=[2])]
    workers_accepting: Annotated[int, Meta(description="Processes that take turns now.", examples=[2])]
    total_capacity: Annotated[int, Meta(description="How many turns these run at a time.", examples=[2000])]
    current_load: Annotated[int, Meta(description="How many turns run.", examples=[3])]
    load_percentage: Annotated[float, Meta(description="The load of the capacity.", examples=[0.2])]
    pending_tasks: Annotated[int, Meta(description="Jobs that wait for a process.", examples=[0])]
    claimed_tasks: Annotated[int, Meta(description="The same as `current_load`.", examples=[3])]
    started_tasks: Annotated[int, Meta(description="The same as `started_workflows`.", examples=[124])]
    completed_tasks: Annotated[int, Meta(description="The same as `completed_workflows`.", examples=[120])]
    failed_tasks: Annotated[int, Meta(description="The same as `failed_workflows`.", examples=[1])]
    running_workflows: Annotated[
        int, Meta(description="Turns that run, or wait for a process.", examples=[3])
    ]
    pending_workflows: Annotated[int, Meta(description="The same as `pending_tasks`.", examples=[0])]
    started_workflows: Annotated[
        int, Meta(description="Turns that run, and those that have ended in the last day.", examples=[124])
    ]
    completed_workflows: Annotated[
        int, Meta(description="Turns that were completed in the last day.", examples=[120])
    ]
    failed_workflows: Annotated[
        int, Meta(description="Turns that failed or were sealed in the last day.", examples=[1])
    ]
    parked_workflows: Annotated[
        dict[str, int],
        Meta(description="Parked turns, by what they wait for.", examples=[{"approval": 2}]),
    ]
    dlq_size: Annotated[int, Meta(description="Sealed turns.", examples=[0])]
