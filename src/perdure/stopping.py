"""SIGTERM and SIGINT: a request to stop, which always ends the process.

A request that comes during the start ends it at once: nothing runs yet, and transactions are atomic. Later it
drains the server, within a deadline: a database that does not answer, a disk that hangs or a process that
cannot be killed must not keep it alive. What is unfinished then resumes at the next start, as after a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from perdure.logs import flush_log

SIGNALS = (signal.SIGTERM, signal.SIGINT)

CLOSE_SECONDS = 10.0
"""How long the server may take to stop after the time that running turns have: to end streams, and to close
the database."""
LAST_SECONDS = 4.0
"""After the deadline: how long its log lines may take. Standard error may be a full pipe."""
AT_ONCE = 0.2
"""How long the log may take when the process has to end at once."""
FORCED = 1
"""The exit status of a server that did not stop in time."""

log = logging.getLogger("perdure")


class Stopping:
    """The requests to stop this process.

    Args:
        drain_seconds: how long running turns may continue.
    """

    def __init__(self, drain_seconds: float) -> None:
        self.asked = asyncio.Event()
        """Set by the first request."""
        self._loop = asyncio.get_running_loop()
        self._limit = drain_seconds + CLOSE_SECONDS
        self._started = False
        self._deadline: threading.Timer | None = None

    def start(self) -> None:
        """Drain from now on, instead of ending at once."""
        self._started = True

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals until the block ends.

        Python runs these handlers between any two instructions of the main thread, and so also while a long
        computation blocks the event loop, when the loop's own handlers would not run.
        """
        before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        try:
            yield
        except BaseException:
            if (
                self._started and self._deadline is None
            ):  # nobody asked, but the process ends: not later than if somebody had
                self._set_deadline()
            raise
        finally:
            if self._deadline is None:  # otherwise what is left of the process must end too
                for number, handler in before.items():
                    if handler is not None:
                        signal.signal(number, handler)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if not self._started or (self._deadline is not None and number == signal.SIGINT):
            flush_log(AT_ONCE)
            os._exit(128 + number)  # a second Ctrl-C means now
        if self._deadline is not None:
            return
        self._set_deadline()
        self._loop.call_soon_threadsafe(self.asked.set)

    def _set_deadline(self) -> None:
        self._deadline = threading.Timer(self._limit, self._end)
        self._deadline.daemon = True
        self._deadline.start()
        # This thread needs no lock of Python's, so it ends the process even if the other one cannot.
        faulthandler.dump_traceback_later(self._limit + LAST_SECONDS, exit=True, file=_nowhere())

    def _end(self) -> None:
        log.error(
            "the server did not stop within %g seconds, so it ends now; what is unfinished resumes at the"
            " next start. Still busy: %s",
            self._limit,
            ", ".join(_busy(self._loop)) or "nothing that is known",
        )
        flush_log()
        os._exit(FORCED)


def _nowhere() -> int:
    """Open a file that takes any text; it stays open until the process ends."""
    return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def _busy(loop: asyncio.AbstractEventLoop) -> list[str]:
    """Name what still runs: tasks and threads."""
    coroutines = [task.get_coro() for task in asyncio.all_tasks(loop) if not task.done()]
    tasks = {getattr(coroutine, "__qualname__", "?") for coroutine in coroutines}
    threads = {thread.name for thread in threading.enumerate() if not thread.daemon}
    return sorted(tasks)[:10] + sorted(threads - {threading.main_thread().name})[:10]
