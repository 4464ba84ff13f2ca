"""Files of this computer that go with a message."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.cli.common import CommandFailed
from perdure.domain.texts import size_text

if TYPE_CHECKING:
    from perdure.domain.messages import FilePart, InputPart

MAX_BYTES = 7_000_000
"""Bytes of all files of a message: in base64, they fit into a request of 10 MB."""

HELP = """\
/new             start a new session
/title TEXT      set this session's title
/tags TAG ...    replace this session's tags (without a tag, remove all)
/attach FILE     send a file of this computer with the next message
/show            show this session's fields
/answer          answer what a tool's server asks you; /decline refuses
/help            show this help
/quit            exit, as Ctrl-D does; the session remains
Ctrl-C during an answer cancels the turn. While a tool waits for a callback, Ctrl-C returns to the
prompt and leaves the tool waiting; Enter without a message goes on watching it, or tasks that go on in
the background. `perdure tasks` and `perdure sessions tree` show what sub-agents do."""
"""The help of `perdure chat`."""


def read_attachment(path: str | Path) -> FilePart:
    """Read a file. Raises CommandFailed: it cannot be read, or is too large."""
    from perdure.client import attachment

    local = Path(path).expanduser()
    try:
        if local.stat().st_size > MAX_BYTES:
            raise CommandFailed(
                f"{local} has more than {size_text(MAX_BYTES)}: upload it with `perdure files put`, and tell "
                "the agent its path"
            )
        return attachment(local)
    except OSError as error:
        raise CommandFailed(f"cannot read {local}: {error.strerror}") from None


def content_of(text: str, files: Sequence[FilePart]) -> str | list[InputPart]:
    """A message of a text and files. Raises CommandFailed: the files are too large together."""
    from perdure.domain.messages import TextPart

    if not files:
        return text
    if sum(len(each.base64 or "") for each in files) > MAX_BYTES * 4 // 3 + 4 * len(files):
        raise CommandFailed(f"the files have more than {size_text(MAX_BYTES)} together: send fewer at once")
    return [TextPart(text), *files]
