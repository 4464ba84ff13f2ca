"""The open connections of a server: how many there may be, and when a stalled one is given up.

A sweep looks at all connections once a second, which costs less than timers: the requests themselves only
note where they are. Over the limit a few connections more are served, for health checks only. So a server
whose connections are all taken still says that it is alive, and the database and the log keep the file
descriptors that they need.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from itertools import islice
from typing import Protocol

from msgspec import Struct

from perdure.api.kernel.access import Access

log = logging.getLogger("perdure.connections")

SWEEP_SECONDS = 1.0
SWEPT = 2_000
"""Connections that are looked at before the event loop does other work."""
SPARE = 64
"""Connections over the limit. A further one takes the place of the oldest of them."""
SPARE_SECONDS = 5.0
"""How long a connection over the limit may take to send its request."""
MAX_HEADS = 64 * 1024 * 1024
"""The most bytes of incomplete requests, without their bodies, that all connections hold together."""
WRITTEN = 16 * 1024
"""Bytes that a client must take within the time limit for writing, unless it takes all there is."""
STALLED = -1
"""What a connection that has stalled returns in place of the bytes that it holds."""
LOG_SECONDS = 60.0
"""The least time between two messages about the limit."""


class ConnectionLimits(Struct, frozen=True):
    """Limits of connections.

    Attributes:
        most: how many may be open.
        head: the time for a request to arrive without its body, in seconds; for the first request of a
            connection, since it was opened.
        write: the time in which a client must read something of what is sent to it, in seconds.
    """

    most: int = 20_000
    head: float = 20.0
    write: float = 30.0


class Connection(Protocol):
    """What the sweep asks and does."""

    spare: bool
    """Whether the connection is over the limit."""

    def look(self, now: float, limits: ConnectionLimits) -> int:
        """Return the bytes of an incomplete request that it holds, without the body; `STALLED` if it stalled.

        Args:
            now: the event loop's time.
        """
        ...

    def abort(self) -> None:
        """Close the connection at once."""
        ...


class Connections:
    """The connections of one server."""

    def __init__(self, limits: ConnectionLimits, access: Access) -> None:
        self.limits = limits
        self.access = access
        self.refused = 0
        """Connections that were over the limit since the last message about it."""
        self._open: dict[Connection, None] = {}
        self._spare: dict[Connection, None] = {}
        self._logged = float("-inf")

    def __len__(self) -> int:
        return len(self._open) + len(self._spare)

    def add(self, connection: Connection, now: float) -> None:
        """Count a new connection. Over the limit it becomes a spare one."""
        if len(self._open) < self.limits.most:
            self._open[connection] = None
            return
        connection.spare = True
        self._spare[connection] = None
        self.refused += 1
        if now - self._logged >= LOG_SECONDS:
            self._logged = now
            log.warning(
                "%d connections are open, which is the limit (PERDURE_MAX_CONNECTIONS, or what the limit of"
                " open files leaves): %d were refused since the last message",
                len(self._open),
                self.refused,
            )
            self.refused = 0
        if len(self._spare) > SPARE:
            next(iter(self._spare)).abort()

    def promote(self, connection: Connection) -> None:
        """Make a spare connection a usual one if there is room now."""
        if len(self._open) < self.limits.most:
            self._spare.pop(connection, None)
            self._open[connection] = None
            connection.spare = False

    def drop(self, connection: Connection) -> None:
        """Forget a closed connection."""
        self._open.pop(connection, None)
        self._spare.pop(connection, None)

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            await self.sweep()

    async def sweep(self) -> None:
        """Give up the connections that have stalled, and the largest incomplete requests over `MAX_HEADS`."""
        heads: list[tuple[int, Connection]] = []
        connections = iter([*self._open, *self._spare])
        while some := list(islice(connections, SWEPT)):
            heads += self._give_up(some)
            await asyncio.sleep(0)
        over = sum(size for size, _ in heads) - MAX_HEADS
        for size, connection in sorted(heads, key=lambda head: head[0], reverse=True):
            if over <= 0:
                return
            connection.abort()
            over -= size

    def _give_up(self, connections: Iterable[Connection]) -> list[tuple[int, Connection]]:
        now, limits = asyncio.get_running_loop().time(), self.limits
        heads = []
        for connection in connections:
            size = connection.look(now, limits)
            if size > 0:
                heads.append((size, connection))
            elif size:
                connection.abort()
        return heads
