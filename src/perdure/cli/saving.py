"""Files that commands write: seen once they are whole."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from perdure.cli.common import CommandFailed

OWN = 0o600
"""The mode of files with what not everybody on the computer should read."""


@contextmanager
def saved_to(output: Path, *, private: bool = False) -> Iterator[Path]:
    """Return where to write what becomes `output` at the end of the block, unless it fails.

    Args:
        private: whether only its owner may read the file.

    Raises:
        CommandFailed: it cannot be written.
    """
    if output.is_dir():
        raise CommandFailed(f"cannot write {output}: it is a folder; name a file in it")
    direct = output.exists() and not output.is_file()  # such as /dev/null
    target = output if direct else output.with_name(f".{output.name}.{secrets.token_hex(4)}.part")
    try:
        if private and not direct:
            target.touch(OWN, exist_ok=False)
        yield target
        if not direct:
            target.replace(output)
    except OSError as error:
        raise CommandFailed(f"cannot write {output}: {error.strerror}") from error
    finally:
        if not direct:
            with suppress(OSError):  # such as a file in place of the folder
                target.unlink(missing_ok=True)


def check_new(output: Path, *, force: bool) -> None:
    """Check that a file can be written without a loss. Raises CommandFailed."""
    if output.is_file() and not force:
        raise CommandFailed(f"{output} exists: pass --force to replace it, or name another file")
