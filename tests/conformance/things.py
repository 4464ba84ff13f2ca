"""A simple table for tests of the Database port."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from perdure.store.database import Database, Tx

INSERT = "INSERT INTO things (id, text, number, data) VALUES (?, ?, ?, ?)"


def adding(name: str, number: int = 0, then: Exception | None = None) -> Callable[[Tx], Awaitable[str]]:
    """Return a body that inserts a row and optionally fails."""

    async def body(tx: Tx) -> str:
        await tx.run(INSERT, name, None, number, None)
        if then is not None:
            raise then
        return name

    return body


async def rows(database: Database, sql: str, *args: Any) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await database.read(lambda tx: tx.all(sql, *args))]


async def names(database: Database) -> set[str]:
    return {row[0] for row in await rows(database, "SELECT id FROM things")}
