"""What the engine works with: the ports, and its limits."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct, field

from perdure.capabilities.agent_cache import AgentCache
from perdure.capabilities.arguments import ArgumentChecks
from perdure.capabilities.guard_services import GuardServices
from perdure.capabilities.model_choice import DriverSource, FitProviders
from perdure.capabilities.port import TOOL_OUTPUT
from perdure.capabilities.public_url import PublicUrl
from perdure.capabilities.registry import Registry
from perdure.domain.files import FileLimits
from perdure.domain.ids import NewId, SessionId, new_id
from perdure.domain.metrics import Metrics
from perdure.domain.network import PrivateAddresses
from perdure.domain.times import Micros
from perdure.domain.trace_context import Sampler
from perdure.engine.conversation_cache import ConversationCache
from perdure.engine.file_contents import FileCache
from perdure.engine.output_formats import OutputFormats
from perdure.engine.scaled_images import ImageScaler
from perdure.engine.suspects import Suspects
from perdure.llm.breakers import Breakers
from perdure.llm.catalog import Catalog
from perdure.net.hook_http import HookClient
from perdure.sandbox.pool import Sandbox
from perdure.store.bus import Bus
from perdure.store.crypto import Vault
from perdure.store.database import Database
from perdure.store.known_sessions import KnownSessions
from perdure.store.meter import Meter
from perdure.store.parked_turns import ParkedTurns
from perdure.store.queue import Queue


class Clock(Protocol):
    """The port for time; tests and simulations have their own."""

    def now(self) -> Micros:
        """The current time, in microseconds since the Unix epoch."""
        ...

    def elapsed(self) -> float:
        """A monotonic clock for durations, in seconds."""
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
    """The engine's limits.

    Attributes:
        model_attempts: attempts of a model call before the turn fails.
        backoff: the most seconds before the second attempt, the least being half; doubles with each attempt.
        backoff_limit: the maximum of seconds between two attempts, a vendor's Retry-After included.
        delta_interval: seconds for which live text is collected before it is published.
        history_tokens: about how many tokens of history a model call may contain; less if the model's window
            is smaller.
        max_iterations: model calls in one turn, unless a layer sets another limit.
        max_recoveries: how often a turn is recovered without progress in the log before it is sealed (wire
            contract: 3).
        tool_output: characters of a tool's output that are kept (wire contract: 64 KB).
        client_timeout, approval_timeout: seconds to wait for a client's results and for an approval (wire
            contract: 5 and 15 minutes).
        private_addresses: which private networks tools may reach, this machine included.
        file_limits: the limits on the files of a session.
    """

    model_attempts: int = 5
    backoff: float = 1.0
    backoff_limit: float = 60.0
    delta_interval: float = 0.05
    history_tokens: int = 100_000
    max_iterations: int = 200
    max_recoveries: int = 3
    tool_output: int = TOOL_OUTPUT
    client_timeout: float = 300.0
    approval_timeout: float = 900.0
    private_addresses: PrivateAddresses = False
    file_limits: FileLimits = FileLimits()


class Engine(Struct, frozen=True):
    """Everything that a runner needs."""

    database: Database
    queue: Queue
    bus: Bus
    registry: Registry
    vault: Vault
    drivers: DriverSource
    conversations: ConversationCache
    clock: Clock
    claimed_epochs: dict[SessionId, int]
    """By session that this process has claimed: the epoch of the claim."""
    callback_key: bytes
    """What the tokens of callbacks are signed with."""
    policy: Policy = Policy()
    new_id: NewId = new_id
    jitter: Callable[[], float] = random.random
    catalog: Catalog = field(default_factory=Catalog)
    arguments: ArgumentChecks = field(default_factory=lambda: ArgumentChecks(Sandbox()))
    outputs: OutputFormats = field(default_factory=OutputFormats)
    suspects: Suspects = field(default_factory=Suspects)
    public: PublicUrl = field(default_factory=PublicUrl)
    agents: AgentCache = field(default_factory=AgentCache)
    turns: ParkedTurns = field(default_factory=ParkedTurns)
    known: KnownSessions = field(default_factory=KnownSessions)
    breakers: Breakers = field(default_factory=Breakers)
    fit: FitProviders = field(default_factory=FitProviders)
    hooks: HookClient = field(default_factory=HookClient)
    meter: Meter = field(default_factory=Meter)
    files: FileCache = field(default_factory=FileCache)
    metrics: Metrics = field(default_factory=Metrics)
    images: ImageScaler = field(default_factory=lambda: ImageScaler(Sandbox()))
    sampler: Sampler | None = None
    """Decides which traces are exported; None if none are."""
    guard: GuardServices | None = None
    """Makes the guardrails' checks that need a service; without it, they count as not made."""
