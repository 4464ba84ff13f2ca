"""What waits in the database, for the metrics."""

from __future__ import annotations

from msgspec import Struct

from perdure.store.database import Tx
from perdure.store.queue import Queue

_BEFORE, _LONGEST = len('[{"kind":"'), len('tokens_per_minute"')


class Backlog(Struct, frozen=True):
    """How much waits, in all organizations.

    Attributes:
        jobs: sessions and tasks that wait for a runner.
        active: sessions with a turn that runs, or waits for a runner.
        parked: parked sessions by what they wait for: the kind of the first call.
    """

    jobs: int
    active: int
    parked: dict[str, int]


async def read_backlog(tx: Tx, queue: Queue) -> Backlog:
    """Count what waits, by the indexes of sessions that are parked or active: few of all."""
    # The kind comes first in the JSON, and what follows it is the same in all calls of a kind.
    rows = await tx.all(
        f"SELECT SUBSTR(parked, {_BEFORE + 1}, {_LONGEST}), COUNT(*) FROM sessions"
        " WHERE parked IS NOT NULL AND deleted_at IS NULL GROUP BY 1"
    )
    parked: dict[str, int] = {}
    for text, count in rows:
        kind = text.partition('"')[0]
        parked[kind] = parked.get(kind, 0) + int(count)
    active = await tx.one(
        "SELECT COUNT(*) FROM sessions WHERE status = 'active' AND resting = 0 AND deleted_at IS NULL"
    )
    return Backlog(await queue.waiting(tx), int(active[0]) if active else 0, parked)
