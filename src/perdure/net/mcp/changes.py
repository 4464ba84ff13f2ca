"""Count how often servers' tools may have changed, so that no server can ask to be listed all the time."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

BURST = 3
"""Changes that count at once."""
CHANGE_EVERY = 10.0
"""Seconds between those that count after them."""

Key = TypeVar("Key", bound=Hashable)


class _Server:
    def __init__(self, now: float) -> None:
        self.count = 0
        self.waits = False
        self.allowed = float(BURST)
        self.since = now


class Changes(Generic[Key]):
    """How often each server's list went out of date.

    A few changes count at once. Those of a server that reports ever more count as one each `CHANGE_EVERY`
    seconds: the last one is never lost, but it may count late.

    Args:
        most: servers that are remembered.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._servers: OrderedDict[Key, _Server] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._servers)

    def note(self, key: Key) -> None:
        """Note that a server's tools may have changed."""
        server = self._servers.get(key)
        if server is None:
            server = self._servers[key] = _Server(self._clock())
            if len(self._servers) > self._most:
                self._servers.popitem(last=False)
        self._servers.move_to_end(key)
        server.waits = True
        self._settle(server)

    def count(self, key: Key) -> int:
        """How many changes of a server count by now."""
        server = self._servers.get(key)
        if server is None:
            return 0
        if server.waits:
            self._settle(server)
        return server.count

    def _settle(self, server: _Server) -> None:
        now = self._clock()
        server.allowed = min(server.allowed + (now - server.since) / CHANGE_EVERY, BURST)
        server.since = now
        if server.allowed >= 1:
            server.allowed -= 1
            server.count += 1
            server.waits = False
