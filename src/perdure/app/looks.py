"""Looks at the ends of logs: those that many followers ask for at about the same time are one statement."""

from __future__ import annotations

import asyncio
from functools import partial

from perdure.domain.ids import SessionId
from perdure.store.database import Database
from perdure.store.working_sessions import heads_of

TOGETHER = 0.2
"""Seconds in which what is asked for becomes one look. A follower asks every few seconds, so it is late by
little."""
MOST = 1_000
"""How many sessions one statement asks for."""


class Looks:
    """The looks of one process: ten thousand idle followers make a few statements a second, not thousands."""

    def __init__(self) -> None:
        self._asked: dict[SessionId, asyncio.Future[int | None]] = {}
        self._looking: set[asyncio.Task[None]] = set()

    async def head(self, database: Database, session_id: SessionId) -> int | None:
        """Return the sequence of the log's last event, as it is now or a moment later; None if it is deleted.

        Raises:
            Unavailable: the database is unavailable.
        """
        found = self._asked.get(session_id)
        if found is None:
            if not self._asked:
                task = asyncio.create_task(self._look(database))
                self._looking.add(task)
                task.add_done_callback(self._looking.discard)
            found = self._asked[session_id] = asyncio.get_running_loop().create_future()
        return await asyncio.shield(found)  # others may wait for the same

    async def _look(self, database: Database) -> None:
        await asyncio.sleep(TOGETHER)
        asked, self._asked = self._asked, {}
        ids = list(asked)
        try:
            for begin in range(0, len(ids), MOST):
                part = ids[begin : begin + MOST]
                heads = await database.read(partial(heads_of, session_ids=part))
                for session_id in part:
                    asked[session_id].set_result(heads.get(session_id))
        except Exception as error:  # noqa: BLE001 - it is theirs who asked
            for found in asked.values():
                if not found.done():
                    found.set_exception(error)
                    found.exception()  # perhaps nobody waits any more
        finally:
            for found in asked.values():
                found.cancel()
