"""Advisory locks: one process at a time, where there is no row to lock yet."""

from __future__ import annotations

from enum import IntEnum

from perdure.store.database import Tx


class Lock(IntEnum):
    """Every advisory lock that this product takes in a database, so that no two have one number."""

    MIGRATE = 0x70657264
    """Held while the tables are made or altered."""
    BOOTSTRAP = 0x70657265
    """Held while the first organization is made."""
    PREDEFINED = 0x70657266
    """Held while providers are added for the keys in the server's environment."""


async def hold(tx: Tx, lock: Lock) -> None:
    """Hold the lock until the commit. SQLite has one writer: there is nothing to add."""
    if tx.dialect == "postgres":
        await tx.run(f"SELECT pg_advisory_xact_lock({lock:d})")
