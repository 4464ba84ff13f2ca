"""What use cases work with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from perdure.capabilities.registry import Registry
from perdure.domain.ids import Prefix, new_id
from perdure.domain.times import Micros
from perdure.llm.driver import Driver
from perdure.store.bus import Bus
from perdure.store.crypto import Vault
from perdure.store.database import Database
from perdure.store.providers import ProviderRow
from perdure.store.queue import Queue
from perdure.store.sessions import now_micros


class Drivers(Protocol):
    """What the use cases need of the model drivers."""

    def known_types(self) -> tuple[str, ...]: ...

    def driver_for(self, row: ProviderRow, key: str | None) -> Driver: ...


class App(Struct, frozen=True):
    """The services behind every use case.

    Attributes:
        client_timeout: microseconds that a client may take to answer its tool calls.
    """

    database: Database
    queue: Queue
    bus: Bus
    registry: Registry
    vault: Vault
    drivers: Drivers
    now: Callable[[], Micros] = now_micros
    new_id: Callable[[Prefix], str] = new_id
