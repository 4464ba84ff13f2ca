"""Writes the server's log to standard error, from a thread of its own.

Standard error may be a pipe that nobody reads, or a slow disk. The event loop only formats a line and adds it
to the lines that wait; the thread writes them, many at a time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

from perdure.domain.log_lines import TEXT, JsonLogFormatter, LogFormatter, LogSecrets, secret_values
from perdure.settings import Settings

MOST_BYTES = 8 * 1024 * 1024
"""Bytes of lines that wait to be written. Further lines are dropped, and counted."""
COLLECT_SECONDS = 0.01
"""How long lines are collected before they are written: a busy server wakes the thread up less often."""
FLUSH_SECONDS = 2.0
"""How long the end of the process waits for the lines that are left."""
_STEP = 0.002

log = logging.getLogger("perdure")


class LogWriter(logging.Handler):
    """A handler that never waits for what it writes to.

    Args:
        write: writes some bytes, perhaps for long; returns how many were written.

    Attributes:
        dropped: the lines that were dropped because too many waited.
    """

    def __init__(self, write: Callable[[bytes], int]) -> None:
        super().__init__()
        self.dropped = 0
        self._reported = 0
        self._write = write
        self._lines: deque[bytes] = deque()
        self._accepted = self._done = 0
        """Bytes of lines that were accepted, and of those that were written or given up."""
        self._wanted = threading.Event()
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name="perdure-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Add the record's line to those that wait. The caller holds the handler's lock."""
        try:
            line = f"{self.format(record)}\n".encode("utf-8", "backslashreplace")
        except Exception:  # noqa: BLE001 (as every handler: a line that cannot be made must stop nothing)
            self.handleError(record)
            return
        if self._accepted - self._done + len(line) > MOST_BYTES:
            self.dropped += 1
            return
        self._accepted += len(line)
        self._lines.append(line)
        if not self._wanted.is_set():
            self._wanted.set()

    def flush(self) -> None:
        """Wait until all lines are written, for `FLUSH_SECONDS` at most."""
        self.drain(FLUSH_SECONDS)

    def drain(self, seconds: float) -> None:
        """Wait until all lines are written, for so many seconds at most. Takes no lock: signals call it."""
        until = time.monotonic() + seconds
        self._hurry.set()
        self._wanted.set()
        while self._done < self._accepted and self._thread.is_alive() and time.monotonic() < until:
            time.sleep(_STEP)
        self._hurry.clear()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._hurry.wait(COLLECT_SECONDS)
            self._wanted.clear()
            while self._lines:
                self._write_all(self._take())
            self._report()

    def _take(self) -> bytes:
        """Take the lines that wait, up to a size that a pipe takes at once."""
        taken, size = [], 0
        while self._lines and size < 64 * 1024:
            taken.append(self._lines.popleft())
            size += len(taken[-1])
        return b"".join(taken)

    def _write_all(self, data: bytes) -> None:
        try:
            view = memoryview(data)
            while view:
                view = view[self._write(bytes(view)) :]
        except OSError:
            pass  # nobody can be told: standard error is closed, or its disk is full
        self._done += len(data)

    def _report(self) -> None:
        """Say how many lines were dropped, once there is room again."""
        lost = self.dropped - self._reported
        if lost:
            self._reported += lost
            log.warning("%d lines of this log were dropped: standard error was read too slowly", lost)


def _to_stderr(data: bytes) -> int:
    """Write to standard error's file directly: its buffer has a lock that the end of the process needs."""
    try:
        return os.write(sys.stderr.fileno(), data)
    except BlockingIOError:  # another program has made the terminal non-blocking
        time.sleep(COLLECT_SECONDS)
        return 0


def log_secrets(settings: Settings, environment: dict[str, str]) -> LogSecrets:
    """Return the secrets that must not be in the log: those of settings and of the environment."""
    known = [settings.master_key, settings.master_key_previous, settings.code_token]
    return LogSecrets([*known, *secret_values(environment)])


def start_log(settings: Settings) -> LogWriter:
    """Send what the process logs to standard error, in the format and from the level of the settings."""
    secrets = log_secrets(settings, dict(os.environ))
    handler = LogWriter(_to_stderr)
    as_json = settings.log_format.lower() == "json"
    handler.setFormatter(JsonLogFormatter(secrets) if as_json else LogFormatter(TEXT, secrets))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    # uvicorn's messages at start repeat our `listening on`.
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, logging.getLogger().level))
    # Its pool logs each failure to connect with a traceback; callers get the error anyway.
    logging.getLogger("asyncpg").setLevel(logging.ERROR)
    return handler


def flush_log(seconds: float = FLUSH_SECONDS) -> None:
    """Write what is left of the log, before the process ends without the interpreter's own end."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogWriter):
            with contextlib.suppress(Exception):
                handler.drain(seconds)
