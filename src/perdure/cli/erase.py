"""`perdure erase ...`: erasures of sessions and users, and their receipts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli.common import DEFAULT_URL, Json, Org, Token, Url, confirm, connect, enter
from perdure.cli.terminal import Screen
from perdure.domain.erasures import Erasure

if TYPE_CHECKING:
    from perdure.client import Client

app = typer.Typer(help="Erase sessions and users, with a receipt.", no_args_is_help=True)

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait until it is finished.")]
ErasureId = Annotated[str, typer.Argument(help="The erasure's id.", show_default=False)]


@app.command()
def session(
    session_id: Annotated[str, typer.Argument(help="The session's id.", show_default=False)],
    yes: Yes = False,
    no_wait: NoWait = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Erase a session, with those of its sub-agents, and print the receipt.

    Asks for confirmation on a terminal; without one, pass --yes.
    """
    if not yes:
        confirm(f"Erase {session_id} and everything that it has left?")
    enter(_erase(connect(url, token, org), as_json, no_wait, session_id=session_id))


@app.command()
def user(
    user_id: Annotated[str, typer.Argument(help="The user's id.", show_default=False)],
    yes: Yes = False,
    no_wait: NoWait = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Erase a user from the organization, with all of the user's sessions, and print the receipt.

    Asks for confirmation on a terminal; without one, pass --yes.
    """
    if not yes:
        confirm(f"Erase {user_id} with all of the user's sessions and memories?")
    enter(_erase(connect(url, token, org), as_json, no_wait, user_id=user_id))


async def _erase(
    client: Client,
    as_json: bool,
    no_wait: bool,
    *,
    session_id: str | None = None,
    user_id: str | None = None,
) -> None:
    async with client:
        erasure = await client.create_erasure(session_id=session_id, user_id=user_id)
        if not no_wait:
            erasure = await client.wait_for_erasure(erasure.id)
        _print(erasure, as_json)


@app.command()
def show(
    erasure_id: ErasureId,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Print the receipt of an erasure: what was erased, and what remains."""
    enter(_show(connect(url, token, org), erasure_id, as_json))


async def _show(client: Client, erasure_id: str, as_json: bool) -> None:
    async with client:
        _print(await client.get_erasure(erasure_id), as_json)


@app.command("list")
def list_erasures(
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=100)] = 20,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """List erasures, newest first."""
    enter(_list(connect(url, token, org), limit, as_json))


async def _list(client: Client, limit: int, as_json: bool) -> None:
    async with client:
        page = await client.list_erasures(limit=limit)
    columns = ("ID", "OF", "STATUS", "CREATED")
    Screen().listing(
        page.data,
        columns,
        lambda each: (each.id, each.subject_id, each.status, each.created_at),
        as_json=as_json,
    )


@app.command()
def hold(
    session_id: Annotated[str, typer.Argument(help="The session's id.", show_default=False)],
    release: Annotated[bool, typer.Option("--release", help="Release it.")] = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Put a session under legal hold, so that nobody can delete or erase it, or release it."""
    enter(_hold(connect(url, token, org), session_id, release))


async def _hold(client: Client, session_id: str, release: bool) -> None:
    async with client:
        if release:
            await client.release_session(session_id)
        else:
            await client.hold_session(session_id)
    Screen().line(f"{'released' if release else 'held'} {session_id}")


def _print(erasure: Erasure, as_json: bool) -> None:
    screen = Screen()
    if as_json:
        screen.json(erasure)
        return
    screen.line((erasure.id, "bold"), f": {erasure.status}, {erasure.subject_id}")
    if erasure.status == "running":
        screen.line(f"at work on: {erasure.stage}")
    if erasure.erased:
        screen.table(
            ("ERASED", "ITEMS", "BYTES"),
            [(each.kind, f"{each.items:,}", f"{each.bytes:,}") for each in erasure.erased],
        )
    for each in erasure.remains:
        count = "" if each.items is None else f" ({each.items:,})"
        screen.line(f"remains: {each.kind}{count}: {each.reason}")
