"""`perdure admin ...`: what runs turns, for those who run the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, cast, get_args

import typer

from perdure.cli.common import DEFAULT_URL, Json, Org, Token, Url, connect, enter
from perdure.cli.terminal import Screen

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.domain.processes import CircuitBreaker, TurnsHealth, Worker
    from perdure.domain.workflows import DeadLetter, Workflow

Status = Literal["running", "parked", "pending", "failed"]
"""A status of turns that can be listed."""
SEALED = "sealed"
"""What people call turns that are `failed`: others that failed are only in their sessions' logs."""

app = typer.Typer(help="Show and direct what runs turns.", no_args_is_help=True)

WorkerId = Annotated[str, typer.Argument(help="The process's id.", show_default=False)]


@app.command()
def workers(as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None, org: Org = None) -> None:
    """List the processes of the server, those that have just stopped included."""
    enter(_workers(connect(url, token, org), as_json))


_WORKERS = ("ID", "ROLE", "STATUS", "TURNS", "COMPLETED", "FAILED", "HOST", "PID", "VERSION", "SEEN")


async def _workers(client: Client, as_json: bool) -> None:
    async with client:
        found = await client.list_workers()
    Screen().listing(found.data, _WORKERS, _worker_row, as_json=as_json)


def _worker_row(each: Worker) -> tuple[str, ...]:
    load = f"{each.current_load} of {each.max_concurrency}" if each.max_concurrency else "-"
    return (
        *(each.id, each.worker_group, each.status, load, str(each.tasks_completed), str(each.tasks_failed)),
        *(each.hostname, str(each.pid), each.version, each.last_heartbeat_at),
    )


@app.command()
def drain(worker_id: WorkerId, url: Url = DEFAULT_URL, token: Token = None, org: Org = None) -> None:
    """Have a process take no more turns, and give away those that do not end in time."""
    enter(_drain(connect(url, token, org), worker_id, wanted=True))


@app.command()
def resume(worker_id: WorkerId, url: Url = DEFAULT_URL, token: Token = None, org: Org = None) -> None:
    """Have a drained process take turns again."""
    enter(_drain(connect(url, token, org), worker_id, wanted=False))


async def _drain(client: Client, worker_id: str, *, wanted: bool) -> None:
    async with client:
        await (client.drain_worker if wanted else client.resume_worker)(worker_id)
    Screen().line(f"{worker_id} {'drains' if wanted else 'takes turns again'} within seconds")


@app.command()
def turns(
    status: Annotated[
        str | None,
        typer.Option(
            help="Only turns that are running, parked, pending or failed (also: sealed).", show_default=False
        ),
    ] = None,
    cancel: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="Cancel this turn, and the tasks of its session.", show_default=False
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many to list.")] = 50,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """List the turns of the organization that run, wait or were sealed, the oldest first."""
    wanted = "failed" if status == SEALED else status
    if wanted not in (None, *get_args(Status)):
        known = ", ".join(get_args(Status))
        raise typer.BadParameter(
            f"{status!r} is none of {known}, {SEALED}; turns that ended well are in their sessions' logs",
            param_hint="--status",
        )
    enter(_turns(connect(url, token, org), cast("Status | None", wanted), cancel, limit, as_json))


_TURNS = ("ID", "STATUS", "WAITS FOR", "AGE", "RECOVERIES", "PROCESS", "AGENT")


async def _turns(
    client: Client, status: Status | None, cancel: str | None, limit: int, as_json: bool
) -> None:
    async with client:
        if cancel is not None:
            await client.cancel_workflow(cancel)
        found = await client.list_workflows(status=status, limit=limit)
    Screen().listing(found.data, _TURNS, _turn_row, as_json=as_json)


def _turn_row(each: Workflow) -> tuple[str, ...]:
    kinds = sorted({call.kind for call in each.parked_on})
    return (
        *(each.id, each.status, ", ".join(kinds) or "-", f"{each.age_seconds} s", str(each.recoveries)),
        *(each.worker_id or "-", each.input.agent_id or "-"),
    )


@app.command()
def stuck(as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None, org: Org = None) -> None:
    """List the turns of the organization that were sealed, or make no progress."""
    enter(_stuck(connect(url, token, org), as_json))


_STUCK = ("ID", "STATE", "ATTEMPTS", "SINCE", "WHY")


async def _stuck(client: Client, as_json: bool) -> None:
    async with client:
        found = await client.list_dead_letters(limit=100)
    Screen().listing(found.data, _STUCK, _stuck_row, as_json=as_json)


def _stuck_row(each: DeadLetter) -> tuple[str, ...]:
    return (each.id, each.state, str(each.attempts), each.dead_at, each.last_error)


@app.command()
def retry(
    turn_id: Annotated[str, typer.Argument(help="The id that `stuck` shows.", show_default=False)],
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Post the message of a sealed turn again, or try a stuck turn again."""
    enter(_retry(connect(url, token, org), turn_id, as_json))


async def _retry(client: Client, turn_id: str, as_json: bool) -> None:
    async with client:
        done = await client.retry_dead_letter(turn_id)
    if as_json:
        Screen().json(done)
    elif done.message_id is None:
        Screen().line(f"{done.workflow_id} is tried again")
    else:
        Screen().line(f"posted the message again: {done.workflow_id} works on it")


@app.command()
def breakers(
    close: Annotated[
        str | None,
        typer.Option(metavar="MODEL_ID", help="Close those of this model's provider, in all processes."),
    ] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """List the circuit breakers of models that fail."""
    enter(_breakers(connect(url, token, org), close, as_json))


_BREAKERS = ("MODEL ID", "STATE", "FAILURES", "CODE", "TRIES AGAIN", "PROCESS", "MODEL")


async def _breakers(client: Client, close: str | None, as_json: bool) -> None:
    async with client:
        if close is not None:
            await client.close_circuit_breaker(close)
        found = await client.list_circuit_breakers()
    Screen().listing(found.data, _BREAKERS, _breaker_row, as_json=as_json)


def _breaker_row(each: CircuitBreaker) -> tuple[str, ...]:
    again = each.half_open_at or "-"
    return (
        *(each.key, each.state, str(each.failure_count), each.last_error_code, again),
        *(each.worker_id, each.model),
    )


@app.command()
def health(as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None, org: Org = None) -> None:
    """Show the health of what runs turns, in all organizations."""
    enter(_health(connect(url, token, org), as_json))


async def _health(client: Client, as_json: bool) -> None:
    async with client:
        found = await client.turns_health()
    if as_json:
        Screen().json(found)
    else:
        Screen().table(("WHAT", "HOW MUCH"), _health_rows(found))


def _health_rows(found: TurnsHealth) -> list[tuple[str, str]]:
    parked = (f"{count} for {kind}" for kind, count in sorted(found.parked_workflows.items()))
    return [
        ("status", found.status),
        ("processes", f"{found.total_workers}, of which {found.workers_accepting} take turns"),
        ("turns", f"{found.running_workflows} run or wait for a process"),
        ("places", f"{found.current_load} of {found.total_capacity}"),
        ("jobs waiting", str(found.pending_tasks)),
        ("parked", ", ".join(parked) or "none"),
        ("completed in a day", str(found.completed_workflows)),
        ("failed in a day", str(found.failed_workflows)),
        ("sealed", str(found.dlq_size)),
    ]
