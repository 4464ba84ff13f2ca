"""`perdure backup` or another command on the database, killed when it reports some progress.

The first argument is what it says then, perhaps with `@` and how much is done.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from perdure.__main__ import main
from perdure.cli import keep


@contextmanager
def deadly() -> Iterator[Callable[[str, int, int], None]]:
    def show(what: str, done: int, total: int) -> None:
        if what == place and done >= int(least or 1):
            os.kill(os.getpid(), signal.SIGKILL)

    yield show


place, _, least = sys.argv.pop(1).partition("@")
keep.shown_progress = deadly
main()
