"""Edit a call's arguments in the person's own editor."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec

from perdure.cli.common import CommandFailed
from perdure.domain.visible import visible_json

if TYPE_CHECKING:
    from perdure.domain.messages import JsonObject

MAX_TEXT = 4 * 1024 * 1024
"""The most bytes that are read back from the editor."""


def text_of(arguments: object) -> str:
    """Return arguments as indented JSON. Invisible characters are escaped, which keeps their value."""
    text = msgspec.json.format(msgspec.json.encode(arguments), indent=2).decode()
    return visible_json(text) + "\n"


def arguments_of(text: str) -> JsonObject:
    """Return the arguments in a text. Raises CommandFailed if it is not a JSON object."""
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise CommandFailed(f"the arguments are not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise CommandFailed(f"the arguments must be a JSON object, not {msgspec.json.encode(found)[:40]!r}")
    return found


def is_same(one: object, other: object) -> bool:
    """Whether two values are the same JSON: to Python, `true`, `1` and `1.0` are equal."""
    first, second = (msgspec.json.encode(each, order="deterministic") for each in (one, other))
    return first == second


def edit(text: str) -> str:
    """Open a text in the editor that `VISUAL` or `EDITOR` names, and return what was saved.

    Raises:
        CommandFailed: there is no terminal or no editor, or the editor failed.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise CommandFailed("an editor needs a terminal: pass the arguments with --arguments FILE instead")
    command = _editor()
    with TemporaryDirectory(prefix="perdure-") as folder:
        path = Path(folder) / "arguments.json"
        path.write_text(text, "utf-8")
        path.chmod(0o600)
        # Ctrl-C is for the editor. A handler, unlike an ignored signal, is not inherited by it.
        before = signal.signal(signal.SIGINT, lambda *_: None)
        try:
            status = subprocess.run((*command, str(path)), check=False).returncode  # noqa: S603
        except OSError as error:
            raise CommandFailed(f"the editor {command[0]!r} does not start: {error.strerror}") from None
        finally:
            signal.signal(signal.SIGINT, before)
        if status != 0:
            raise CommandFailed(f"the editor {command[0]!r} ended with status {status}: nothing was changed")
        return _read(path)


def _editor() -> list[str]:
    setting = os.environ.get("VISUAL") or os.environ.get("EDITOR") or ""
    try:
        command = shlex.split(setting)
    except ValueError as error:
        raise CommandFailed(f"VISUAL or EDITOR is not a valid command: {error}") from None
    if not command:
        raise CommandFailed("no editor is set: set VISUAL or EDITOR, for example EDITOR=nano")
    return command


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TEXT + 1)
        if len(data) > MAX_TEXT:
            raise CommandFailed(f"the arguments have more than {MAX_TEXT} bytes")
        return data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"the saved arguments cannot be read: {error}") from None
