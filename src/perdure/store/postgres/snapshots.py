"""Reads of a PostgreSQL database beside its servers: of one moment, without a change."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from perdure.domain.errors import Unavailable
from perdure.store.database import Tx
from perdure.store.postgres.connections import connection_options
from perdure.store.postgres.database import PostgresTx
from perdure.store.postgres.lost import no_connection

UNHURRIED = {
    "application_name": "perdure-keep",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_read_only": "on",
}
"""Settings for long reads, between which `pg_dump` may run for hours."""


class PostgresSnapshots:
    """Reads a database that servers may use. Create it with `open_snapshots`."""

    dialect = "postgres"

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Tx]:
        """Give a read that sees one moment of the database."""
        try:
            await self._connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            try:
                yield PostgresTx(self._connection, {})
            finally:
                if not self._connection.is_closed():
                    await self._connection.execute("ROLLBACK")
        except (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError) as error:
            raise Unavailable(f"cannot read the database: {error}", cause="no_connection") from error

    async def close(self) -> None:
        await self._connection.close()


async def open_snapshots(url: str) -> PostgresSnapshots:
    """Connect to a database.

    Raises:
        Unavailable: no server answers, or it refuses the connection.
    """
    options = {**connection_options(url, UNHURRIED), "command_timeout": None}
    try:
        return PostgresSnapshots(await asyncpg.connect(url, **options))
    except Exception as error:
        raise no_connection(error, url) from error
