"""Whether a transaction is still open that may have seen what is about to be removed."""

from __future__ import annotations

from perdure.domain.times import Micros
from perdure.store.database import Tx
from perdure.store.processes import NOW


async def database_time(tx: Tx) -> Micros:
    """Return the time by the database's clock, in microseconds."""
    found = await tx.one(f"SELECT {NOW[tx.dialect]}")
    return 0 if found is None else int(found[0])


async def has_older_transactions(tx: Tx, since: Micros) -> bool:
    """Return whether a transaction is open that began before an instant by the database's clock.

    SQLite has one writer, and no transaction of it is open between two others.
    """
    if tx.dialect == "sqlite":
        return False
    found = await tx.one(
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND backend_type = 'client backend'"
        " AND CAST(extract(epoch FROM xact_start) * 1000000 AS BIGINT) <= ? LIMIT 1",
        since,
    )
    return found is not None
