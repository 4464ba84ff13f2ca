"""`perdure erase ...`: erasures of sessions and users, and their receipts."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli.common import (
    DEFAULT_URL,
    CommandFailed,
    Json,
    Org,
    Token,
    Url,
    Yes,
    check_can_ask,
    confirm,
    connect,
    enter,
)
from perdure.cli.terminal import Screen
from perdure.cli.texts import several, short
from perdure.domain.erasures import Erasure

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.domain.accounts import Identity, User

app = typer.Typer(help="Erase sessions and users, with a receipt.", no_args_is_help=True)

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
        check_can_ask()
        said = enter(_about_session(connect(url, token, org), session_id))
        confirm(f"Erase {session_id}{said}, with its sub-agents and everything that they have left?")
    enter(_erase(connect(url, token, org), as_json, no_wait, session_id=session_id))


@app.command()
def user(
    user: Annotated[
        str,
        typer.Argument(
            metavar="USER",
            help="The user's e-mail address or id; `GET /v1/users` lists both.",
            show_default=False,
        ),
    ],
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
        check_can_ask()
    user_id, said = enter(_find_user(connect(url, token, org), user, counts=not yes))
    if not yes:
        confirm(f"Erase {user_id}{said}, with all of the user's sessions and memories?")
    enter(_erase(connect(url, token, org), as_json, no_wait, user_id=user_id))


async def _about_session(client: Client, session_id: str) -> str:
    """Say what a session is, for a question; empty if the caller cannot see it, as after a deletion."""
    from perdure.client import ApiError

    try:
        async with client:
            session = await client.get_session(session_id)
            events = await client.get_events_summary(session_id)
            files = await client.list_files(session_id, recursive=True)
    except ApiError as error:
        if error.status != 404:
            raise
        return ""
    kinds = ("input.message", "output.message.completed")
    messages = sum(each.count for each in events.by_type if each.event_type in kinds)
    kept = sum(not each.is_directory for each in files)
    title = short(session.title or session.preview or "without a title", 60)
    return f" ({title}: {several(messages, 'message')}, {several(kept, 'file')})"


COUNTED = 1_000
"""The most sessions that are looked at to count a user's."""


async def _find_user(client: Client, ref: str, *, counts: bool) -> tuple[str, str]:
    """Return a user's id, by e-mail address or id, and who it is, for a question.

    Raises:
        CommandFailed: no member has this e-mail address.
    """
    if "@" not in ref and not counts:
        return ref, ""
    async with client:
        me = await client.identity()
        users: tuple[User | Identity, ...] = (me,)
        if not _is(me, ref):
            users = await client.list_users(search=ref if "@" in ref else None)
        found = next((each for each in users if _is(each, ref)), None)
        if found is None:
            if "@" in ref:
                raise CommandFailed(
                    f"no member of the organization has the e-mail address {ref}: `GET /v1/users` lists them"
                )
            return ref, ""
        if not counts:
            return found.id, ""
        seen = mine = 0
        async with aclosing(client.iterate_sessions(include_archived=True)) as sessions:
            async for each in sessions:
                seen += 1
                mine += each.owner_principal_id[-32:] == found.id[-32:]
                if seen == COUNTED:
                    break
    sessions_said = f"{'at least ' if seen == COUNTED else ''}{several(mine, 'session')}"
    return found.id, f" ({found.name}, {found.email}: {sessions_said})"


def _is(user: User | Identity, ref: str) -> bool:
    return user.id == ref or user.email.casefold() == ref.strip().casefold()


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
