"""The sorter: adds new and changed sessions to the search index."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from functools import partial

from perdure.domain.ids import OrgId
from perdure.store.database import Database
from perdure.store.search import (
    add_segment,
    drop_segment,
    large_organizations,
    last_segment,
    read_unsorted,
    sort_terms,
    thin_segments,
)
from perdure.worker.rounds import again_and_again

log = logging.getLogger("perdure.sorter")

CHECK_EVERY = 10.0
"""Seconds between two checks, plus or minus a third. The jitter keeps two processes from building the same
segment, which would be wasted work for one of them."""

THIN_EVERY = 60
"""Checks between two clean-ups of segments that most sessions have left, about ten minutes."""

REST = 3
"""Seconds of rest for each second of work while many sessions wait, so that requests come first."""


class Sorter:
    """Runs beside a worker, in every process that has one."""

    def __init__(self, database: Database, check_every: float = CHECK_EVERY) -> None:
        self._database = database
        self._check_every = check_every

    async def run(self) -> None:
        """Index sessions until cancelled."""
        await again_and_again(
            lambda number: sort_sessions(self._database, thin=(number + 1) % THIN_EVERY == 0),
            lambda: asyncio.sleep(self._check_every * random.uniform(0.67, 1.33)),  # noqa: S311 - no secret
            log,
            "sessions cannot be added to the search index",
        )


async def sort_sessions(database: Database, *, thin: bool = False, rest: float = REST) -> int:
    """Add the sessions that fill whole segments to the index, in every organization.

    Args:
        thin: whether to drop first the segments that most of their sessions have left.
        rest: seconds of rest after a segment for each second of work on it.

    Returns:
        The number of segments that were added.
    """
    added = 0
    for org_id in await database.read(large_organizations, long=True):
        if thin:
            for segment in await database.read(partial(thin_segments, org_id=org_id), long=True):
                await database.write(partial(drop_segment, org_id=org_id, segment=segment))
        began = time.perf_counter()
        while await _sort_one(database, org_id):
            added += 1
            await asyncio.sleep((time.perf_counter() - began) * rest)
            began = time.perf_counter()
    return added


async def _sort_one(database: Database, org_id: OrgId) -> bool:
    """Add one segment if enough sessions wait; return whether it was added."""
    last = await database.read(lambda tx: last_segment(tx, org_id))
    sessions = await database.read(lambda tx: read_unsorted(tx, org_id), long=True)
    if not sessions:
        return False
    terms = await asyncio.to_thread(sort_terms, sessions)
    return await database.write(lambda tx: add_segment(tx, org_id, last + 1, sessions, terms))
