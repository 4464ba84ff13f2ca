"""`perdure history ...`: every state of agents and harnesses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli.common import DEFAULT_URL, Json, Org, Token, Url, connect, enter
from perdure.cli.terminal import Part, Screen
from perdure.cli.value_diffs import MISSING, difference, text_of

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.domain.revisions import Revision, RevisionKind

app = typer.Typer(
    help="See, compare and restore every state of agents and harnesses.",
    epilog="Start with `perdure history list helper`.",
    no_args_is_help=True,
)

Ref = Annotated[str, typer.Argument(help="The id or name of an agent or a harness.", show_default=False)]
Number = Annotated[int, typer.Argument(help="The revision's number.", min=1, show_default=False)]
Harness = Annotated[bool, typer.Option("--harness", help="The name is a harness's, not an agent's.")]


def _kind(harness: bool) -> RevisionKind | None:
    return "harness" if harness else None


@app.command("list")
def list_revisions(
    ref: Annotated[
        str | None,
        typer.Argument(help="The id or name of an agent or a harness.", show_default="all of them"),
    ] = None,
    harness: Harness = False,
    limit: Annotated[int, typer.Option(help="How many revisions to show.", min=1, max=1000)] = 50,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """List revisions, newest first: who changed an agent or a harness, when, and why."""
    enter(_list(connect(url, token, org), ref, _kind(harness), limit, as_json))


async def _list(
    client: Client, ref: str | None, kind: RevisionKind | None, limit: int, as_json: bool
) -> None:
    async with client:
        found = (
            await client.list_org_history(kind=kind, limit=limit)
            if ref is None
            else await client.list_entity_history(ref, kind=kind, limit=limit)
        )
    columns = ("TIME", "NAME", "REVISION", "ACTION", "WHO", "WHY")
    Screen().listing(found.data, columns, _row, as_json=as_json, cut=("NAME", "WHO", "WHY"))


def _row(each: Revision) -> tuple[Part, ...]:
    return (
        each.created_at[:19] + "Z",
        each.entity_name or each.entity_id,
        str(each.revision),
        each.action,
        each.actor.name or each.actor.id or each.actor.type,
        each.reason or "",
    )


@app.command()
def show(
    ref: Ref,
    revision: Number,
    harness: Harness = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Show one revision with all its fields. Secrets are digests."""
    enter(_show(connect(url, token, org), ref, revision, _kind(harness), as_json))


async def _show(client: Client, ref: str, revision: int, kind: RevisionKind | None, as_json: bool) -> None:
    async with client:
        found = await client.show_entity_revision(ref, revision, kind=kind)
    if as_json:
        Screen().json(found)
        return
    Screen().table(
        ("FIELD", "VALUE"), [(name, text_of(value)) for name, value in (found.content or {}).items()]
    )


@app.command()
def diff(
    ref: Ref,
    first: Number,
    second: Annotated[
        int | None, typer.Argument(help="The revision to compare with.", min=1, show_default="the newest")
    ] = None,
    harness: Harness = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Compare two revisions, field by field."""
    enter(_diff(connect(url, token, org), ref, (first, second), _kind(harness), as_json))


async def _diff(
    client: Client,
    ref: str,
    revisions: tuple[int, int | None],
    kind: RevisionKind | None,
    as_json: bool,
) -> None:
    async with client:
        found = await client.diff_entity_revisions(ref, *revisions, kind=kind)
    screen = Screen()
    if as_json:
        screen.json(found)
        return
    if not found.changes:
        screen.line("The revisions are equal.")
    for step in found.changes:
        screen.line((step.path, "bold"))
        old = MISSING if step.op == "add" else step.old
        for line in difference(old, MISSING if step.op == "remove" else step.value):
            screen.line(line)


@app.command()
def restore(
    ref: Ref,
    revision: Number,
    harness: Harness = False,
    field: Annotated[
        list[str] | None,
        typer.Option(
            "--field", metavar="NAME", help="Restore only this field; repeatable.", show_default=False
        ),
    ] = None,
    expect: Annotated[
        int | None,
        typer.Option(help="The newest revision that you know; a newer one is an error.", show_default=False),
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why, for the audit log.", show_default=False)] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Give an agent or a harness the state of a revision. That makes another revision."""
    fields = tuple(field) if field else None
    enter(
        _restore(connect(url, token, org), ref, revision, (expect, fields, _kind(harness), reason), as_json)
    )


async def _restore(
    client: Client,
    ref: str,
    revision: int,
    how: tuple[int | None, tuple[str, ...] | None, RevisionKind | None, str | None],
    as_json: bool,
) -> None:
    expected, fields, kind, reason = how
    async with client:
        before = (await client.list_entity_history(ref, kind=kind, limit=1)).data
        found = await client.restore_entity_revision(
            ref, revision, expected_revision=expected, fields=fields, kind=kind, reason=reason
        )
    name = found.entity_name or found.entity_id
    if as_json:
        Screen().json(found)
    elif before and before[0].id == found.id:
        Screen().line(f"nothing to restore: {name} is like that already, at revision {found.revision}")
    else:
        Screen().line(f"{name} is at revision {found.revision}")
