"""The services that use cases receive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct, field

from perdure.app.inbox_snapshots import Inboxes
from perdure.app.looks import Looks
from perdure.app.rate_limit import TOKEN_BURST, TOKEN_RATE, RateLimit
from perdure.app.refreshes import Refreshes
from perdure.app.shares import Shares
from perdure.app.together import Together
from perdure.app.waiters import Waiters
from perdure.capabilities.arguments import ArgumentChecks
from perdure.capabilities.features import FeatureCache
from perdure.capabilities.guard_services import GuardServices
from perdure.capabilities.public_url import PublicUrl
from perdure.capabilities.registry import Registry
from perdure.domain.code import CodeBackEnd
from perdure.domain.files import FileLimits
from perdure.domain.ids import NewId, OrgId, SessionId, WorkspaceId, new_id
from perdure.domain.local_mcp import LocalMcpServer
from perdure.domain.memories import Mounts
from perdure.domain.metrics import Metrics
from perdure.domain.network import PrivateAddresses
from perdure.domain.providers import ProviderSecrets
from perdure.domain.retention import RetentionDays
from perdure.domain.times import Micros
from perdure.llm.breakers import Breakers
from perdure.llm.catalog import Catalog
from perdure.llm.driver import Driver, ProviderConfig
from perdure.net.mcp.lazy import LazyHosts
from perdure.sandbox.pool import Sandbox
from perdure.store.bus import Bus
from perdure.store.crypto import Vault
from perdure.store.database import Database
from perdure.store.known_sessions import KnownSessions
from perdure.store.meter import Meter
from perdure.store.parked_turns import ParkedTurns
from perdure.store.providers import ProviderRow
from perdure.store.queue import Queue


class Drivers(Protocol):
    """The part of the model drivers that use cases need."""

    def known_types(self) -> tuple[str, ...]: ...

    def environment_key(self, org_id: OrgId, provider_type: str) -> bool:
        """Whether the server's environment holds an API key of that vendor for the organization."""
        ...

    def lend_environment(self, org_id: OrgId) -> None:
        """Let the API keys of the server's environment serve this organization, and no other."""
        ...

    def driver_for(self, row: ProviderRow, secrets: ProviderSecrets) -> Driver: ...

    def unpooled(self, config: ProviderConfig) -> Driver:
        """Create a driver for one use, such as a check of new settings."""
        ...


class Scope(Protocol):
    """On whose behalf a use case runs: a caller of the API, or a session's own tool.

    A use case may only touch data of this organization (promise P8).
    """

    @property
    def organization_id(self) -> OrgId: ...

    def own_workspace(self, session_id: SessionId) -> WorkspaceId | None:
        """The session's workspace if the scope is this session's own tool, else None.

        A tool runs only while its session exists, so its reads need no query that checks this.
        """
        ...

    def own_memories(self, session_id: SessionId) -> Mounts | None:
        """The memories in the session's files if the scope is this session's own tool, else None."""
        ...


def _receiving() -> Shares:
    what = "messages with files"
    return Shares(slots=8, each=4, queue=64, patience=60.0, what=what, code="too_many_files_at_once")


def _fetching() -> Shares:
    what = "messages with files to fetch"
    return Shares(slots=8, each=2, queue=64, patience=60.0, what=what, code="too_many_files_at_once")


class Services(Struct, frozen=True):
    """The services of the use cases that HTTP and a session's own tools share.

    Attributes:
        now: the current time, in microseconds.
        sandbox: separate processes for work that may crash, hang or run out of memory.
        shares: turns for work that may look at very much.
        receiving: turns for messages with files, which are held in memory until they are stored.
        fetching: turns for those whose files have to be fetched first.
        code: where programs of models run; None if the operator has not turned it on.
        public: where browsers reach this server.
        refreshes: the tokens that this process is refreshing.
        private_addresses: which private networks tools and MCP servers may reach.
        local_mcp: the MCP servers of the operator's file, by id.
        mcp: the client of MCP servers.
        turns: the turns that this process has parked.
        known: the sessions whose turns ended here.
        hearing: the reports that wait until their session can hear of them, by its id.
        meter: limits, and what is used of them.
        guard: makes the guardrails' checks that need a service; without it, they count as not made.
        metrics: what operators see of this process.
        retention: how long organizations keep what they have, unless they have set it.
    """

    database: Database
    queue: Queue
    bus: Bus
    vault: Vault
    now: Callable[[], Micros]
    new_id: NewId = new_id
    file_limits: FileLimits = FileLimits()
    sandbox: Sandbox = field(default_factory=Sandbox)
    shares: Shares = field(default_factory=Shares)
    receiving: Shares = field(default_factory=_receiving)
    fetching: Shares = field(default_factory=_fetching)
    code: CodeBackEnd | None = None
    public: PublicUrl = field(default_factory=PublicUrl)
    refreshes: Refreshes = field(default_factory=Refreshes)
    private_addresses: PrivateAddresses = False
    local_mcp: dict[str, LocalMcpServer] = {}
    mcp: LazyHosts = field(default_factory=LazyHosts)
    turns: ParkedTurns = field(default_factory=ParkedTurns)
    known: KnownSessions = field(default_factory=KnownSessions)
    hearing: Together = field(default_factory=Together)
    meter: Meter = field(default_factory=Meter)
    guard: GuardServices | None = None
    metrics: Metrics = field(default_factory=Metrics)
    retention: RetentionDays = RetentionDays()


class App(Services, frozen=True, kw_only=True):
    """The services of all use cases. It adds the registry, whose capabilities are bound to `Services`.

    Attributes:
        callback_key: what the tokens of callbacks are signed with.
        callback_limit: how often a token can be used.
        waiters: the requests that wait for turns.
        arguments: checks of edited arguments.
        inboxes: the inboxes that somebody follows.
        looks: the looks of followers at the ends of logs.
    """

    registry: Registry
    drivers: Drivers
    callback_key: bytes
    callback_limit: RateLimit = field(default_factory=lambda: RateLimit(TOKEN_RATE, TOKEN_BURST))
    catalog: Catalog = field(default_factory=Catalog)
    features: FeatureCache = field(default_factory=FeatureCache)
    breakers: Breakers = field(default_factory=Breakers)
    waiters: Waiters = field(default_factory=Waiters)
    inboxes: Inboxes = field(default_factory=Inboxes)
    looks: Looks = field(default_factory=Looks)
    arguments: ArgumentChecks = field(default_factory=lambda: ArgumentChecks(Sandbox()))
