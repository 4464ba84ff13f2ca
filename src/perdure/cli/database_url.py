"""The option --database-url, whose password must not stay visible in the list of processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from urllib.parse import parse_qs, urlsplit

from perdure.cli.terminal import Screen

OPTION = "--database-url"
VARIABLE = "PERDURE_DATABASE_URL"


def hide_password(url: str | None) -> str | None:  # noqa: RET503 - the last line does not return
    """Start this process again with a URL that holds a password in the environment instead.

    Every user of the machine can read the arguments of a process, but only its own user the environment.
    """
    if url is None or not has_password(url):
        return url
    arguments = without_option(sys.orig_argv)
    if arguments == sys.orig_argv:
        return url  # this process was started in another way: its arguments do not show the URL
    Screen(stderr=True).line(
        "warning: the database's password was on the command line, where other users could read it for a"
        f" moment: set {VARIABLE} instead, or leave the password out and use PGPASSWORD or ~/.pgpass"
    )
    os.environ[VARIABLE] = url
    os.execv(sys.executable, arguments)  # noqa: S606 - the same program


def has_password(url: str) -> bool:
    """Whether the URL holds a password. One that cannot be parsed may hold one."""
    try:
        parts = urlsplit(url)
        return parts.password is not None or any("password" in name for name in parse_qs(parts.query))
    except ValueError:
        return True


def without_option(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a process without this option and its value."""
    left: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == OPTION:
            next(rest, None)
        elif not argument.startswith(f"{OPTION}="):
            left.append(argument)
    return left
