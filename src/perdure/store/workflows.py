"""Turns that run, wait or were sealed, in the rows of their sessions."""

from __future__ import annotations

from perdure.store.database import Tx

MOST_COUNTED = 10_000
"""The most sealed turns that are counted."""


async def count_sealed(tx: Tx) -> int:
    """Count the sealed turns of all organizations."""
    row = await tx.one(
        "SELECT COUNT(*) FROM (SELECT 1 FROM sessions WHERE finished_at IS NOT NULL AND deleted_at IS NULL"
        f" AND status = 'idle' LIMIT {MOST_COUNTED}) AS sealed"
    )
    return int(row[0]) if row else 0
