"""Advisory locks, which serialize processes where no row exists yet to lock."""

from __future__ import annotations

from enum import IntEnum

from perdure.store.database import Tx


class Lock(IntEnum):
    """All advisory locks that Perdure takes in a database, so that no two share a number."""

    MIGRATE = 0x70657264
    """Held while tables are created or altered."""
    BOOTSTRAP = 0x70657265
    """Held while the first organization is created."""
    PREDEFINED = 0x70657266
    """Held while providers are added for the keys in the server's environment."""


async def hold(tx: Tx, lock: Lock) -> None:
    """Hold the lock until the commit. Does nothing on SQLite, which has a single writer."""
    if tx.dialect == "postgres":
        await tx.run(f"SELECT pg_advisory_xact_lock({lock:d})")
