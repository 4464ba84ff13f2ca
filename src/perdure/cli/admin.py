"""`perdure admin ...`: what runs turns, for those who run the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli.common import DEFAULT_URL, Json, Org, Token, Url, connect, enter
from perdure.cli.terminal import Screen

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.domain.processes import CircuitBreaker, TurnsHealth, Worker

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
