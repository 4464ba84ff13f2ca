"""Files that commands write: seen once they are whole."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perdure.cli.common import CommandFailed


@contextmanager
def saved_to(output: Path) -> Iterator[Path]:
    """Return where to write what becomes `output` at the end of the block, unless it fails.

    Raises:
        CommandFailed: it cannot be written.
    """
    direct = output.exists() and not output.is_file()  # such as /dev/null
    target = output if direct else output.with_name(f".{output.name}.{secrets.token_hex(4)}.part")
    try:
        yield target
        if not direct:
            target.replace(output)
    except OSError as error:
        raise CommandFailed(f"cannot write {output}: {error.strerror}") from error
    finally:
        if not direct:
            target.unlink(missing_ok=True)
