"""API keys that commands need: from standard input, a variable or a hidden prompt, never an argument.

Other users of the machine can read the arguments of a process, and shells keep them in their history.
"""

from __future__ import annotations

import getpass
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

KeyVariable = Annotated[
    str | None,
    typer.Option(
        "--key-env",
        metavar="VAR",
        help="The environment variable that holds the API key.",
        show_default=False,
    ),
]
KeyStdin = Annotated[
    bool, typer.Option("--key-stdin", help="Read the API key from the first line of standard input.")
]
NoKey = Annotated[
    bool, typer.Option("--no-key", help="Store no API key, and ask for none: the server needs none.")
]

MAX_KEY = 4096
"""Characters of an API key that the API accepts."""


def check_key_options(key_env: str | None, key_stdin: bool, no_key: bool = False) -> None:
    """Refuse options that exclude each other. Raises BadParameter."""
    if (key_env is not None) + key_stdin + no_key > 1:
        raise typer.BadParameter("choose one of --key-env, --key-stdin and --no-key", param_hint="--key-env")


def read_key(key_env: str | None, key_stdin: bool, *, needed: bool) -> str | None:
    """Read an API key, as the options say, or ask the person at the terminal.

    Args:
        key_env: the variable of --key-env.
        key_stdin: whether --key-stdin is given.
        needed: whether to insist on a key.

    Raises:
        BadParameter: there is no key where the options say, or none is given where one is needed.
    """
    if key_env is not None:
        return _checked(os.environ.get(key_env, ""), f"the variable {key_env} is not set", "--key-env")
    if key_stdin:
        with _interruptible():
            line = sys.stdin.readline(MAX_KEY + 2)
        return _checked(line, "standard input has no key", "--key-stdin")
    if not sys.stdin.isatty():
        if needed:
            raise typer.BadParameter(
                "there is no API key: pipe it to --key-stdin, or name a variable with --key-env",
                param_hint="--key-stdin",
            )
        return None
    question = "API key (not shown): " if needed else "API key (not shown; empty for none): "
    try:
        with _interruptible():
            key = getpass.getpass(question).strip()
    except EOFError:
        raise typer.BadParameter("no API key was typed", param_hint="--key-stdin") from None
    return _checked(key, "the API key is empty", "--key-stdin") if needed or key else None


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end a read at once. The event loop's own handler acts only after the read."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _checked(key: str, otherwise: str, option: str) -> str:
    key = key.strip()
    if not key:
        raise typer.BadParameter(otherwise, param_hint=option)
    if not (key.isascii() and key.isprintable()):
        raise typer.BadParameter("an API key consists of printable ASCII characters", param_hint=option)
    if len(key) > MAX_KEY:
        raise typer.BadParameter(f"an API key has up to {MAX_KEY:,} characters", param_hint=option)
    return key
