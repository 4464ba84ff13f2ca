"""The port to a database.

A transaction's body is a coroutine function that awaits nothing but its `Tx`. So the same body runs on
SQLite, where the writer thread drives it without suspending, and on PostgreSQL, where each statement is a
round trip. Statements use the subset of SQL that both support, with `?` for parameters: RETURNING, ON
CONFLICT, JSON as text, integer microseconds. Rows are read by position.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from msgspec import Struct

from perdure.domain.errors import Unavailable
from perdure.store.faults import Fault

log = logging.getLogger("perdure.store")

T = TypeVar("T")
Row = Sequence[Any]
Value = str | int | float | bytes | None
"""A column's value, on both databases."""
Param = Value | Sequence[Value]
"""A statement's argument: a value, or on PostgreSQL an array of values."""
Changes = dict[str, Value]
"""Columns that an UPDATE sets, by name."""


class Purged(Struct, frozen=True):
    """The number of rows that one batch of a clean-up removed, and whether another batch may find more."""

    gone: int
    more: bool


class NotSingle(Exception):
    """Raised in a body with `single=True` that has to do more than one write. Nothing has changed then."""


class Rows(Struct, frozen=True):
    """Rows to insert.

    Attributes:
        insert: `INSERT INTO table (columns ...)`, without VALUES.
        conflict: what follows the values: ` ON CONFLICT ...`.
    """

    insert: str
    rows: Sequence[Sequence[Value]]
    conflict: str = ""

    def statement(self) -> str:
        """Return the INSERT of one of these rows."""
        return f"{self.insert} VALUES ({', '.join('?' * len(self.rows[0]))}){self.conflict}"


def merged(rows: Iterable[Rows]) -> list[Rows]:
    """Return the same rows with one insert for each table; those of a table stay in their order."""
    found: dict[tuple[str, str], list[Sequence[Value]]] = {}
    for each in rows:
        found.setdefault((each.insert, each.conflict), []).extend(each.rows)
    return [Rows(insert, added, conflict) for (insert, conflict), added in found.items()]


class Part(Struct, frozen=True):
    """What an append changes further, as a part of its statement on PostgreSQL.

    Attributes:
        sql: common table expressions. They read `moved`, which has a row if the update affected one.
        check: a condition, if there is one, without which the statement fails, so that nothing changes.
        error: what is raised then.
    """

    sql: str
    args: Sequence[Param]
    """Those of `sql`, then those of `check`."""

    check: str | None = None
    error: Exception | None = None


class Further(Protocol):
    """What an append changes besides its rows, only if its update affected one."""

    def part(self) -> Part:
        """Return it as a part of the append's statement, for PostgreSQL."""
        ...

    async def run(self, tx: Tx) -> None:
        """Do it in statements of its own, for SQLite, where they are no round trips."""
        ...


class Tx(Protocol):
    """One transaction, or one read."""

    dialect: str
    """`sqlite` or `postgres`, for the few statements that must differ."""

    single: bool
    """Whether the body's only write has to be one statement, its last one."""

    traces: bool
    """Whether appends note the turns that end, for the export of their traces."""

    async def all(self, sql: str, *args: Param) -> list[Row]:
        """Return all rows of a query."""
        ...

    async def one(self, sql: str, *args: Param) -> Row | None:
        """Return the first row of a query, or None."""
        ...

    async def within(
        self, limit: int, large: Sequence[str], sql: str, *args: Param
    ) -> tuple[list[Row], bool]:
        """Return the first rows of a query that hold at most `limit` bytes, and whether there are more.

        Returns one row at least, if there is one, however large it is. The limit is approximate.

        Args:
            large: the names of the query's columns that may be large.
            sql: a query with ORDER BY.
        """
        ...

    async def run(self, sql: str, *args: Param) -> int:
        """Execute a statement; return the number of affected rows."""
        ...

    async def run_many(self, sql: str, rows: Sequence[Sequence[Value]]) -> None:
        """Execute a statement once for each row of arguments."""
        ...

    async def append(
        self, update: str, args: Sequence[Value], *inserts: Rows, further: Further | None = None
    ) -> bool:
        """Update one row and, only if the update affected one, insert rows; return whether it did.

        This is a single statement on PostgreSQL.

        Args:
            update: an UPDATE that affects at most one row, or an INSERT of one.
            args: the arguments of `update`.
            inserts: the rows to insert; those without rows are left out.
            further: what else changes then. Its error means that the transaction must be undone.
        """
        ...

    async def take_time(self) -> None:
        """Lift the time limits for the statements of this transaction, which is a migration."""
        ...

    def after_commit(self, call: Callable[[], None]) -> None:
        """Call a function on the event loop once the transaction is durable; never if it fails."""
        ...


