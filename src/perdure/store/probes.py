"""What a health check writes: a row for each process, because processes that share one would wait for it."""

from __future__ import annotations

from perdure.domain.times import Micros
from perdure.store.database import Tx

KEPT = 86_400_000_000
"""Microseconds after which the row of a process that has ended is removed: a day."""


async def write_probe(tx: Tx, process: str, now: Micros, filler: str | None = None) -> None:
    """Write this process's row.

    Args:
        filler: a text that makes the row large, until the next one is written.
    """
    await tx.run(
        "INSERT INTO probes (process, checked_at, filler) VALUES (?, ?, ?)"
        " ON CONFLICT (process) DO UPDATE SET checked_at = excluded.checked_at, filler = excluded.filler",
        process,
        now,
        filler,
    )


async def purge_probes(tx: Tx, now: Micros) -> None:
    """Remove the rows of processes that ended long ago."""
    await tx.run("DELETE FROM probes WHERE checked_at < ?", now - KEPT)
