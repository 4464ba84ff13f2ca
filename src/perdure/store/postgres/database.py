"""PostgreSQL: a pool of connections, one transaction per body.

Two choices come from measurements: the pool does not reset a connection on release, because nothing here
leaves state behind in it, and an append is a single statement. Only this folder imports asyncpg and PgQueuer,
and only `wiring` imports this folder, when PostgreSQL is configured: SQLite needs neither.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import asyncpg

from perdure.domain.backoff import backoff
from perdure.domain.errors import Unavailable
from perdure.store.database import Body, Further, Param, Part, Row, Rows, T, Value, out_of_time, run_callbacks
from perdure.store.faults import Fault, lasting, sqlstate_cause, unavailable
from perdure.store.postgres.lost import drop_silent, is_connection_error, is_lost, no_connection, sqlstate_of
from perdure.store.postgres.statements import INSERT, append_statement, numbered, within_statement

SETTINGS = {
    "application_name": "perdure",
    "default_transaction_isolation": "read committed",
    # Milliseconds. By then the caller of a statement has given up, and the holder of a lock is stuck.
    "statement_timeout": "30000",
    "lock_timeout": "10000",
    # Transactions await only the database, so an idle one belongs to a paused or partitioned process.
    "idle_in_transaction_session_timeout": "10000",
    # All statements are short: compiling one takes longer than running it.
    "jit": "off",
    # Statements are prepared once. Planning for each set of arguments finds the same plan, but takes an
    # eighth more of the server's CPU.
    "plan_cache_mode": "force_generic_plan",
}
"""Server settings of each connection; those in the URL (`?statement_timeout=...`) override them."""

CONNECT_SECONDS = 5.0
ACQUIRE_SECONDS = 10.0
"""How long a caller waits for a free connection before it gets an error."""
SEARCHES = 3
"""The most connections of the pool for reads that may look at very much."""
COMMAND_SECONDS = 40.0
"""The client's timeout for a statement, for a server that does not answer at all. It exceeds the server's
own limits."""
MIGRATION_SECONDS, MIGRATION_LOCK_SECONDS = 3600.0, 60
"""The timeouts of a migration: for a statement, and for the wait until another process has migrated."""
CLOSE_SECONDS = 10.0
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


class PostgresTx:
    """A transaction (or a read) on one connection."""

    dialect = "postgres"

    traces = False

    def __init__(self, connection: Any, appends: dict[tuple[str, ...], str]) -> None:
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
        key = (update, "" if part is None else part.sql, *(each.insert for each in filled))
        statement = self._appends.get(key) or await self._prepare_append(len(args), part, *key)
        values: list[Param] = [list(column) for each in filled for column in zip(*each.rows, strict=True)]
        if part is None:
            return await self.connection.fetchval(statement, *args, *values) is not None
        try:
            return await self.connection.fetchval(statement, *args, *values, *part.args) is not None
        except asyncpg.DivisionByZeroError:
            if part.error is None:
                raise
            raise part.error from None

    async def _prepare_append(
        self, args: int, part: Part | None, update: str, further: str, *inserts: str
    ) -> str:
        types = []
        for insert in inserts:
            match = INSERT.fullmatch(insert)
            columns = await self.connection.fetch(
                "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute"
                " WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped",
                match[1] if match else "",
            )
            types.append(dict(columns))
        statement = append_statement(update, args, inserts, types, part)
        self._appends[update, further, *inserts] = statement
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

    written = False

    async def all(self, sql: str, *args: Param) -> list[Row]:
        self._check()
        return await super().all(sql, *args)

    async def one(self, sql: str, *args: Param) -> Row | None:
        self._check()
        return await super().one(sql, *args)

    async def run(self, sql: str, *args: Param) -> int:
        self._check()
        count = await super().run(sql, *args)
        self.written = count > 0
        return count

    async def run_many(self, sql: str, rows: Sequence[Sequence[Value]]) -> None:
        raise RuntimeError("a body with `single=True` must write with one `run` or `append`, not `run_many`")

    async def append(
        self, update: str, args: Sequence[Value], *inserts: Rows, further: Further | None = None
    ) -> bool:
        self._check()
        self.written = await super().append(update, args, *inserts, further=further)
        return self.written

    def _check(self) -> None:
        if self.written:
            raise RuntimeError("a body with `single=True` must not run statements after its write")


class PostgresDatabase:
    """The database for several processes. Create it with `open_postgres`."""

    dialect = "postgres"

    def __init__(self, url: str, pool: Any) -> None:
        self._url = url
        self._pool = pool
        self._appends: dict[tuple[str, ...], str] = {}
        self._writes: set[asyncio.Task[Any]] = set()
        self._searches = asyncio.Semaphore(SEARCHES)
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
                result = await (_do_alone if single else _transact)(connection, tx, body)
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
            return await self._read(body)
        limit = asyncio.timeout(seconds)
        async with self._searches:  # the others' connections are for reads and writes that are quick
            try:
                async with limit:
                    return await self._read(body)
            except TimeoutError:
                if limit.expired():
                    raise out_of_time(seconds) from None
                raise

    async def _read(self, body: Body[T]) -> T:
        for left in reversed(range(ATTEMPTS)):
            connection = await self._acquire()
            try:
                return await body(PostgresTx(connection, self._appends))
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
        return await _open_pool(self._url, 1, size, settings)

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
                return await self._pool.acquire()
        except Exception as error:
            raise no_connection(error, self._url) from error

    async def _release(self, connection: Any) -> None:
        try:
            await self._pool.release(connection)
        except Exception as error:
            if not is_connection_error(error):
                raise


async def _transact(connection: Any, tx: PostgresTx, body: Body[T]) -> T:
    try:
        await connection.execute("BEGIN")
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


async def _do_alone(connection: Any, tx: PostgresTx, body: Body[T]) -> T:
    try:
        return await body(tx)
    except Exception as error:
        if is_lost(connection, error) or type(error) is TimeoutError:
            drop_silent(connection, error)
            raise _unknown(error) from error
        raise


async def open_postgres(url: str, *, min_size: int = 2, max_size: int = 10) -> PostgresDatabase:
    """Connect to the database that a `postgresql://` URL names.

    Args:
        min_size: connections that stay open.
        max_size: the most open connections; each serves one transaction or read at a time.

    Raises:
        Unavailable: no server answers, it refuses the connection, or it is too old.
    """
    pool = await _open_pool(url, min_size, max_size, {})
    try:
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
    return PostgresDatabase(url, pool)


async def _open_pool(url: str, min_size: int, max_size: int, settings: dict[str, str]) -> Any:
    try:
        return await asyncpg.create_pool(
            url,
            min_size=min_size,
            max_size=max_size,
            reset=_no_reset,
            max_queries=1_000_000,
            **connection_options(url, settings),
        )
    except Exception as error:
        raise no_connection(error, url) from error


def connection_options(url: str, settings: dict[str, str]) -> dict[str, Any]:
    """Return how to connect: `settings` of the server, unless the URL has others."""
    named = parse_qs(urlsplit(url).query)
    ours = {name: value for name, value in {**SETTINGS, **settings}.items() if name not in named}
    return {
        "server_settings": ours,
        "timeout": CONNECT_SECONDS,
        "command_timeout": COMMAND_SECONDS,
        "statement_cache_size": 512,
        "max_cached_statement_lifetime": 0,
    }


async def close_pool(pool: Any) -> None:
    """Close a pool once its connections are released; terminate those that are not within the timeout."""
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await pool.close()
    except TimeoutError:
        pool.terminate()


async def _no_reset(connection: Any) -> None:
    """Do nothing: connections keep no session settings, listeners or temporary tables."""


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
