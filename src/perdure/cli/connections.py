"""`perdure connections ...` and `perdure mcp sign-in`: sign-ins at MCP servers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli.common import DEFAULT_URL, CommandFailed, Json, Org, Token, Url, connect, enter
from perdure.cli.terminal import Screen

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.domain.connections import Connection

app = typer.Typer(help="List and remove your sign-ins at MCP servers.", no_args_is_help=True)

PATIENCE = 600.0
"""Seconds for a sign-in, after which its page is not valid any more."""
PAUSE = 1.0

Server = Annotated[str, typer.Argument(help="The server's id or name.", show_default=False)]
Service = Annotated[
    bool, typer.Option("--organization", help="The organization's own sign-in, for all its members.")
]


@app.command("list")
def list_connections(
    as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None, org: Org = None
) -> None:
    """List your sign-ins: first those that tool calls wait for. Tokens are never shown."""
    enter(_list(connect(url, token, org), as_json))


async def _list(client: Client, as_json: bool) -> None:
    async with client:
        found = await client.list_connections()
    Screen().listing(
        found,
        ("PROVIDER", "SERVER", "STATUS", "SIGNED IN", "SCOPES"),
        lambda each: (
            each.provider,
            each.server,
            each.status,
            each.signed_in_at or "",
            " ".join(each.scopes),
        ),
        as_json=as_json,
    )


@app.command()
def remove(
    server: Server,
    organization: Service = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Remove a sign-in: its tokens are deleted and revoked."""
    enter(_remove(connect(url, token, org), server, organization))


async def _remove(client: Client, server: str, organization: bool) -> None:
    async with client:
        provider = await _provider(client, server)
        if organization:
            await client.delete_organization_connection(await _organization(client), provider)
        else:
            await client.delete_connection(provider)
    Screen().line(f"removed the sign-in at {server}")


def sign_in(
    server: Server,
    organization: Service = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Sign in at a server: print the page to open, and wait until that is done."""
    enter(_sign_in(connect(url, token, org), server, organization))


async def _sign_in(client: Client, server: str, organization: bool) -> None:
    async with client:
        provider = await _provider(client, server)
        owner = await _organization(client) if organization else None
        before = await _signed_in_at(client, provider, owner)
        link = await (
            client.sign_in(provider) if owner is None else client.sign_in_organization(owner, provider)
        )
        screen = Screen()
        screen.line("open this page in your browser, and sign in there:")
        screen.line(f"  {link.url}")
        screen.line(f"waiting until {link.expires_at}; Ctrl-C stops waiting")
        for _ in range(round(PATIENCE / PAUSE)):
            if await _signed_in_at(client, provider, owner) not in (None, before):
                break
            await asyncio.sleep(PAUSE)
        else:
            raise CommandFailed(f"nobody signed in at {server} in time: run this command again")
    screen.line(f"signed in at {server}")


async def _signed_in_at(client: Client, provider: str, owner: str | None) -> str | None:
    """When the last sign-in at a server was; None without one."""
    found: tuple[Connection, ...]
    if owner is None:
        found = await client.list_connections()
    else:
        found = await client.list_organization_connections(owner)
    times = (each.signed_in_at for each in found if each.provider == provider)
    return next((each for each in times if each is not None), None)


async def _provider(client: Client, server: str) -> str:
    """The provider of this id or name."""
    waiting = {each.server: each.provider for each in await client.list_connections()}
    known = {each.server: each.provider for each in await client.list_connection_providers()}
    named = waiting | known
    if server in named:
        return named[server]
    if server.startswith(("mcp_", "inline_")):
        return server
    names = ", ".join(sorted(named)) or "none"
    raise CommandFailed(f"there is no server {server!r} at which people sign in; there are: {names}")


async def _organization(client: Client) -> str:
    return (await client.identity()).organization_id
