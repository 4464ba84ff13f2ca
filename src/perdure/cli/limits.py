"""`perdure limits ...`: the limits of an organization and its users, and what is used of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli.common import DEFAULT_URL, Json, Org, Token, Url, connect, enter, pairs_of
from perdure.cli.terminal import Screen
from perdure.domain.limits import LIMIT_NAMES, ChangeLimits, Limits, LimitUse, UpdateLimits

if TYPE_CHECKING:
    from perdure.client import Client

app = typer.Typer(help="Show and change the limits of the organization and its users.", no_args_is_help=True)

SERVER = "server"
"""In place of a value: the server's."""


@app.command()
def show(as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None, org: Org = None) -> None:
    """Show the limits, and how much of them the organization and you use."""
    enter(_show(connect(url, token, org), as_json))


async def _show(client: Client, as_json: bool) -> None:
    async with client:
        _print(await client.get_limits((await client.identity()).organization_id), as_json)


@app.command("set")
def set_limits(
    values: Annotated[
        list[str],
        typer.Argument(
            help=f"NAME=NUMBER, or NAME={SERVER} for the server's value.",
            show_default=False,
        ),
    ],
    user: Annotated[bool, typer.Option("--user", help="Limits of each user.")] = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Change limits: active_turns, open_sessions, requests_per_minute, tokens_per_minute.

    Example: perdure limits set --user active_turns=20 tokens_per_minute=400000
    """
    given = pairs_of(values, "VALUES", "NUMBER")
    changes: dict[str, int | None] = {}
    for name, text in given.items():
        if name not in LIMIT_NAMES or (text != SERVER and not text.isdecimal()):
            raise typer.BadParameter(
                f"{name}={text} is not NAME=NUMBER with one of {', '.join(LIMIT_NAMES)}", param_hint="VALUES"
            )
        changes[name] = None if text == SERVER else int(text)
    part = ChangeLimits(**changes)
    body = UpdateLimits(user=part) if user else UpdateLimits(organization=part)
    enter(_set(connect(url, token, org), body, as_json))


async def _set(client: Client, body: UpdateLimits, as_json: bool) -> None:
    async with client:
        org_id = (await client.identity()).organization_id
        limits = await client.update_limits(org_id, organization=body.organization, user=body.user)
        _print(limits, as_json)


def _print(limits: Limits, as_json: bool) -> None:
    if as_json:
        Screen().json(limits)
        return
    rows = [
        (name, _text(getattr(limits.organization, name)), _text(getattr(limits.user, name)))
        for name in LIMIT_NAMES
    ]
    Screen().table(("LIMIT", "ORGANIZATION", "YOU"), rows)
    if limits.waiting_turns:
        Screen().line(f"{limits.waiting_turns} turns wait for others to end")


def _text(use: LimitUse) -> str:
    return f"{use.used} of {'no limit' if use.limit is None else use.limit}"
