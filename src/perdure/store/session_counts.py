"""The number of sessions of each organization that are not archived, as lists show it."""

from __future__ import annotations

import random
from zlib import crc32

from perdure.domain.ids import OrgId, SessionId
from perdure.store.database import Rows, Tx

SHARDS = 16
"""The number of rows that one organization's session count is split over on PostgreSQL, where an updated row
stays locked until the commit."""


_INSERT = "INSERT INTO session_totals (org_id, shard, sessions)"
_ADD = " ON CONFLICT (org_id, shard) DO UPDATE SET sessions = session_totals.sessions + excluded.sessions"


def counted(dialect: str, org_id: OrgId, more: int, parent_id: SessionId | None = None) -> Rows:
    """Return the row that adds to the organization's count of sessions that are not archived.

    `more` may be negative. Lists show the total, and counting 100,000 rows for each of them takes too long.

    Args:
        parent_id: who began the sessions. One transaction may begin many: with one row for all of them, no
            two transactions lock two rows in different orders.
    """
    shard = 0
    if dialect != "sqlite":
        random_shard = random.randrange(SHARDS)  # noqa: S311 - spreads the load only
        shard = random_shard if parent_id is None else crc32(parent_id.encode()) % SHARDS
    return Rows(_INSERT, [(org_id, shard, more)], _ADD)


async def count_sessions(tx: Tx, org_id: OrgId, more: int, parent_id: SessionId | None = None) -> None:
    """Add to the organization's count of sessions that are not archived, as `counted` does."""
    row = counted(tx.dialect, org_id, more, parent_id)
    await tx.run(row.statement(), *row.rows[0])
