"""`perdure audit ...`: who changed what."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from perdure.cli.common import DEFAULT_URL, CommandFailed, Json, Org, Token, Url, connect, enter
from perdure.cli.moments import moment
from perdure.cli.terminal import Part, Screen
from perdure.domain.audits import ACTIONS

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.client.audits import AuditFilters
    from perdure.domain.audits import AuditEntry

app = typer.Typer()
Form = Literal["ndjson", "csv"]

POLL_SECONDS = 2.0
"""Seconds between two looks at the log while it is followed."""
LATE = timedelta(seconds=30)
"""How much older than the newest entry one can be that was not there before: commits overtake each other."""
SHORT = 16
"""Digits of an entry's id that a terminal shows: the time, and enough of the rest to tell entries apart."""


Action = Annotated[
    str | None,
    typer.Option(help="Only this action, such as `agent.updated` or `agent.*`.", show_default=False),
]
Actor = Annotated[str | None, typer.Option(help="Only what this user's id did.", show_default=False)]
Kind = Annotated[str | None, typer.Option("--type", help="Only this kind of entity.", show_default=False)]
Entity = Annotated[str | None, typer.Option(help="Only the entity with this id.", show_default=False)]
Session = Annotated[str | None, typer.Option(help="Only this session and what is in it.", show_default=False)]
Denied = Annotated[bool, typer.Option("--denied", help="Only what the caller's role did not allow.")]
Since = Annotated[
    str | None,
    typer.Option(help="Only entries from this date or time on; UTC without an offset.", show_default=False),
]
Until = Annotated[
    str | None, typer.Option(help="Only entries from before this date or time.", show_default=False)
]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on with new entries until Ctrl-C.")]
Export = Annotated[
    Path | None,
    typer.Option(
        help="Write all entries that match to this file; `-` for standard output.", show_default=False
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format", help="The file's format, ndjson or csv.", show_default="as its name ends, else ndjson"
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace the file of --export.")]


@app.callback(invoke_without_command=True)
def audit(
    ctx: typer.Context,
    action: Action = None,
    actor: Actor = None,
    entity_type: Kind = None,
    entity: Entity = None,
    session: Session = None,
    denied: Denied = False,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(help="How many entries to show.", min=1, max=1000)] = 50,
    follow: Follow = False,
    export: Export = None,
    form: Format = None,
    force: Force = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Show who changed what, newest first: the audit log of the organization.

    Requires the role admin. Secrets are digests. With --json, each line is a whole entry.
    """
    given = [name for name in ctx.params if _is_given(ctx, name)]
    if ctx.invoked_subcommand is not None:
        if given:
            raise typer.BadParameter("put options after the command", param_hint=ctx.invoked_subcommand)
        return
    filters = _filters(
        action=action,
        actor_id=actor,
        entity_type=entity_type,
        entity_id=entity,
        session_id=session,
        outcome="denied" if denied else None,
        since=moment(since, "--since"),
        until=moment(until, "--until"),
    )
    _check_options(given, exports=export is not None, follow=follow, until=until)
    if export is not None:
        from perdure.cli.saving import check_new

        chosen = _format_of(export, form)
        check_new(export, force=force)
        enter(_export(connect(url, token, org), filters, export, chosen))
    else:
        enter(_show(connect(url, token, org), filters, limit, follow=follow, as_json=as_json))


_OPTIONS = {
    "form": "--format",
    "force": "--force",
    "limit": "--limit",
    "follow": "--follow",
    "as_json": "--json",
}


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _check_options(given: Sequence[str], *, exports: bool, follow: bool, until: str | None) -> None:
    if not exports:
        _refuse(given, ("form", "force"), "only a file has it: add --export FILE")
    else:
        _refuse(given, ("limit", "follow", "as_json"), "an export has all entries that match")
    if follow and until is not None:
        raise typer.BadParameter(
            "new entries are not from before: omit it, or --follow", param_hint="--until"
        )


def _refuse(given: Sequence[str], refused: Sequence[str], why: str) -> None:
    for name in refused:
        if name in given:
            raise typer.BadParameter(why, param_hint=_OPTIONS[name])


def _format_of(path: Path, form: str | None) -> Form:
    ends: dict[str, Form] = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson"}
    by_name = ends.get(path.suffix.lower())
    if form not in (None, "ndjson", "csv"):
        raise typer.BadParameter(f"{form!r} is neither ndjson nor csv", param_hint="--format")
    if form is not None and by_name not in (None, form):
        raise typer.BadParameter(f"{form} does not go with the name {path.name}", param_hint="--format")
    return cast("Form", form) if form is not None else by_name or "ndjson"


def _filters(**given: str | None) -> AuditFilters:
    return cast("AuditFilters", {name: text for name, text in given.items() if text is not None})


async def _check(client: Client, org_id: str, filters: AuditFilters) -> None:
    """Refuse a kind or an action that nothing has. Another release of the server may know more."""
    for name, option in (("entity_type", "--type"), ("action", "--action")):
        text = cast("dict[str, str]", filters).get(name)
        known = list(ACTIONS) if name == "entity_type" else _actions()
        if text is None or text in known:
            continue
        if name == "action" and text.endswith("*") and any(each.startswith(text[:-1]) for each in known):
            continue
        only = cast("AuditFilters", {name: text})
        if not (await client.list_audit_logs(org_id, limit=1, **only)).data:
            raise typer.BadParameter(_unknown(text, known), param_hint=option)


def _actions() -> list[str]:
    return [f"{kind}.{verb}" for kind, verbs in ACTIONS.items() for verb in verbs]


def _unknown(text: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches

    kind = text.partition(".")[0]
    same = [each for each in known if "." in each and each.startswith(f"{kind}.")]
    close = get_close_matches(text, known, n=3)
    if same:
        return f"{text!r} is none of {', '.join(same)}"
    if close:
        return f"{text!r} is not known: is {' or '.join(close)} meant?"
    kinds = list(ACTIONS)
    what = "is no kind of entity" if kinds == list(known) else "is no action: each begins with a kind"
    return f"{text!r} {what}. The kinds are {', '.join(kinds)}."


async def _export(client: Client, filters: AuditFilters, path: Path, form: Form) -> None:
    from perdure.cli.saving import saved_to

    async with client:
        org_id = (await client.identity()).organization_id
        await _check(client, org_id, filters)
        content = await client.export_audit_logs(org_id, form, **filters)
    if str(path) == "-":
        Screen().content(content)
        return
    with saved_to(path, private=True) as target:
        await asyncio.to_thread(target.write_bytes, content)
    Screen().line(f"written: {path}")


_COLUMNS = ("ID", "TIME", "WHO", "ACTION", "ENTITY", "CHANGED", "WHY")
_CUT = ("WHO", "ENTITY", "CHANGED", "WHY")


async def _show(client: Client, filters: AuditFilters, limit: int, *, follow: bool, as_json: bool) -> None:
    async with client:
        org_id = (await client.identity()).organization_id
        await _check(client, org_id, filters)
        found = (await client.list_audit_logs(org_id, limit=limit, **filters)).data
        if not follow:
            screen = Screen()
            screen.listing(
                found, _COLUMNS, _short_row if screen.is_terminal else _row, as_json=as_json, cut=_CUT
            )
            if found and screen.is_terminal and not as_json:
                screen.line(("`perdure audit show ID` shows all of an entry.", "dim"))
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
        return
    row = _short_row(entry) if screen.is_terminal else _row(entry)
    screen.line("\t".join(part if isinstance(part, str) else part[0] for part in row))


def who_did(entry: AuditEntry) -> str:
    """Format who made a change, and with which access token."""
    actor = entry.actor
    who = actor.name or actor.id or actor.type
    return f"{who} ({actor.token_name})" if actor.token_name else who


def _row(entry: AuditEntry) -> tuple[Part, ...]:
    return (
        entry.id,
        entry.created_at[:19] + "Z",
        who_did(entry),
        (f"{entry.action} denied", "red") if entry.outcome == "denied" else entry.action,
        entry.entity.name or entry.entity.id,
        _changed(entry.before or entry.after or {}, entry.rows_changed),
        entry.reason or "",
    )


def _short_row(entry: AuditEntry) -> tuple[Part, ...]:
    """Return a row for a terminal, with the beginning of the id and the time without seconds."""
    when = f"{entry.created_at[:10]} {entry.created_at[11:16]}"
    return (entry.id.partition("_")[2][:SHORT], when, *_row(entry)[2:])


def _changed(fields: dict[str, Any], rows: int) -> str:
    names = ", ".join(fields)
    return f"{names} ({rows} of them)" if rows > 1 else names


@app.command()
def show(
    entry_id: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="The entry's id, or the beginning that `audit` shows.", show_default=False
        ),
    ],
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Show all of one entry: who, what, when, from where, and what was there before and after."""
    enter(_show_one(connect(url, token, org), entry_id, as_json))


async def _show_one(client: Client, entry_id: str, as_json: bool) -> None:
    async with client:
        org_id = (await client.identity()).organization_id
        found = (await client.list_audit_logs(org_id, limit=2, **_range(entry_id))).data
    if not found:
        raise CommandFailed(f"no entry {entry_id!r}; `perdure audit` lists them")
    if len(found) > 1:
        raise CommandFailed(
            f"several entries begin with {entry_id!r}: give more of the id, as `perdure audit --json` has it"
        )
    if as_json:
        Screen().json(found[0])
    else:
        print_entry(found[0])


def _range(entry_id: str) -> AuditFilters:
    """Return the filter for the ids that begin so. Raises BadParameter."""
    digits = entry_id.strip().lower().removeprefix("audit_")
    if not 8 <= len(digits) <= 32 or set(digits) - set("0123456789abcdef"):
        raise typer.BadParameter(
            f"{entry_id!r} is no id of an entry, such as audit_0192f0c1b2a37b5c8d4e5f60718293a4, nor the"
            " beginning of one",
            param_hint="ID",
        )
    least, most = int(digits.ljust(32, "0"), 16), int(digits.ljust(32, "f"), 16)
    after, before = max(least - 1, 0), min(most + 1, (1 << 128) - 1)
    return {"after": f"audit_{after:032x}", "before": f"audit_{before:032x}"}


def print_entry(entry: AuditEntry) -> None:
    """Print an entry, a line for each thing that it says, and what has changed."""
    from perdure.cli.value_diffs import MISSING, difference

    screen, actor = Screen(), entry.actor
    entity = f"{entry.entity.type} {entry.entity.name or ''}".strip()
    rows = (
        ("entry", entry.id),
        ("action", entry.action),
        ("outcome", entry.outcome),
        ("when", entry.created_at),
        ("who", " ".join(filter(None, (actor.name or actor.type, actor.id and f"({actor.id})")))),
        ("token", " ".join(filter(None, (actor.token_name, actor.token_id and f"({actor.token_id})")))),
        ("entity", f"{entity} ({entry.entity.id})"),
        ("session", entry.session_id),
        ("why", entry.reason),
        ("operation", entry.operation),
        ("request", entry.request_id),
        ("from", entry.address),
        ("forwarded", entry.forwarded_for),
        ("client", entry.user_agent),
        ("changed", f"{entry.rows_changed:,} of them" if entry.rows_changed > 1 else None),
    )
    for name, value in rows:
        if value:
            style = "bold red" if value == "denied" else "bold" if name == "action" else ""
            screen.line((f"{name:<11}", "dim"), (" ".join(value.split()), style))
    before, after = entry.before or {}, entry.after or {}
    for name in dict.fromkeys((*before, *after)):
        screen.line((name, "bold"))
        for line in difference(before.get(name, MISSING), after.get(name, MISSING)):
            screen.line(line)
