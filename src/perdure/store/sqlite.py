"""SQLite: one file, one writer thread that groups commits, reads on the event loop.

Transactions that wait at the same time share one commit, each in a savepoint. With `synchronous=FULL` a
commit flushes the disk, and sharing it gave five times the throughput of one flush per transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from perdure.domain.errors import Unavailable
from perdure.store.data_folder import check_links, make_folder
from perdure.store.database import Body, Further, Param, Row, Rows, T, Value, run_callbacks
from perdure.store.fair_turns import FairTurns
from perdure.store.faults import Fault, lasting, sqlite_fault, unavailable
from perdure.store.sqlite_files import Files, check_log_has_database
from perdure.store.sqlite_scrub import scrub_file
from perdure.store.sqlite_threads import ReadThreads

GROUP_LIMIT = 128
"""The most transactions in one commit, which bounds the wait of the first of them."""
STALL_SECONDS = 40.0
"""How long a transaction may take, its wait included, before its caller gives up: the disk hangs."""
LONG_READS, SEARCHES = 3, 3
"""Long reads, and searches, at a time. An organization has one less, so that others need not wait for it. The
turns of searches are given in the use cases (`app/shares.py`)."""
LONG_SECONDS = 30.0
"""How long a long read may wait for its turn, and then take, as PostgreSQL's limit for a statement."""
NO_ROOM = ("disk_full", "disk_error")
"""What SQLite reports when a write does not fit. It tells a used-up quota as an error of the disk."""
SIDE_FILES = ("", "-wal", "-shm", "-journal")
"""The ends of the names of the files that SQLite opens."""


class SqliteTx:
    """A transaction (or a read) on one connection; used from one thread at a time."""

    dialect = "sqlite"
    single = False

    def __init__(self, connection: sqlite3.Connection, *, traces: bool = False) -> None:
        self._connection = connection
        self.traces = traces
        self.callbacks: list[Callable[[], None]] = []
        self.patient = False

    async def all(self, sql: str, *args: Param) -> list[Row]:
        return self._connection.execute(sql, args).fetchall()

    async def one(self, sql: str, *args: Param) -> Row | None:
        return cast("Row | None", self._connection.execute(sql, args).fetchone())

    async def within(
        self, limit: int, large: Sequence[str], sql: str, *args: Param
    ) -> tuple[list[Row], bool]:
        rows: list[Row] = []
        size = 0
        cursor = self._connection.execute(sql, args)
        names = [column[0] for column in cursor.description]
        places = [names.index(name) for name in large]
        for row in cursor:
            for place in places:
                value = row[place]
                if value is not None:
                    size += len(value)
            if rows and size > limit:
                return rows, True
            rows.append(row)
        return rows, False

    async def run(self, sql: str, *args: Param) -> int:
        return self._connection.execute(sql, args).rowcount

    async def run_many(self, sql: str, rows: Sequence[Sequence[Value]]) -> None:
        self._connection.executemany(sql, rows)

    async def append(
        self, update: str, args: Sequence[Value], *inserts: Rows, further: Further | None = None
    ) -> bool:
        if self._connection.execute(update, args).rowcount != 1:
            return False
        for each in inserts:
            if each.rows:
                self._connection.executemany(each.statement(), each.rows)
        if further is not None:
            await further.run(self)
        return True

    async def take_time(self) -> None:
        self.patient = True

    def after_commit(self, call: Callable[[], None]) -> None:
        self.callbacks.append(call)


def _drive(body: Body[T], tx: SqliteTx) -> T:
    """Run a body to completion without an event loop.

    The body may await only its transaction, which never suspends.
    """
    coroutine = cast("Coroutine[Any, Any, T]", body(tx))
    try:
        coroutine.send(None)
    except StopIteration as done:
        return cast("T", done.value)
    coroutine.close()
    raise RuntimeError("a transaction's body must await nothing but its transaction")


def _read_on(body: Body[T], connection: sqlite3.Connection) -> T:
    return _drive(body, SqliteTx(connection))