Body = Callable[[Tx], Awaitable[T]]


class Database(Protocol):
    """A pool of connections to one database."""

    dialect: str
    traces: bool
    """Whether this process exports traces: `Tx.traces` of every transaction."""
    last_fault: Fault | None
    """The last failure of a kind that lasts, such as a full disk."""

    async def write(self, body: Body[T], *, single: bool = False) -> T:
        """Run the body in one transaction.

        When this returns, the transaction is durable; when it raises, nothing has changed, unless the error
        is an `Unavailable` with `unknown`.

        The body may run again after a serialization conflict, so it must change nothing but the database.

        Args:
            single: promises that the body's only write is one `append` or `run`, and its last statement. The
                database may then skip the round trips that open and close a transaction.

        Raises:
            Unavailable: the database is closed, unreachable, too busy, read-only, full or damaged.
            NotSingle: the body has raised it.
        """
        ...

    async def read(self, body: Body[T], *, long: bool = False, seconds: float | None = None) -> T:
        """Run a body that only reads.

        Args:
            long: keeps a read of over about a millisecond off the event loop. Such reads have a time limit of
                30 seconds, and the requests of one organization never have all connections for them.
            seconds: the time limit of a read that may look at very much, such as a search. Such reads have
                threads of their own, so that no other read waits for them. The caller takes a turn in
                `app.shares` for each.

        Raises:
            Unavailable: the database is closed, unreachable or too busy, or the time is over.
        """
        ...

    async def scrub(self) -> bool:
        """Remove what deleted rows have left in the database's files, as far as that is quick.

        Returns:
            Whether nothing is left of them. False if only maintenance can do that: `VACUUM`.

        Raises:
            Unavailable: readers are in the way: try again later.
        """
        ...

    async def close(self) -> None:
        """Finish the transactions in progress, then close all connections."""
        ...


def out_of_time(seconds: float) -> Unavailable:
    """Return the error of a read that was stopped at its time limit."""
    return Unavailable(
        f"the read was stopped after {seconds:g} seconds: ask for less, for example with more filters",
        code="read_timeout",
    )


@asynccontextmanager
async def overwriting(tx: Tx) -> AsyncIterator[None]:
    """Overwrite what the block deletes wholly, on SQLite, which costs about 4 ms per MB.

    Everything else overwrites what it deletes only where that costs nothing.
    """
    if tx.dialect != "sqlite":
        yield
        return
    await tx.run("PRAGMA secure_delete=ON")
    try:
        yield
    finally:
        await tx.run("PRAGMA secure_delete=FAST")


LOCK_ROW = {"sqlite": "", "postgres": " FOR UPDATE"}
"""The suffix of a SELECT that locks its rows until the commit; empty for SQLite, which has one writer."""


def run_callbacks(calls: Sequence[Callable[[], None]]) -> None:
    """Call the functions that waited for a commit.

    An exception is logged: the commit stands, and the other functions are still called.
    """
    for call in calls:
        try:
            call()
        except Exception:
            log.exception("a callback after a commit failed")


def first_within(rows: Sequence[Row], limit: int) -> list[tuple[str, str]]:
    """Return the keys of the first rows that hold at most `limit` bytes together, and of one row at least.

    Args:
        rows: two columns of the key, then the size in bytes.
    """
    batch: list[tuple[str, str]] = []
    size = 0
    for org_id, key, bytes_ in rows:
        size += bytes_
        if batch and size > limit:
            break
        batch.append((org_id, key))
    return batch
