"""The sorter: keeps the index by which sessions are searched up with them."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from functools import partial

from perdure.domain.errors import PerdureError
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

log = logging.getLogger("perdure.sorter")

LOOK_EVERY = 10.0
"""Seconds between two looks, give or take a third: two processes seldom make the same segment then, which one
of them would do in vain."""

THIN_EVERY = 60
"""Looks between two at what has left its segment: about ten minutes."""

REST = 3
"""With much to do, the sorter rests so many times as long as it has worked: requests come first."""


class Sorter:
    """Runs beside a worker, in every process that has one."""

    def __init__(self, database: Database, look_every: float = LOOK_EVERY) -> None:
        self._database = database
        self._look_every = look_every

    async def run(self) -> None:
        """Sort for ever."""
        for look in itertools.count(1):
            await asyncio.sleep(self._look_every * random.uniform(0.67, 1.33))  # noqa: S311 - no secret
            try:
                await sort_sessions(self._database, thin=look % THIN_EVERY == 0)
            except PerdureError as error:
                log.warning("sessions cannot be sorted for searches: %s", error.message)
            except Exception:
                log.exception("sessions cannot be sorted for searches")


async def sort_sessions(database: Database, *, thin: bool = False, rest: float = REST) -> int:
    """Sort in what makes whole segments, in every organization; how many segments were made.

    Args:
        thin: also take segments apart that most of their sessions have left.
        rest: seconds of rest after a segment, for each second that it took.
    """
    made = 0
    for org_id in await database.read(large_organizations, long=True):
        if thin:
            for segment in await database.read(partial(thin_segments, org_id=org_id), long=True):
                await database.write(partial(drop_segment, org_id=org_id, segment=segment))
        began = time.perf_counter()
        while await _sort_one(database, org_id):
            made += 1
            await asyncio.sleep((time.perf_counter() - began) * rest)
            began = time.perf_counter()
    return made


async def _sort_one(database: Database, org_id: OrgId) -> bool:
    """Make one segment, if there are enough sessions for it."""
    last = await database.read(lambda tx: last_segment(tx, org_id))
    sessions = await database.read(lambda tx: read_unsorted(tx, org_id), long=True)
    if not sessions:
        return False
    terms = await asyncio.to_thread(sort_terms, sessions)
    return await database.write(lambda tx: add_segment(tx, org_id, last + 1, sessions, terms))
