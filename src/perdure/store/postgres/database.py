"""PostgreSQL: a pool of connections, one transaction per body.

Two choices come from measurements: the pool does not reset a connection on release, because nothing here
leaves state behind in it, and an append is a single statement. Only this folder imports asyncpg and PgQueuer,
and only `wiring` imports this folder, when PostgreSQL is configured: SQLite needs neither.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, cast

import asyncpg

from perdure.domain.backoff import backoff
from perdure.domain.errors import Unavailable
from perdure.store.database import Body, Further, Param, Part, Row, Rows, T, Value, out_of_time, run_callbacks
from perdure.store.fair_turns import FairTurns
from perdure.store.faults import Fault, lasting, sqlstate_cause, unavailable
from perdure.store.postgres.connections import (
    BEGIN,
    BEGIN_READ,
    CLOSE_SECONDS,
    close_pool,
    connection_options,
    open_pool,
)
from perdure.store.postgres.line import Line
from perdure.store.postgres.lost import (
    drop_silent,
    is_connection_error,
    is_lost,
    no_connection,
    sqlstate_of,
    while_connecting,
)
from perdure.store.postgres.statements import (
    INSERT,
    MANY,
    MOST_VALUES,
    append_statement,
    numbered,
    within_statement,
)

ACQUIRE_SECONDS = 10.0
"""How long a caller waits for a free connection before it gets an error."""
SEARCHES = 3
"""The most connections of the pool for reads that may look at very much."""
MIGRATION_SECONDS, MIGRATION_LOCK_SECONDS = 3600.0, 60
"""The timeouts of a migration: for a statement, and for the wait until another process has migrated."""
ATTEMPTS = 5
"""The most attempts to run a body before a conflict or a broken connection is reported."""
OLDEST = 150000
"""PostgreSQL 15, as a `server_version_num`."""

# Prefixes of SQLSTATE codes.
_CONFLICTS = ("40001", "40P01", "0A000")
"""A serialization failure, a deadlock, a plan that a migration has invalidated."""
_TAKEN = "23505"
"""Another transaction took the same unique name between the body's check and its insert. When the body runs
again, its check finds that row."""
_READ_ONLY = "25006"
"""The server is a standby now, or was read-only when the connection began: a new one may be writable."""
_UNKNOWN = "during a commit: the transaction may or may not have committed"


AppendKey = tuple[str | tuple[str, int], ...]
"""An append's update, what else it changes, and its inserts with their numbers of rows."""


