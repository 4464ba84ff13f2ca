"""`perdure audit`: who changed what."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from perdure.cli.common import DEFAULT_URL, Json, Org, Token, Url, connect, enter
from perdure.cli.terminal import Part, Screen

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.client.audits import AuditFilters
    from perdure.domain.audits import AuditEntry

POLL_SECONDS = 2.0
"""Seconds between two looks at the log while it is followed."""
LATE = timedelta(seconds=30)
"""How much older than the newest entry one can be that was not there before: commits overtake each other."""

Export = Annotated[
    Path | None,
    typer.Option(
        help="Write all entries that match to this file; `-` for standard output.", show_default=False
    ),
]
Form = Annotated[Literal["ndjson", "csv"], typer.Option("--format", help="The format of the file.")]


def audit(
    action: Annotated[
        str | None,
        typer.Option(help="Only this action, such as `agent.updated` or `agent.*`.", show_default=False),
    ] = None,
    actor: Annotated[
        str | None, typer.Option(help="Only what this user's id did.", show_default=False)
    ] = None,
    entity_type: Annotated[
        str | None, typer.Option("--type", help="Only this kind of entity.", show_default=False)
    ] = None,
    entity: Annotated[
        str | None, typer.Option(help="Only the entity with this id.", show_default=False)
    ] = None,
    session: Annotated[
        str | None, typer.Option(help="Only this session and what is in it.", show_default=False)
    ] = None,
    denied: Annotated[
        bool, typer.Option("--denied", help="Only what the caller's role did not allow.")
    ] = False,
    since: Annotated[
        str | None, typer.Option(help="Only entries from this time on (RFC 3339).", show_default=False)
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Only entries from before this time.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(help="How many entries to show.", min=1, max=1000)] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with new entries until Ctrl-C.")
    ] = False,
    export: Export = None,
    form: Form = "ndjson",
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Show who changed what, newest first: the audit log of the organization.

    Requires the role admin. Secrets are digests. With --json, each line is a whole entry.
    """
    filters = _filters(
        action=action,
        actor_id=actor,
        entity_type=entity_type,
        entity_id=entity,
        session_id=session,
        outcome="denied" if denied else None,
        since=since,
        until=until,
    )
    client = connect(url, token, org)
    if export is not None:
        enter(_export(client, filters, export, form))
    else:
        enter(_show(client, filters, limit, follow=follow, as_json=as_json))


def _filters(**given: str | None) -> AuditFilters:
    return cast("AuditFilters", {name: text for name, text in given.items() if text is not None})


async def _export(client: Client, filters: AuditFilters, path: Path, form: Literal["ndjson", "csv"]) -> None:
    async with client:
        org_id = (await client.identity()).organization_id
        content = await client.export_audit_logs(org_id, form, **filters)
    if str(path) == "-":
        Screen().content(content)
    else:
        await asyncio.to_thread(path.write_bytes, content)
        Screen().line(f"written: {path}")


_COLUMNS = ("TIME", "WHO", "ACTION", "ENTITY", "CHANGED", "WHY")


async def _show(client: Client, filters: AuditFilters, limit: int, *, follow: bool, as_json: bool) -> None:
    async with client:
        org_id = (await client.identity()).organization_id
        found = (await client.list_audit_logs(org_id, limit=limit, **filters)).data
        if not follow:
            Screen().listing(found, _COLUMNS, _row, as_json=as_json)
            return
        await _follow(client, org_id, filters, found, as_json)


async def _follow(
    client: Client, org_id: str, filters: AuditFilters, found: Sequence[AuditEntry], as_json: bool
) -> None:
    """Show these entries, and then new ones until Ctrl-C."""
    screen, seen = Screen(), set[str]()
    if not as_json:
        screen.line("\t".join(_COLUMNS))
    oldest = found[-1].created_at if found else datetime.now(UTC).isoformat()
    while True:
        for each in reversed(found):
            if each.id not in seen and each.created_at >= oldest:
                _print(screen, each, as_json=as_json)
        seen = {each.id for each in found}
        newest = found[0].created_at if found else oldest
        await asyncio.sleep(POLL_SECONDS)
        since = (datetime.fromisoformat(newest) - LATE).isoformat()
        recent = cast("AuditFilters", {**filters, "since": since})
        found = [each async for each in client.iterate_audit_logs(org_id, **recent)]


def _print(screen: Screen, entry: AuditEntry, *, as_json: bool) -> None:
    if as_json:
        screen.json(entry)
    else:
        screen.line("\t".join(part if isinstance(part, str) else part[0] for part in _row(entry)))


def _row(entry: AuditEntry) -> tuple[Part, ...]:
    actor = entry.actor
    who = actor.name or actor.id or actor.type
    denied = entry.outcome == "denied"
    return (
        entry.created_at[:19] + "Z",
        f"{who} ({actor.token_name})" if actor.token_name else who,
        (f"{entry.action} denied", "red") if denied else entry.action,
        entry.entity.name or entry.entity.id,
        _changed(entry.before or entry.after or {}, entry.rows_changed),
        entry.reason or "",
    )


def _changed(fields: dict[str, Any], rows: int) -> str:
    names = ", ".join(fields)
    return f"{names} ({rows} of them)" if rows > 1 else names
