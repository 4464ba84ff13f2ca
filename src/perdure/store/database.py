"""The port to a database.

A transaction's body is a coroutine function that awaits nothing but its `Tx`. So the same body runs on
SQLite, where the writer thread drives it without ever suspending, and on PostgreSQL, where each statement is
a round trip. SQL is written in the subset that both speak, with `?` for parameters: RETURNING, ON CONFLICT,
JSON as text, integer microseconds. Rows are read by position.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from msgspec import Struct

log = logging.getLogger("perdure.store")

T = TypeVar("T")
Row = Sequence[Any]
Value = str | int | float | bytes | None
"""What a column holds, on both databases."""
Param = Value | Sequence[Value]
"""What a statement is given: a value, or on PostgreSQL an array of them."""
Changes = dict[str, Value]
"""Columns that an UPDATE sets, by name."""


class Purged(Struct, frozen=True):
    """How much one batch of a clean-up removed, and whether there is more to look at."""

    gone: int
    more: bool


class Tx(Protocol):
    """One transaction, or one read."""

    dialect: str
    """`sqlite` or `postgres`, for the few places that must differ."""

    async def all(self, sql: str, *args: Param) -> list[Row]:
        """Every row of the statement."""
        ...

    async def one(self, sql: str, *args: Param) -> Row | None:
        """The first row, or None."""
        ...

    async def run(self, sql: str, *args: Param) -> int:
        """Execute; the number of rows touched."""
        ...

    async def run_many(self, sql: str, rows: Sequence[Sequence[Value]]) -> None:
        """Execute once for each row of arguments."""
        ...

    async def append(
        self, update: str, args: Sequence[Value], insert: str, rows: Sequence[Sequence[Value]]
    ) -> bool:
        """`update` one row and, only if it touched one, `insert` the rows.

        One statement where the database can.

        Args:
            update: an UPDATE that touches at most one row.
            insert: `INSERT INTO table (columns ...)` without its values; all rows have these columns.
        """
        ...

    async def take_time(self) -> None:
        """Let the statements of this transaction take as long as they need: it is a migration."""
        ...

    def after_commit(self, call: Callable[[], None]) -> None:
        """Have this called on the event loop once the transaction is durable; never if it fails."""
        ...


Body = Callable[[Tx], Awaitable[T]]


class Database(Protocol):
    """A pool of connections to one database."""

    dialect: str

    async def write(self, body: Body[T], *, single: bool = False) -> T:
        """Run the body in one transaction.

        When this returns it is durable, when it raises nothing was changed.

        The body may be run again after a serialization conflict, so it must not change anything but the
        database.

        Args:
            single: a promise that one `append` or `run` is all that the body changes, and that nothing comes
                after it: the database may then do without the round trips that open and close a transaction.
        """
        ...

    async def read(self, body: Body[T], *, long: bool = False) -> T:
        """Run a body that only reads. `long` reads (over about a millisecond) stay off the event loop."""
        ...

    async def close(self) -> None:
        """Finish what was begun, then let go of every connection."""
        ...


LOCK_ROW = {"sqlite": "", "postgres": " FOR UPDATE"}
"""What a SELECT ends with to hold its rows until the commit. SQLite has one writer: nothing to add."""


async def ping(tx: Tx) -> None:
    """See whether the database answers. Raises what a request would meet."""
    await tx.one("SELECT 1")


def run_callbacks(calls: Sequence[Callable[[], None]]) -> None:
    """Call what waited for a commit.

    One that raises is logged: the commit stands, and the others are called.
    """
    for call in calls:
        try:
            call()
        except Exception:
            log.exception("a call after a commit failed")
