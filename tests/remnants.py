"""Where a mark is left: in which tables of a database, and in which files."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from perdure.store.database import Database, Tx
from perdure.store.postgres.database import open_postgres
from perdure.store.sqlite import open_sqlite
from tests.server import Server

TABLES = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'",
    "postgres": "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'",
}


@asynccontextmanager
async def database_of(server: Server) -> AsyncIterator[Database]:
    """The database of a server, which may be running: only read it."""
    url = server.database_url
    database: Database = (
        await open_postgres(url, min_size=1, max_size=2)
        if url
        else await open_sqlite(server.data / "perdure.db")
    )
    try:
        yield database
    finally:
        await database.close()


async def tables_of(database: Database) -> list[str]:
    """All tables."""
    return sorted(row[0] for row in await database.read(lambda tx: tx.all(TABLES[tx.dialect])))


async def tables_with(database: Database, *marks: str) -> dict[str, int]:
    """The tables with rows that have one of these marks in any column, with their numbers."""
    tables = await tables_of(database)

    async def work(tx: Tx) -> dict[str, int]:
        found: Counter[str] = Counter()
        for table in tables:
            rows = await tx.all(f"SELECT * FROM {table}")
            found[table] = sum(any(_has(value, mark) for value in row for mark in marks) for row in rows)
        return {table: count for table, count in found.items() if count}

    return await database.read(work, long=True)


def _has(value: Any, mark: str) -> bool:
    if isinstance(value, bytes | memoryview):
        return mark.encode() in bytes(value)
    return isinstance(value, str) and mark in value


def files_with(folder: Path, *marks: str) -> dict[str, int]:
    """The files of a folder that have one of these marks in any byte, and how often."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            count = sum(data.count(mark.encode()) for mark in marks)
            if count:
                found[path.name] = count
    return found
