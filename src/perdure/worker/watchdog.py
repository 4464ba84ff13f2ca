"""Logs what blocks the event loop: while it is blocked, nobody is served.

A thread asks the loop for a sign of life twice a second. The first stack of a block names the cause: if
C code holds the interpreter's lock, the thread gets it in the moment in which that code returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterator

from perdure.domain.instruments import Histogram
from perdure.domain.metrics import Metrics

log = logging.getLogger("perdure.watchdog")

PATIENCE = 0.5
"""Seconds to wait for a sign of life, before the next one is asked for. A block of twice the time is always
seen."""

QUIET = 60.0
"""Seconds after a report in which further blocks are only counted."""

FRAMES = 25
"""Innermost frames of the stack that are logged."""


@contextlib.contextmanager
def watching(quiet: float = QUIET, metrics: Metrics | None = None) -> Iterator[None]:
    """Watch the running event loop for the block's duration. The caller runs in the loop's thread."""
    delay = (metrics or Metrics()).loop_delay
    watchdog = _Watchdog(asyncio.get_running_loop(), threading.get_ident(), quiet, delay)
    thread = threading.Thread(target=watchdog.run, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        watchdog.stopped.set()


class _Watchdog:
    def __init__(self, loop: asyncio.AbstractEventLoop, thread: int, quiet: float, delay: Histogram) -> None:
        self._delay = delay
        self.stopped = threading.Event()
        self._loop = loop
        self._thread = thread
        self._quiet = quiet
        self._silent_until = 0.0
        self._uncounted = 0

    def run(self) -> None:
        """Watch until stopped, or until the loop is closed."""
        alive = threading.Event()
        while True:
            alive.clear()
            last, used = time.monotonic(), time.process_time()
            try:
                self._loop.call_soon_threadsafe(self._answer, alive, last)
            except RuntimeError:
                return
            if self.stopped.wait(PATIENCE):
                return
            # If even this thread wakes up late, the interpreter's lock was held.
            if not alive.is_set() or time.monotonic() - last >= 2 * PATIENCE:
                self._report(alive, last, used)

    def _answer(self, alive: threading.Event, asked: float) -> None:
        """Give the sign of life; in the loop's thread."""
        alive.set()
        self._delay.observe(time.monotonic() - asked)

    def _report(self, alive: threading.Event, last: float, used: float) -> None:
        """Log a block that began after `last`, when `used` seconds of processor time had been used."""
        loud = last >= self._silent_until
        if loud:
            log.warning("the event loop is blocked; its thread is here, innermost last:\n%s", self._stack())
        else:
            self._uncounted += 1
        while not alive.wait(PATIENCE):
            if self.stopped.is_set():
                return
        if not loud:
            return
        log.warning(
            "the event loop was blocked for about %.1f seconds (%.1f seconds of CPU time)%s",
            time.monotonic() - last,
            time.process_time() - used,
            f"; {self._uncounted} earlier blocks were not logged" if self._uncounted else "",
        )
        self._uncounted = 0
        self._silent_until = time.monotonic() + self._quiet

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._thread)  # noqa: SLF001 (there is no public way)
        return "".join(traceback.format_stack(frame)[-FRAMES:]) if frame is not None else "(unknown)"
