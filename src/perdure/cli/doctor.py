"""`perdure doctor`: checks what a server needs, and says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perdure.cli.common import DEFAULT_URL, Data, DatabaseUrl, Json, Org, Token, enter
from perdure.cli.failures import FAILED
from perdure.cli.finding import Finding
from perdure.cli.terminal import Screen, log_to_terminal

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}


def doctor(
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            help=f"The URL under which clients reach a running server: a proxy's, or {DEFAULT_URL}.",
            show_default=False,
        ),
    ] = None,
    providers: Annotated[
        bool, typer.Option("--providers", help="With --url: ask each vendor whether its key is valid.")
    ] = False,
    as_json: Json = False,
    data: Data = None,
    database_url: DatabaseUrl = None,
    token: Token = None,
    org: Org = None,
) -> None:
    """Check the database, keys, clock, files and sandbox of a server with the same settings.

    With --url, also check a running server, and whether a proxy before it holds streams back. A server may be
    running, and nothing is changed. The exit status is 1 if something fails.
    """
    if providers and url is None:
        raise typer.BadParameter("needs --url", param_hint="--providers")
    log_to_terminal()
    found = enter(_check(data, database_url, url, token, org, providers=providers))
    screen = Screen()
    if as_json:
        for each in found:
            screen.json(each)
    else:
        for each in found:
            screen.line((f"{each.status:<4}", _STYLES[each.status]), f"  {each.check}: {each.detail}")
            if each.advice:
                screen.line(f"      {each.advice}")
    if any(each.status == "fail" for each in found):
        raise typer.Exit(FAILED)


async def _check(
    data: Path | None,
    database_url: str | None,
    url: str | None,
    token: str | None,
    org: str | None,
    *,
    providers: bool,
) -> list[Finding]:
    from perdure.cli.doctor_database import check_database
    from perdure.cli.doctor_machine import check_machine
    from perdure.domain.errors import PerdureError
    from perdure.settings import load

    try:
        settings = load(data=data, database_url=database_url)
    except PerdureError as error:
        return [Finding("settings", "fail", error.message, "Correct or unset the variable.")]
    found = [
        Finding("settings", "ok", "all values are valid"),
        *await check_database(settings),
        *await check_machine(settings),
    ]
    if url is not None:
        from perdure.cli.doctor_network import check_server

        found += await check_server(url, token, org, providers=providers)
    return found
