"""`perdure schedules ...`: messages to a session at set times."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli.common import DEFAULT_URL, Json, Org, Token, Url, connect, enter
from perdure.cli.sessions import SessionId
from perdure.cli.terminal import Screen

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.domain.schedules import Schedule

app = typer.Typer(help="Send messages to a session at set times.", no_args_is_help=True)

ScheduleId = Annotated[str, typer.Argument(help="The schedule's id.", show_default=False)]


@app.command("list")
def list_schedules(
    session_id: SessionId, as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None, org: Org = None
) -> None:
    """List a session's schedules, including disabled and finished ones."""
    enter(_list(connect(url, token, org), session_id, as_json))


async def _list(client: Client, session_id: str, as_json: bool) -> None:
    async with client:
        _print(await client.list_schedules(session_id), as_json)


def _print(schedules: Iterable[Schedule], as_json: bool) -> None:
    columns = ("SCHEDULE", "STATUS", "WHEN", "NEXT", "MESSAGE")
    Screen().listing(schedules, columns, _row, as_json=as_json)


def _row(schedule: Schedule) -> tuple[str, ...]:
    return (
        schedule.id,
        "enabled" if schedule.enabled else "disabled",
        f"{schedule.cron} ({schedule.timezone})" if schedule.cron else schedule.at or "",
        schedule.next_at or "",
        schedule.message,
    )


@app.command()
def create(
    session_id: SessionId,
    message: Annotated[str, typer.Argument(help="The message to send.", show_default=False)],
    cron: Annotated[
        str | None, typer.Option(help="Five fields, such as '0 9 * * mon-fri'.", show_default=False)
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="A single time, such as 2026-03-14T09:00:00Z.", show_default=False)
    ] = None,
    timezone: Annotated[str, typer.Option(help="The time zone of --cron.")] = "UTC",
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Schedule a message: once with --at, or repeatedly with --cron."""
    if (cron is None) == (at is None):
        raise typer.BadParameter("pass either --cron or --at", param_hint="--cron")
    enter(_create(connect(url, token, org), session_id, message, cron, at, timezone, as_json))


async def _create(
    client: Client,
    session_id: str,
    message: str,
    cron: str | None,
    at: str | None,
    timezone: str,
    as_json: bool,
) -> None:
    async with client:
        made = await client.create_schedule(session_id, message, cron=cron, at=at, timezone=timezone)
    _print((made,), as_json)


@app.command()
def enable(
    session_id: SessionId,
    schedule_id: ScheduleId,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Enable a schedule."""
    enter(_set_enabled(connect(url, token, org), session_id, schedule_id, enabled=True))


@app.command()
def disable(
    session_id: SessionId,
    schedule_id: ScheduleId,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Disable a schedule: it sends nothing until you enable it."""
    enter(_set_enabled(connect(url, token, org), session_id, schedule_id, enabled=False))


async def _set_enabled(client: Client, session_id: str, schedule_id: str, *, enabled: bool) -> None:
    async with client:
        await client.update_schedule(session_id, schedule_id, enabled=enabled)
    Screen().line(f"{'enabled' if enabled else 'disabled'} {schedule_id}")


@app.command()
def delete(
    session_id: SessionId,
    schedule_id: ScheduleId,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Delete a schedule. Messages that it has sent stay."""
    enter(_delete(connect(url, token, org), session_id, schedule_id))


async def _delete(client: Client, session_id: str, schedule_id: str) -> None:
    async with client:
        await client.delete_schedule(session_id, schedule_id)
    Screen().line(f"deleted {schedule_id}")
