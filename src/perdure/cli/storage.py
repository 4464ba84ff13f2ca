"""`perdure storage ...` and `perdure secrets ...`: what a session stores."""

from __future__ import annotations

import sys
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli.common import DEFAULT_URL, CommandFailed, Json, Org, Token, Url, connect, enter
from perdure.cli.sessions import SessionId
from perdure.cli.terminal import Screen

if TYPE_CHECKING:
    from perdure.client import Client

app = typer.Typer(help="Read a session's key-value pairs.", no_args_is_help=True)
secrets = typer.Typer(help="List and set a session's secrets.", no_args_is_help=True)


@app.command("list")
def list_keys(
    session_id: SessionId, as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None, org: Org = None
) -> None:
    """List a session's key-value pairs."""
    enter(_list_keys(connect(url, token, org), session_id, as_json))


async def _list_keys(client: Client, session_id: str, as_json: bool) -> None:
    async with client:
        pairs = await client.list_keys(session_id)
    Screen().listing(pairs, ("KEY", "VALUE"), lambda pair: (pair.key, pair.value), as_json=as_json)


@secrets.command("list")
def list_secrets(
    session_id: SessionId, as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None, org: Org = None
) -> None:
    """List the names of a session's secrets. Nothing prints their values."""
    enter(_list_secrets(connect(url, token, org), session_id, as_json))


async def _list_secrets(client: Client, session_id: str, as_json: bool) -> None:
    async with client:
        found = await client.list_secrets(session_id)
    columns = ("NAME", "UPDATED")
    Screen().listing(found, columns, lambda secret: (secret.name, secret.updated_at), as_json=as_json)


@secrets.command("set")
def set_secret(
    session_id: SessionId,
    name: Annotated[str, typer.Argument(help="The secret's name.", show_default=False)],
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Set a secret. Reads its value from standard input, or asks for it without showing it.

    The value is no argument, because other users of the computer can see arguments.
    """
    if sys.stdin.isatty():
        value = str(typer.prompt("Value", hide_input=True))
    else:
        try:
            value = sys.stdin.read().rstrip("\r\n")
        except UnicodeDecodeError:
            raise CommandFailed("standard input is not UTF-8 text: encode the value") from None
    if not value:
        raise CommandFailed(
            f"standard input is empty: pipe the value in, as in `perdure secrets set {quote(session_id)} "
            f"{quote(name)} < FILE`, or run the command on a terminal, which asks for it"
        )
    enter(_set_secret(connect(url, token, org), session_id, name, value))


async def _set_secret(client: Client, session_id: str, name: str, value: str) -> None:
    async with client:
        await client.set_secrets(session_id, {name: value})
    Screen().line(f"set {name}")
