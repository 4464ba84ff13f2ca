"""What use cases work with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct, field

from perdure.capabilities.registry import Registry
from perdure.domain.files import FileLimits
from perdure.domain.ids import NewId, OrgId, new_id
from perdure.domain.providers import ProviderSecrets
from perdure.domain.times import Micros
from perdure.llm.catalog import Catalog
from perdure.llm.driver import Driver
from perdure.sandbox.pool import Sandbox
from perdure.store.bus import Bus
from perdure.store.crypto import Vault
from perdure.store.database import Database
from perdure.store.providers import ProviderRow
from perdure.store.queue import Queue


class Drivers(Protocol):
    """What the use cases need of the model drivers."""

    def known_types(self) -> tuple[str, ...]: ...

    def environment_key(self, provider_type: str) -> bool:
        """Whether the server's environment holds a key of that vendor."""
        ...

    def driver_for(self, row: ProviderRow, secrets: ProviderSecrets) -> Driver: ...


class Scope(Protocol):
    """In whose name a use case works: a caller of the API, or a session's own tool.

    All that it touches belongs to this organization (promise P8).
    """

    @property
    def organization_id(self) -> OrgId: ...


class Services(Struct, frozen=True):
    """What a use case needs that HTTP and a session's own tools share.

    Attributes:
        now: the present, in microseconds.
        sandbox: processes of their own for work that may go wrong in ways that nobody here survives.
    """

    database: Database
    queue: Queue
    bus: Bus
    vault: Vault
    now: Callable[[], Micros]
    new_id: NewId = new_id
    file_limits: FileLimits = FileLimits()
    sandbox: Sandbox = field(default_factory=Sandbox)


class App(Services, frozen=True, kw_only=True):
    """The services behind every use case: also those that know the capabilities, bound to `Services`."""

    registry: Registry
    drivers: Drivers
    catalog: Catalog = field(default_factory=Catalog)
