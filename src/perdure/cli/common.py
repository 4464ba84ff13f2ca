"""What all commands share: connecting to the server, running the event loop."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from perdure.cli.database_url import OPTION, hide_password
from perdure.cli.failures import INTERRUPTED
from perdure.cli.terminal import log_to_terminal
from perdure.domain.errors import PerdureError

if TYPE_CHECKING:
    from perdure.client import Client

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:9000"

Url = Annotated[str, typer.Option("--url", envvar="PERDURE_URL", help="The Perdure server's URL.")]
Token = Annotated[
    str | None,
    typer.Option("--token", envvar="PERDURE_TOKEN", help="An access token, if the server requires one."),
]
Org = Annotated[
    str | None,
    typer.Option(
        "--org",
        envvar="PERDURE_ORG",
        help="The organization's id, if the access token's user belongs to several.",
    ),
]
Data = Annotated[Path | None, typer.Option("--data", help="The data folder.", show_default="./perdure-data")]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        OPTION,
        help="A PostgreSQL URL, instead of SQLite. With a password, use PERDURE_DATABASE_URL instead.",
        show_default=False,
        callback=hide_password,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
"""For commands that `confirm`."""


class CommandFailed(PerdureError):
    """A command failed; the message says why and how to fix it."""

    code = "command_failed"


def connect(
    url: str, token: str | None, org: str | None, *, retries: int = 2, program: str = "perdure-cli"
) -> Client:
    """Create a client of the server at this URL; nothing is sent yet.

    The environment variable PERDURE_REASON says why it changes things, for the audit log.
    """
    from perdure.client import Client

    log_to_terminal()
    try:
        reason = os.environ.get("PERDURE_REASON")
        return Client(url, token, org, retries=retries, program=program, reason=reason)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--url") from error


def pairs_of(texts: list[str] | None, option: str, what: str = "TEXT") -> dict[str, str]:
    """Parse an option's NAME=TEXT values.

    Exits with a usage error, which says `what`, for other texts, and for a name that is given twice.
    """
    pairs: dict[str, str] = {}
    for text in texts or ():
        name, sign, value = text.partition("=")
        if not name or not sign:
            raise typer.BadParameter(f"{text!r} is not NAME={what}", param_hint=option)
        if name in pairs:
            raise typer.BadParameter(f"{name} is given twice", param_hint=option)
        pairs[name] = value
    return pairs


def enter(main: Coroutine[Any, Any, T], run: Callable[[Coroutine[Any, Any, T]], T] = asyncio.run) -> T:
    """Run a command's coroutine to its end. Ctrl-C cancels it and exits with status 130."""
    try:
        return run(main)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def check_can_ask() -> None:
    """Check that somebody can confirm. Raises BadParameter: there is no terminal to ask on."""
    if not sys.stdin.isatty():
        raise typer.BadParameter("no terminal to confirm on; pass --yes", param_hint="--yes")


def confirm(question: str) -> None:
    """Ask on a terminal before something is gone for good; anything but a yes ends the command.

    Raises:
        BadParameter: there is no terminal to ask on.
    """
    check_can_ask()
    typer.confirm(question, abort=True)


def read_text(path: Path, option: str) -> str:
    """Read a file, or standard input for `-`. Raises BadParameter, which names the option."""
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise typer.BadParameter(f"cannot read {path}: {why}", param_hint=option) from error
