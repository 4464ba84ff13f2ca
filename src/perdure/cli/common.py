"""What all commands share: connecting to the server, running the event loop, explaining an error."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from perdure.cli.terminal import log_to_terminal
from perdure.domain.errors import PerdureError

if TYPE_CHECKING:
    from perdure.client import Client

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:9000"
FAILED = 1
INTERRUPTED = 130

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
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


class CommandFailed(PerdureError):
    """A command failed; the message says why and how to fix it."""

    code = "command_failed"


def connect(
    url: str, token: str | None, org: str | None, *, retries: int = 2, program: str = "perdure-cli"
) -> Client:
    """Create a client of the server at this URL; nothing is sent yet."""
    from perdure.client import Client

    log_to_terminal()
    try:
        return Client(url, token, org, retries=retries, program=program)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--url") from error


def pairs_of(texts: list[str] | None, option: str, what: str = "TEXT") -> dict[str, str]:
    """Parse an option's NAME=TEXT values. Exits with a usage error, which says `what`, for other texts."""
    for text in texts or ():
        if not text.partition("=")[0] or "=" not in text:
            raise typer.BadParameter(f"{text!r} is not NAME={what}", param_hint=option)
    return {text.partition("=")[0]: text.partition("=")[2] for text in texts or ()}


def enter(main: Coroutine[Any, Any, T], run: Callable[[Coroutine[Any, Any, T]], T] = asyncio.run) -> T:
    """Run a command's coroutine to its end. Ctrl-C cancels it and exits with status 130."""
    try:
        return run(main)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def read_text(path: Path, option: str) -> str:
    """Read a file, or standard input for `-`. Raises BadParameter, which names the option."""
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise typer.BadParameter(f"cannot read {path}: {why}", param_hint=option) from error


def explain(error: PerdureError) -> str:
    """Return the error's message, with the next step if there is an obvious one."""
    message = error.message
    status = getattr(error, "status", None)
    if error.code == "unreachable":
        return f"{message}\nStart a server with `perdure serve`, or name one with --url or PERDURE_URL."
    if status == 401:
        advice = "Pass an access token with --token or PERDURE_TOKEN; `perdure keys create` creates one."
        return f"{message}\n{advice}"
    if error.code == "session_not_found":
        return f"{message}; `perdure sessions list` lists them."
    if error.code == "task_not_found":
        return f"{message}; `perdure tasks list SESSION_ID` lists them."
    if error.code == "missing_variable":
        return f"{message}\nThe option --var NAME=VALUE gives a value."
    if error.code == "not_an_approval":
        advice = "`perdure inputs answer SESSION_ID` answers questions, and `perdure mcp sign-in` signs in."
        return f"{message}\n{advice}"
    if error.code == "agent_not_found":
        return f"{message}; `perdure agents list` lists them."
    if error.code == f"http_{status}":  # the body is not in this API's error format
        return f"{message}, not in Perdure's format. Is another program at --url or PERDURE_URL?"
    if error.code == "model_not_configured":
        return f"{message}\n{MODEL_ADVICE}"
    return message


MODEL_ADVICE = """\
Register a vendor, or a server that speaks OpenAI's chat protocol, in another terminal:
  perdure providers add openai
  perdure providers add local --base-url http://127.0.0.1:8080/v1
Or restart the server with `perdure serve --local-model`, a small model that needs no API key."""
