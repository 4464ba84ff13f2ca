"""Results of discoveries that sessions share, for a minute or longer."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from msgspec import Struct

from perdure.capabilities.port import DISCOVERY_AGE, Discovered
from perdure.domain.times import Micros

FAILURE_AGE = 10.0
"""Seconds for which a discovery that failed is not attempted again."""
MAX_SHARED = 128
"""Results that are kept; the one that was not used for longest goes first."""


class Outcome(Struct, frozen=True):
    """The outcome of a discovery: its result, whose size is limited, or why it failed."""

    found: Discovered | None
    reason: str = ""


class _Entry:
    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.outcome: Outcome | None = None
        self.since: Micros = 0

    def current(self, age: float, now: Micros) -> Outcome | None:
        """The outcome if it can still be used."""
        if self.outcome is None:
            return None
        seconds = FAILURE_AGE if self.outcome.found is None else max(age, DISCOVERY_AGE)
        # A clock that has gone back does not tell how old it is.
        return self.outcome if 0 <= now - self.since < seconds * 1_000_000 else None


class SharedDiscoveries:
    """The results, by whatever they depend on."""

    def __init__(self) -> None:
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()

    async def outcome(
        self, name: bytes, age: float, now: Callable[[], Micros], attempt: Callable[[], Awaitable[Outcome]]
    ) -> Outcome:
        """The outcome of a discovery. Those who need the same one at the same time wait for one attempt.

        Args:
            name: whatever the result depends on.
            age: seconds for which a result can be used.
        """
        entry = self._entries.setdefault(name, _Entry())
        self._entries.move_to_end(name)
        if len(self._entries) > MAX_SHARED:
            self._entries.popitem(last=False)
        async with entry.lock:
            outcome = entry.current(age, now())
            if outcome is None:
                outcome = await attempt()
                entry.outcome, entry.since = outcome, now()
        return outcome
