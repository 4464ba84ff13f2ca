"""What the engine works with: the ports, and the few numbers that bound it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct, field

from perdure.capabilities.port import TOOL_OUTPUT
from perdure.capabilities.registry import Registry
from perdure.capabilities.resolve import DriverSource
from perdure.domain.files import FileLimits
from perdure.domain.ids import NewId, SessionId, new_id
from perdure.domain.times import Micros
from perdure.engine.conversation_cache import Histories
from perdure.llm.catalog import Catalog
from perdure.store.bus import Bus
from perdure.store.crypto import Vault
from perdure.store.database import Database
from perdure.store.queue import Queue


class Clock(Protocol):
    """Time, as the engine sees it: tests and simulations bring their own."""

    def now(self) -> Micros:
        """The present, in microseconds since the epoch."""
        ...

    def elapsed(self) -> float:
        """A clock for durations, in seconds; it never goes back."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> Micros:
        return time.time_ns() // 1000

    def elapsed(self) -> float:
        return time.perf_counter()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Policy(Struct, frozen=True):
    """The engine's numbers.

    Attributes:
        model_attempts: how often a model call is tried before the turn fails.
        backoff: seconds before the second attempt, before jitter; they double from there.
        backoff_limit: the most seconds between two attempts, a vendor's Retry-After included.
        delta_interval: seconds over which live text is gathered (DESIGN: about 50 ms).
        history_tokens: about how many tokens of history a model call is shown at most; less where the model
            takes less.
        max_iterations: model calls in one turn, where no layer says otherwise.
        max_recoveries: how often a turn is taken up again without the log moving before it is sealed (wire
            contract: 3).
        client_timeout, approval_timeout: seconds that a client's results, or a person's leave, are waited for
            (wire contract: 5 and 15 minutes).
        private_addresses: whether tools may reach private networks and this machine.
        tool_output: characters of a tool's output that are kept (wire contract: 64 KB).
        file_limits: how much the files of a session may hold.
    """

    model_attempts: int = 5
    backoff: float = 0.5
    backoff_limit: float = 60.0
    delta_interval: float = 0.05
    history_tokens: int = 100_000
    max_iterations: int = 200
    max_recoveries: int = 3
    tool_output: int = TOOL_OUTPUT
    client_timeout: float = 300.0
    approval_timeout: float = 900.0
    private_addresses: bool = False
    file_limits: FileLimits = FileLimits()


class Engine(Struct, frozen=True):
    """Everything a runner needs."""

    database: Database
    queue: Queue
    bus: Bus
    registry: Registry
    vault: Vault
    drivers: DriverSource
    histories: Histories
    clock: Clock
    leases: dict[SessionId, int]
    """The epoch under which each session is held in this process."""
    policy: Policy = Policy()
    new_id: NewId = new_id
    jitter: Callable[[], float] = random.random
    catalog: Catalog = field(default_factory=Catalog)
