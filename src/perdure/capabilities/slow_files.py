"""Says where a file of tools hangs while it is executed: the server does not start before its end."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Iterator

PATIENCE = 10.0
"""Seconds that a file may take without a word."""

log = logging.getLogger("perdure.tools")


@contextlib.contextmanager
def named_if_slow(file: str, patience: float = PATIENCE) -> Iterator[None]:
    """Log the line that runs if the block, which executes this file, takes longer than `patience` seconds."""
    over = threading.Event()
    arguments = (file, patience, threading.get_ident(), over)
    threading.Thread(target=_watch, args=arguments, name="perdure-slow-file", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _watch(file: str, patience: float, thread: int, over: threading.Event) -> None:
    while not over.wait(patience):
        if _report(file, patience, thread):
            return


def _report(file: str, patience: float, thread: int) -> bool:
    """Log the line; return whether there was one: the file's first line may not have begun."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001 (there is no public way)
    while frame is not None and frame.f_code.co_filename != file:
        frame = frame.f_back
    if frame is None or not frame.f_lineno:
        return False
    log.warning(
        "%s:%d: this line still runs after %g seconds, and the server starts only once the file has "
        "been executed: move the work into a tool",
        file,
        frame.f_lineno,
        patience,
    )
    return True
