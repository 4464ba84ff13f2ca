"""Rows that an append inserts besides its events, in the same statement."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from msgspec import Struct

from perdure.store.database import Rows, Tx

T = TypeVar("T")


class Additions(Struct, Generic[T], frozen=True):
    """What is added to other tables by an append, or by a transaction that calls it.

    Attributes:
        rows_of: returns the rows of all items. It reads in the transaction of the append, before it, and
            writes nothing but jobs. It raises NotSingle if it needs more than reads there.
        items: what is added.
    """

    rows_of: Callable[[Tx, Sequence[T]], Awaitable[Sequence[Rows]]]
    items: tuple[T, ...]

    async def rows(self, tx: Tx) -> Sequence[Rows]:
        """Return what the append inserts."""
        return await self.rows_of(tx, self.items)

    async def __call__(self, tx: Tx) -> None:
        """Insert it with statements of its own."""
        for each in await self.rows(tx):
            if each.rows:
                await tx.run_many(each.statement(), each.rows)
