"""Suspects: sessions whose runner died or failed more than once in a row without progress in the log.

One of them may be what kills the server. Suspects start after everybody else and one at a time, the least
suspected first. So a session that kills its server is counted alone, and the healthy ones that happened to
run beside it are not sealed with it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

from perdure.domain.ids import SessionId

SETTLE = 1.0
"""Seconds that a suspect waits for each of its recoveries, so that others are under way before it starts."""

ALONE = 60.0
"""Seconds after which the next suspect starts although the one before has made no progress: its model may be
slow."""


MAX_EXCUSED = 100_000
"""The most sessions to remember as excused."""


class _Clock(Protocol):
    def elapsed(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


class Suspects:
    """Admits the suspects of one process, one at a time.

    It also remembers the sessions whose last attempt must not count although the database still counts it:
    the database was too ill to take the count back.
    """

    def __init__(self) -> None:
        self._excused: set[SessionId] = set()
        self._line = asyncio.Lock()
        self._current = Admission(0.0)
        self._current.end()

    async def admit(self, recoveries: int, clock: _Clock) -> Admission:
        """Wait until this suspect may start.

        Args:
            recoveries: how often it was recovered without progress.
        """
        await clock.sleep(SETTLE * recoveries)
        async with self._line:
            await self._current.over(clock.elapsed())
            self._current = Admission(clock.elapsed())
            return self._current

    def excuse(self, session_id: SessionId) -> None:
        """Do not count the session's next attempt, because the last one was counted and should not be."""
        if len(self._excused) < MAX_EXCUSED:
            self._excused.add(session_id)

    def take_excuse(self, session_id: SessionId) -> bool:
        """Return whether the session is excused; only once."""
        excused = session_id in self._excused
        self._excused.discard(session_id)
        return excused


class Admission:
    """A suspect's time alone: until its log grows, its run ends, or `ALONE` seconds have passed."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._ended = asyncio.Event()

    def end(self) -> None:
        """Let the next suspect start. May be called more than once."""
        self._ended.set()

    async def over(self, now: float) -> None:
        """Wait until the time alone is over; `now` is on the clock of `began`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._began + ALONE - now)):
                await self._ended.wait()
