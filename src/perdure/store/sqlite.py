"""SQLite: one file, one writer thread that groups commits, reads on the event loop.

Transactions that wait at the same time share one commit, each in a savepoint. With `synchronous=FULL` a
commit flushes the disk, and sharing it gave five times the throughput of one flush per transaction.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

from perdure.domain.errors import Unavailable
from perdure.store.database import Body, Param, Row, T, Value, run_callbacks

GROUP_LIMIT = 128
"""The most transactions in one commit, which bounds the wait of the first of them."""


class SqliteTx:
    """A transaction (or a read) on one connection; used from one thread at a time."""

    dialect = "sqlite"

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.callbacks: list[Callable[[], None]] = []

    async def all(self, sql: str, *args: Param) -> list[Row]:
        return self._connection.execute(sql, args).fetchall()

    async def one(self, sql: str, *args: Param) -> Row | None:
        return cast("Row | None", self._connection.execute(sql, args).fetchone())

    async def run(self, sql: str, *args: Param) -> int:
        return self._connection.execute(sql, args).rowcount

    async def run_many(self, sql: str, rows: Sequence[Sequence[Value]]) -> None:
        self._connection.executemany(sql, rows)

    async def append(
        self, update: str, args: Sequence[Value], insert: str, rows: Sequence[Sequence[Value]]
    ) -> bool:
        if self._connection.execute(update, args).rowcount != 1:
            return False
        if rows:
            marks = ",".join("?" * len(rows[0]))
            self._connection.executemany(f"{insert} VALUES ({marks})", rows)
        return True

    async def take_time(self) -> None:
        pass  # SQLite statements have no time limit

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


class _Job:
    __slots__ = ("body", "error", "future", "result", "tx")

    def __init__(self, body: Body[Any], future: asyncio.Future[Any]) -> None:
        self.body = body
        self.future = future
        self.result: Any = None
        self.error: BaseException | None = None
        self.tx: SqliteTx | None = None


class SqliteDatabase:
    """The embedded database, which is the default. Create it with `open_sqlite`."""

    dialect = "sqlite"

    def __init__(self, path: Path, writer: sqlite3.Connection, reader: sqlite3.Connection) -> None:
        self._path = path
        self._writer = writer
        self._reader = reader
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._long = ThreadPoolExecutor(2, thread_name_prefix="perdure-read")
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._thread = threading.Thread(target=self._write_forever, name="perdure-write", daemon=True)
        self._thread.start()

    async def write(self, body: Body[T], *, single: bool = False) -> T:
        if self._closed:
            raise Unavailable("the database is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(_Job(body, future))
        return await future

    async def read(self, body: Body[T], *, long: bool = False) -> T:
        if self._closed:
            raise Unavailable("the database is closed")
        if not long:
            return _drive(body, SqliteTx(self._reader))
        return await self._loop.run_in_executor(self._long, self._read_long, body)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        await self._loop.run_in_executor(None, self._thread.join)
        self._long.shutdown(wait=True)
        for connection in (*self._opened, self._reader, self._writer):
            connection.close()

    def _read_long(self, body: Body[T]) -> T:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = _connect(self._path, readonly=True)
            self._opened.append(connection)
        return _drive(body, SqliteTx(connection))

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
        writer = self._writer
        try:
            writer.execute("BEGIN IMMEDIATE")
            for job in group:
                self._attempt(job, alone=len(group) == 1)
            if writer.in_transaction:
                writer.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001 (the whole group failed: each caller gets the error)
            if writer.in_transaction:
                writer.execute("ROLLBACK")
            for job in group:
                job.error = job.error or error

    def _attempt(self, job: _Job, alone: bool) -> None:
        writer = self._writer
        job.tx = SqliteTx(writer)
        if not alone:
            writer.execute("SAVEPOINT one")
        try:
            job.result = _drive(job.body, job.tx)
        except BaseException as error:  # noqa: BLE001 (the caller gets it through the future)
            job.error = error
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
            self._loop.call_soon_threadsafe(_settle, group)
        except RuntimeError:  # the event loop is closed, so no caller waits any more
            return


def _settle(group: list[_Job]) -> None:
    for job in group:
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


def _connect(path: Path, *, readonly: bool = False) -> sqlite3.Connection:
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
    connection.execute("PRAGMA cache_size=-8192")
    # SQLite's own LOWER handles ASCII only, and its LIKE ignores the case of ASCII letters.
    connection.create_function("lower", 1, _fold, deterministic=True)
    connection.execute("PRAGMA case_sensitive_like=ON")
    if not readonly:
        _use_wal(connection)
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=OFF")
    return connection


def _make_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.touch(mode=0o600)


async def open_sqlite(path: Path) -> SqliteDatabase:
    """Open the database file; create it if missing, with mode 0600 because it contains conversations.

    Raises:
        Unavailable: the file cannot be opened or is not a database.
    """
    try:
        _make_file(path)
        writer = _connect(path)
        reader = _connect(path, readonly=True)
        reader.execute("SELECT 1")
    except (OSError, sqlite3.Error) as error:
        raise Unavailable(f"cannot open the database {path.name}: {error}") from error
    return SqliteDatabase(path, writer, reader)
