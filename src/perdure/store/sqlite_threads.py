"""SQLite's threads for reads that take long, or may look at very much. Each such read has a time limit."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from perdure.store.database import Body, T, out_of_time

AGAIN = 0.05
"""Seconds until a stopped read is interrupted again: an interrupt between two statements has no effect."""

Drive = Callable[[Body[T], sqlite3.Connection], T]


class _Read:
    """A read in one of the threads. It can be interrupted from the event loop, but only while it runs."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.stopped = False
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def begin(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if self.stopped:
                raise out_of_time(self.seconds)
            self._connection = connection

    def end(self) -> None:
        with self._lock:
            self._connection = None

    def stop(self) -> bool:
        """Interrupt the read if it runs, and return whether it runs. One that waits does not start."""
        with self._lock:
            self.stopped = True
            if self._connection is None:
                return False
            self._connection.interrupt()
            return True


def _stop(read: _Read, loop: asyncio.AbstractEventLoop) -> None:
    """Interrupt a read until it has ended."""
    if read.stop():
        loop.call_later(AGAIN, _stop, read, loop)


class ReadThreads:
    """The threads, each with a connection of its own, which it opens at its first read."""

    def __init__(self, connect: Callable[[], sqlite3.Connection], threads: int, name: str) -> None:
        self._connect = connect
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []

    async def run(self, body: Body[T], seconds: float, drive: Drive[T]) -> T:
        """Run a body in one of the threads. When the caller is cancelled, the read stops soon after.

        Args:
            drive: runs the body on a connection.

        Raises:
            Unavailable: the read was stopped at its time limit.
        """
        loop = asyncio.get_running_loop()
        read = _Read(seconds)
        limit = loop.call_later(seconds, _stop, read, loop)
        try:
            return await loop.run_in_executor(self._threads, self._read, read, body, drive)
        finally:
            limit.cancel()
            _stop(read, loop)  # has an effect only when the caller was cancelled

    async def close(self) -> None:
        """Wait for the reads in progress, then close the connections."""
        await asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)
        for connection in self._opened:
            connection.close()

    def _read(self, read: _Read, body: Body[T], drive: Drive[T]) -> T:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
            self._opened.append(connection)
        read.begin(connection)
        try:
            return drive(body, connection)
        except sqlite3.OperationalError:
            if read.stopped:
                raise out_of_time(read.seconds) from None
            raise
        finally:
            read.end()
