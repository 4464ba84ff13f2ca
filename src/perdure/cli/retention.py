"""`perdure retention ...`: how long the organization keeps what it has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli.common import DEFAULT_URL, Json, Org, Token, Url, Yes, confirm, connect, enter, pairs_of
from perdure.cli.terminal import Screen
from perdure.domain.retention import (
    MOST_DAYS,
    RETENTION_KINDS,
    PreviewedKind,
    Retention,
    RetentionPreview,
    UpdateRetention,
)

if TYPE_CHECKING:
    from perdure.client import Client

app = typer.Typer(help="Show and change how long the organization keeps what it has.", no_args_is_help=True)

SERVER = "server"
"""In place of days: the server's setting."""
Values = Annotated[
    list[str],
    typer.Argument(
        help=f"KIND=DAYS; 0 keeps it for ever, {SERVER} restores the server's setting.", show_default=False
    ),
]


@app.command()
def show(as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None, org: Org = None) -> None:
    """Show for how many days each kind is kept, and what was deleted in the last 90 days."""
    enter(_show(connect(url, token, org), as_json))


async def _show(client: Client, as_json: bool) -> None:
    async with client:
        _print(await client.get_retention((await client.identity()).organization_id), as_json)


@app.command("set")
def set_days(
    values: Values,
    yes: Yes = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Change for how many days kinds are kept. What is older is deleted within minutes.

    Shows first how much that is, and asks on a terminal; without one, pass --yes if something is.

    Example: perdure retention set idle_sessions=365 model_calls=730
    """
    body = _changes(values)
    if not yes:
        found = enter(_doomed(connect(url, token, org), body))
        if any(each.items for each in found):
            _print_preview(found, Screen(stderr=True))
            confirm("Delete this, and from now on what gets older than that?")
    enter(_set(connect(url, token, org), body, as_json))


async def _doomed(client: Client, body: UpdateRetention) -> list[PreviewedKind]:
    """Return what the change would delete of the kinds that it names."""
    async with client:
        org_id = (await client.identity()).organization_id
        found = await client.preview_retention(org_id, **body.changes())
    return [each for each in found.kinds if each.kind in body.changes()]


async def _set(client: Client, body: UpdateRetention, as_json: bool) -> None:
    async with client:
        org_id = (await client.identity()).organization_id
        _print(await client.update_retention(org_id, **body.changes()), as_json)


@app.command()
def preview(
    values: Annotated[
        list[str] | None,
        typer.Argument(help="KIND=DAYS, as if they were set.", show_default="those that hold"),
    ] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Show what would be deleted now. Nothing is deleted or stored."""
    enter(_preview(connect(url, token, org), _changes(values or []), as_json))


async def _preview(client: Client, body: UpdateRetention, as_json: bool) -> None:
    async with client:
        org_id = (await client.identity()).organization_id
        found: RetentionPreview = await client.preview_retention(org_id, **body.changes())
    if as_json:
        Screen().json(found)
        return
    if not found.kinds:
        Screen().line("everything is kept for ever")
        return
    _print_preview(found.kinds, Screen())


def _print_preview(kinds: Iterable[PreviewedKind], screen: Screen) -> None:
    rows = [(each.kind, str(each.days), f"{each.items:,}", each.oldest_at or "") for each in kinds]
    screen.table(("KIND", "DAYS", "WOULD BE DELETED", "OLDEST"), rows)


def _changes(values: list[str]) -> UpdateRetention:
    changes: dict[str, int | None] = {}
    for kind, text in pairs_of(values, "VALUES", "DAYS").items():
        known = kind in RETENTION_KINDS and (text == SERVER or text.isdecimal())
        if not known or (text.isdecimal() and int(text) > MOST_DAYS):
            raise typer.BadParameter(
                f"{kind}={text} is not KIND=DAYS with one of {', '.join(RETENTION_KINDS)}, and at most"
                f" {MOST_DAYS} days",
                param_hint="VALUES",
            )
        changes[kind] = None if text == SERVER else int(text)
    return UpdateRetention(**changes)


def _print(retention: Retention, as_json: bool) -> None:
    screen = Screen()
    if as_json:
        screen.json(retention)
        return
    rows = []
    for kind in RETENTION_KINDS:
        own, holds = getattr(retention.set, kind), getattr(retention.holds, kind)
        rows.append(
            (
                kind,
                f"{holds} day{'s' * (holds > 1)}" if holds else "for ever",
                SERVER if own is None else "set here",
            )
        )
    screen.table(("KIND", "KEPT", "BY"), rows)
    for each in retention.deleted:
        screen.line(f"{each.day}: deleted {each.deleted:,} {each.kind}")