class PostgresTx:
    """A transaction (or a read) on one connection."""

    dialect = "postgres"
    single = False
    traces = False

    def __init__(self, connection: Any, appends: dict[AppendKey, str]) -> None:
        self.connection = connection
        """The asyncpg connection, for code that is specific to PostgreSQL (the queue)."""
        self.callbacks: list[Callable[[], None]] = []
        self.undone: list[Callable[[], None]] = []
        """What to call if the transaction fails."""
        self._appends = appends
        self._timeout: float | None = None

    async def all(self, sql: str, *args: Param) -> list[Row]:
        return cast("list[Row]", await self.connection.fetch(numbered(sql), *args))

    async def one(self, sql: str, *args: Param) -> Row | None:
        return cast("Row | None", await self.connection.fetchrow(numbered(sql), *args))

    async def within(
        self, limit: int, large: Sequence[str], sql: str, *args: Param
    ) -> tuple[list[Row], bool]:
        rows = await self.all(within_statement(sql, large), *args, limit)
        return [row[:-2] for row in rows], bool(rows) and rows[0][-1] > len(rows)

    async def run(self, sql: str, *args: Param) -> int:
        status = await self.connection.execute(numbered(sql), *args, timeout=self._timeout)
        count = status.rpartition(" ")[2]  # "UPDATE 3", "INSERT 0 1", "CREATE TABLE"
        return int(count) if count.isdecimal() else 0

    async def run_many(self, sql: str, rows: Sequence[Sequence[Value]]) -> None:
        await self.connection.executemany(numbered(sql), rows)

    async def append(
        self, update: str, args: Sequence[Value], *inserts: Rows, further: Further | None = None
    ) -> bool:
        filled = [each for each in inserts if each.rows]
        part = None if further is None else further.part()
        if not filled and part is None:
            return await self.run(update, *args) == 1
        counts = [
            (each.insert + each.conflict, len(each.rows) if len(each.rows) <= MOST_VALUES else MANY)
            for each in filled
        ]
        key: AppendKey = (update, "" if part is None else part.sql, *counts)
        statement = self._appends.get(key) or await self._prepare_append(key, len(args), part, counts)
        values = [
            value for each, (_, count) in zip(filled, counts, strict=True) for value in _flat(each, count)
        ]
        if part is None:
            return await self.connection.fetchval(statement, *args, *values) is not None
        try:
            return await self.connection.fetchval(statement, *args, *values, *part.args) is not None
        except asyncpg.DivisionByZeroError:
            if part.error is None:
                raise
            raise part.error from None

    async def _prepare_append(
        self, key: AppendKey, args: int, part: Part | None, inserts: Sequence[tuple[str, int]]
    ) -> str:
        types = []
        for insert, _ in inserts:
            match = INSERT.fullmatch(insert)
            columns = await self.connection.fetch(
                "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute"
                " WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped",
                match[1] if match else "",
            )
            types.append(dict(columns))
        statement = append_statement(str(key[0]), args, inserts, types, part)
        self._appends[key] = statement
        return statement

    async def take_time(self) -> None:
        self._timeout = MIGRATION_SECONDS
        await self.run("SET LOCAL statement_timeout = 0")
        await self.run(f"SET LOCAL lock_timeout = '{MIGRATION_LOCK_SECONDS}s'")

    def after_commit(self, call: Callable[[], None]) -> None:
        self.callbacks.append(call)

    def after_rollback(self, call: Callable[[], None]) -> None:
        """Call a function if the transaction fails, or may have failed."""
        self.undone.append(call)


class _SingleTx(PostgresTx):
    """A transaction with a single write, which commits by itself. Reads may precede the write, not follow."""

    single = True
    begun = False
    """Whether it may have written. Otherwise nothing can have been committed."""
    written = False

    async def all(self, sql: str, *args: Param) -> list[Row]:
        self._check()
        return await super().all(sql, *args)

    async def one(self, sql: str, *args: Param) -> Row | None:
        self._check()
        return await super().one(sql, *args)

    async def run(self, sql: str, *args: Param) -> int:
        self._check()
        self.begun = True
        count = await super().run(sql, *args)
        self.written = count > 0
        return count

    async def run_many(self, sql: str, rows: Sequence[Sequence[Value]]) -> None:
        raise RuntimeError("a body with `single=True` must write with one `run` or `append`, not `run_many`")

    async def append(
        self, update: str, args: Sequence[Value], *inserts: Rows, further: Further | None = None
    ) -> bool:
        self._check()
        self.begun = True
        self.written = await super().append(update, args, *inserts, further=further)
        return self.written

    def _check(self) -> None:
        if self.written:
            raise RuntimeError("a body with `single=True` must not run statements after its write")