class _Job:
    __slots__ = ("body", "error", "future", "result", "tx")

    def __init__(self, body: Body[Any], future: asyncio.Future[Any]) -> None:
        self.body = body
        self.future = future
        self.result: Any = None
        self.error: BaseException | None = None
        self.tx: SqliteTx | None = None

    @property
    def patient(self) -> bool:
        """Whether the transaction may take as long as it likes."""
        return self.tx is not None and self.tx.patient


class SqliteDatabase:
    """The embedded database, which is the default. Create it with `open_sqlite`."""

    dialect = "sqlite"

    def __init__(self, path: Path, writer: sqlite3.Connection, reader: sqlite3.Connection) -> None:
        self._path = path
        self._files = Files(path)
        self._writer = writer
        self._reader = reader
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self.last_fault: Fault | None = None
        self.traces = False
        self._waiting: dict[_Job, float] = {}
        """The transactions that callers wait for, oldest first, with their time limits."""
        self._timer: asyncio.TimerHandle | None = None
        self._stalled = False
        self._long = ReadThreads(lambda: connect(path, readonly=True), LONG_READS, "perdure-read")
        self._turns = FairTurns(LONG_READS, LONG_READS - 1)
        self._searches = ReadThreads(
            lambda: connect(path, readonly=True, cache_kib=2048), SEARCHES, "perdure-search"
        )
        self._thread = threading.Thread(target=self._write_forever, name="perdure-write", daemon=True)
        self._thread.start()

    async def write(self, body: Body[T], *, single: bool = False) -> T:
        if self._closed:
            raise unavailable("closed")
        if self._stalled:
            raise unavailable("not_responding", "its disk hangs")
        future: asyncio.Future[T] = self._loop.create_future()
        job = _Job(body, future)
        self._waiting[job] = self._loop.time() + STALL_SECONDS
        if self._timer is None:
            self._timer = self._loop.call_later(STALL_SECONDS, self._give_up)
        self._jobs.put(job)
        return await future

    def _give_up(self) -> None:
        """Fail the transactions that have waited too long. They may still commit."""
        self._timer = None
        now = self._loop.time()
        late = [job for job, end in self._waiting.items() if end <= now and not job.patient]
        for job in late:
            del self._waiting[job]
            self._stalled = True
            if not job.future.done():
                job.future.set_exception(unavailable("not_responding", "its disk hangs", unknown=True))
        if self._waiting:
            first = next(iter(self._waiting.values()))
            self._timer = self._loop.call_later(max(first - now, 1.0), self._give_up)

    async def read(self, body: Body[T], *, long: bool = False, seconds: float | None = None) -> T:
        if self._closed:
            raise unavailable("closed")
        try:
            if seconds is not None:
                return await self._searches.run(body, seconds, _read_on)
            if not long:
                return _drive(body, SqliteTx(self._reader))
            return await self._read_long(body)
        except sqlite3.Error as error:
            fault = self._explained(error)
            if fault is error:
                raise
            raise fault from error

    def _explained(self, error: BaseException, *, committing: bool = False) -> BaseException:
        """Return the error for callers, and remember it if it lasts."""
        fault = error if isinstance(error, Unavailable) else sqlite_fault(error, committing=committing)
        if fault is None:
            return error
        self.last_fault = lasting(fault) or self.last_fault
        if fault is not error:
            fault.__cause__ = error
        return fault

    async def scrub(self) -> bool:
        return await self._loop.run_in_executor(None, scrub_file, partial(connect, self._path))

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        await self._loop.run_in_executor(None, self._thread.join)
        if self._timer is not None:
            self._timer.cancel()
        await self._long.close()
        await self._searches.close()
        for connection in (self._reader, self._writer):
            connection.close()

    async def _read_long(self, body: Body[T]) -> T:
        async with self._turns.of_caller(LONG_SECONDS):
            return await self._long.run(body, LONG_SECONDS, _read_on)

    def _write_forever(self) -> None:
        jobs = self._jobs
        while True:
            job = jobs.get()
            group: list[_Job] = []
            while job is not None:
                group.append(job)
                if len(group) >= GROUP_LIMIT or jobs.empty():
                    break
                job = jobs.get()
            if group:
                self._commit(group)
                self._report(group)
            if job is None:
                return

    def _commit(self, group: list[_Job]) -> None:
        error = self._transact(group)
        if error is None:
            return
        if len(group) > 1 and isinstance(error, Unavailable) and error.cause in NO_ROOM and not error.unknown:
            # One of them may be too large: the others still fit.
            for job in group:
                job.error = None
                self._commit([job])
            return
        for job in group:
            job.error = job.error or error

    def _transact(self, group: list[_Job]) -> BaseException | None:
        """Run the group in one transaction; return the error that undid all of it."""
        writer, committing = self._writer, False
        try:
            if writer.in_transaction:  # an earlier attempt to roll back has failed
                writer.execute("ROLLBACK")
            self._files.check(writer)
            writer.execute("BEGIN IMMEDIATE")
            for job in group:
                self._attempt(job, alone=len(group) == 1)
            if writer.in_transaction:
                committing = True
                writer.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001 (the whole group failed: each caller gets the error)
            with contextlib.suppress(sqlite3.Error):
                if writer.in_transaction:
                    writer.execute("ROLLBACK")
            return self._explained(error, committing=committing)
        return None

    def _attempt(self, job: _Job, alone: bool) -> None:
        writer = self._writer
        job.tx = SqliteTx(writer, traces=self.traces)
        if not alone:
            writer.execute("SAVEPOINT one")
        try:
            job.result = _drive(job.body, job.tx)
        except BaseException as error:
            if not writer.in_transaction:
                raise  # SQLite has undone the whole transaction, those before this one included
            job.error = self._explained(error)
            if alone:
                writer.execute("ROLLBACK")
            else:
                writer.execute("ROLLBACK TO one")
                writer.execute("RELEASE one")
            return
        if not alone:
            writer.execute("RELEASE one")

    def _report(self, group: list[_Job]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._settle, group)
        except RuntimeError:  # the event loop is closed, so no caller waits any more
            return

    def _settle(self, group: list[_Job]) -> None:
        self._stalled = False
        for job in group:
            self._waiting.pop(job, None)
            if job.error is None and job.tx is not None:
                run_callbacks(job.tx.callbacks)
            if job.future.done():
                continue
            if job.error is not None:
                job.future.set_exception(job.error)
            else:
                job.future.set_result(job.result)


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch the file to the write-ahead log.

    Retries for a second while another process does the same, because SQLite's busy timeout does not apply.
    """
    for left in reversed(range(50)):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if not left:
                raise
        time.sleep(0.02)


def _fold(text: str | None) -> str | None:
    return None if text is None else text.casefold()


def connect(path: Path, *, readonly: bool = False, cache_kib: int = 8192) -> sqlite3.Connection:
    """Open a connection to the file, with what our statements need."""
    mode = "ro" if readonly else "rwc"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    connection.execute("PRAGMA busy_timeout=5000")
    connection.execute("PRAGMA temp_store=MEMORY")
    connection.execute(f"PRAGMA cache_size=-{cache_kib}")
    # SQLite's own LOWER handles ASCII only, and its LIKE ignores the case of ASCII letters.
    connection.create_function("lower", 1, _fold, deterministic=True)
    connection.execute("PRAGMA case_sensitive_like=ON")
    if not readonly:
        _use_wal(connection)
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=OFF")
        connection.execute("PRAGMA secure_delete=FAST")  # measured: it costs nothing
    return connection


def _make_file(path: Path) -> None:
    """Create the file with mode 0600, because it will contain conversations, unless it exists."""
    make_folder(path.parent)
    check_links(path.parent, [path.name + end for end in SIDE_FILES])
    check_log_has_database(path)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))


async def open_sqlite(path: Path) -> SqliteDatabase:
    """Open the database file; create it if missing.

    Raises:
        Unavailable: the file cannot be opened, is a link, or is not a database.
    """
    try:
        _make_file(path)
        writer = connect(path)
        reader = connect(path, readonly=True)
        reader.execute("SELECT 1")
    except (OSError, sqlite3.Error) as error:
        fault = sqlite_fault(error)
        raise Unavailable(
            f"cannot open the database {path.name}: {error}", cause=fault.cause if fault else "unopenable"
        ) from error
    return SqliteDatabase(path, writer, reader)
