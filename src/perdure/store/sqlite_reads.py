"""Reads of a SQLite database by another process than its server: of one moment, without a change."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from perdure.domain.errors import Unavailable
from perdure.store.database import Tx
from perdure.store.sqlite import SqliteTx, connect


def connect_reader(path: Path) -> sqlite3.Connection:
    """Open a database's file for reading."""
    return connect(path, readonly=True)


def no_database(path: Path) -> Unavailable:
    """Return the error for a data folder without a database."""
    return Unavailable(
        f"there is no database in {path.parent}: name the data folder with --data or PERDURE_DATA, or a"
        " PostgreSQL database with PERDURE_DATABASE_URL"
    )


class SqliteSnapshots:
    """Reads a database of which a server may be running."""

    dialect = "sqlite"

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            Unavailable: there is none, or it cannot be opened.
        """
        if not path.is_file():
            raise no_database(path)
        try:
            self._connection = connect_reader(path)
        except sqlite3.Error as error:
            raise Unavailable(f"cannot open the database {path.name}: {error}") from error

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Tx]:
        """Give a read that sees one moment of the database."""
        try:
            self._connection.execute("BEGIN")
            try:
                yield SqliteTx(self._connection)
            finally:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise Unavailable(f"cannot read the database: {error}") from error

    async def close(self) -> None:
        self._connection.close()