class PostgresDatabase:
    """The database for several processes. Create it with `open_postgres`."""

    dialect = "postgres"

    def __init__(self, url: str, pool: Any, *, pooled: bool = False) -> None:
        self._url = url
        self._pool = pool
        self._pooled = pooled
        self._appends: dict[AppendKey, str] = {}
        self._writes: set[asyncio.Task[Any]] = set()
        self._searches = asyncio.Semaphore(SEARCHES)
        most = pool.get_max_size()
        self._line = Line(most)
        self._turns = FairTurns(most, max(1, most - most // 4))
        """Of long reads: those of one organization leave a quarter of the connections to others."""
        self._closed = False
        self.last_fault: Fault | None = None
        self.traces = False

    async def write(self, body: Body[T], *, single: bool = False) -> T:
        if self._closed:
            raise unavailable("closed")
        # The transaction runs in its own task, so that it completes, callbacks included, even if the caller
        # is cancelled. SQLite does the same.
        task = asyncio.ensure_future(self._write(body, single))
        self._writes.add(task)
        task.add_done_callback(self._written)
        return await asyncio.shield(task)

    def _written(self, task: asyncio.Task[Any]) -> None:
        self._writes.discard(task)
        if not task.cancelled():
            task.exception()  # marks it as retrieved: a cancelled caller does not, and asyncio would log it

    async def _write(self, body: Body[T], single: bool) -> T:
        for left in reversed(range(ATTEMPTS)):
            connection = await self._acquire()
            tx = (_SingleTx if single else PostgresTx)(connection, self._appends)
            tx.traces = self.traces
            try:
                if isinstance(tx, _SingleTx) and not self._pooled:
                    result = await _do_alone(connection, tx, body)
                else:
                    result = await _transact(connection, tx, body, BEGIN[self._pooled])
            except BaseException as error:
                run_callbacks(tx.undone)
                if not isinstance(error, Exception):
                    raise
                if sqlstate_of(error) == _READ_ONLY:
                    await self._pool.expire_connections()
                self._check_retry(connection, error, left)
            else:
                run_callbacks(tx.callbacks)
                return result
            finally:
                await self._release(connection)
            await asyncio.sleep(_pause(left))
        raise AssertionError("the last attempt returns or raises")

    async def read(self, body: Body[T], *, long: bool = False, seconds: float | None = None) -> T:
        if self._closed:
            raise unavailable("closed")
        if seconds is None:
            return await (self._read_long(body) if long else self._read(body))
        limit = asyncio.timeout(seconds)
        async with self._searches:  # the others' connections are for reads and writes that are quick
            try:
                async with limit:
                    return await self._read(body)
            except TimeoutError:
                if limit.expired():
                    raise out_of_time(seconds) from None
                raise

    async def _read_long(self, body: Body[T]) -> T:
        async with self._turns.of_caller(ACQUIRE_SECONDS):
            return await self._read(body)

    async def _read(self, body: Body[T]) -> T:
        for left in reversed(range(ATTEMPTS)):
            connection = await self._acquire()
            try:
                tx = PostgresTx(connection, self._appends)
                if self._pooled:
                    return await _transact(connection, tx, body, BEGIN_READ)
                return await body(tx)
            except Exception as error:  # noqa: BLE001 - raised again unless the body may be retried
                drop_silent(connection, error)
                self._check_retry(connection, error, left)
            finally:
                await self._release(connection)
            await asyncio.sleep(_pause(left))
        raise AssertionError("the last attempt returns or raises")

    async def scrub(self) -> bool:
        return False  # PostgreSQL removes dead rows by itself, and its write-ahead log is not ours

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._writes:
            await asyncio.wait(set(self._writes), timeout=CLOSE_SECONDS)
        await close_pool(self._pool)

    def connecting(self) -> contextlib.AbstractContextManager[None]:
        """Raise `Unavailable` if a connection is lost in the block, which prepares something at the start."""
        return while_connecting(self._url)

    async def connect(self, **settings: str) -> Any:
        """Open a connection outside the pool, which the caller must close. `settings` are server settings.

        Raises:
            Unavailable: no server answers.
        """
        try:
            return await asyncpg.connect(self._url, **connection_options(self._url, settings))
        except Exception as error:
            raise no_connection(error, self._url) from error

    async def open_pool(self, size: int, **settings: str) -> Any:
        """Open a separate pool, for work that must not wait behind the transactions of callers.

        Args:
            size: the most connections.
            settings: server settings of each connection.

        Raises:
            Unavailable: no server answers.
        """
        return await open_pool(self._url, 1, size, settings)

    def _check_retry(self, connection: Any, error: Exception, left: int) -> None:
        """Return if the body may run again: nothing was committed, and attempts are left. Otherwise raise."""
        silent = type(error) is TimeoutError
        lost = not silent and is_lost(connection, error)
        state = sqlstate_of(error) or ""
        if left and (lost or state in _CONFLICTS or state == _TAKEN):
            return
        if state == _READ_ONLY and left == ATTEMPTS - 1:
            return  # once, on a new connection
        cause = "no_connection" if lost else "busy" if state in _CONFLICTS else sqlstate_cause(state)
        if silent:
            cause = "not_responding"
        if cause is None:
            raise error
        fault = unavailable(cause, "" if lost or silent else str(error))
        self.last_fault = lasting(fault) or self.last_fault
        raise fault from error

    async def _acquire(self) -> Any:
        try:
            async with asyncio.timeout(ACQUIRE_SECONDS):
                await self._line.enter()
                try:
                    return await self._pool.acquire()
                except BaseException:
                    self._line.leave()
                    raise
        except Exception as error:
            raise no_connection(error, self._url) from error

    async def _release(self, connection: Any) -> None:
        try:
            await self._pool.release(connection)
        except Exception as error:
            if not is_connection_error(error):
                raise
        finally:
            self._line.leave()


def _flat(rows: Rows, count: int) -> Iterator[Param]:
    """The rows of an insert as the parameters of its statement."""
    if count == MANY:
        return map(list, zip(*rows.rows, strict=True))
    return chain.from_iterable(rows.rows)


async def _transact(connection: Any, tx: PostgresTx, body: Body[T], begin: str) -> T:
    try:
        await connection.execute(begin)
        result = await body(tx)
    except BaseException as error:
        await _roll_back(connection, error)
        raise
    try:
        await connection.execute("COMMIT")
    except (OSError, TimeoutError) as error:
        drop_silent(connection, error)
        raise _unknown(error) from error
    except Exception as error:
        if is_lost(connection, error):
            raise _unknown(error) from error
        raise
    return result


async def _do_alone(connection: Any, tx: _SingleTx, body: Body[T]) -> T:
    try:
        return await body(tx)
    except Exception as error:
        silent = drop_silent(connection, error)
        if tx.begun and (silent or is_lost(connection, error)):
            raise _unknown(error) from error
        raise


async def open_postgres(
    url: str, *, direct_url: str = "", min_size: int = 2, max_size: int = 10
) -> PostgresDatabase:
    """Connect to the database that a `postgresql://` URL names.

    Args:
        direct_url: the database without a pooler, if `url` leads through one that lends connections for
            single transactions. Listening, and the queue, need connections of their own.
        min_size: connections that stay open.
        max_size: the most open connections; each serves one transaction or read at a time.

    Raises:
        Unavailable: no server answers, it refuses the connection, or it is too old.
    """
    pool = await open_pool(url, min_size, max_size, {}, pooled=bool(direct_url))
    try:
        with while_connecting(url):
            version, encoding = await pool.fetchrow(
                "SELECT current_setting('server_version_num')::int, current_setting('server_encoding')"
            )
        if version < OLDEST:
            raise Unavailable(
                f"the server runs PostgreSQL {version // 10000}, but Perdure needs {OLDEST // 10000} or newer"
            )
        if encoding != "UTF8":
            raise Unavailable(f"the database's encoding is {encoding}, but Perdure needs UTF8")
    except BaseException:
        pool.terminate()
        raise
    return PostgresDatabase(direct_url or url, pool, pooled=bool(direct_url))


async def _roll_back(connection: Any, error: BaseException) -> None:
    try:
        if is_lost(connection, error):
            connection.terminate()
        elif not drop_silent(connection, error):
            await connection.execute("ROLLBACK")
    except Exception as another:
        if not is_connection_error(another):
            raise
        with contextlib.suppress(Exception):
            connection.terminate()


def _unknown(error: BaseException) -> Unavailable:
    """Return the error for a commit without an answer."""
    cause = "not_responding" if type(error) is TimeoutError else "no_connection"
    return unavailable(cause, _UNKNOWN, unknown=True)


def _pause(left: int) -> float:
    """Return the seconds before the next attempt."""
    return backoff(ATTEMPTS - left, first=0.005, most=1.0)
