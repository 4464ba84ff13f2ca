"""Which driver speaks for which type of provider, and the drivers of a process.

A new driver is one file and one line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from perdure.domain.errors import InvalidInput
from perdure.llm.anthropic import AnthropicDriver
from perdure.llm.driver import Driver, ProviderConfig
from perdure.llm.http import Http
from perdure.llm.openai_chat import OpenAiChatDriver
from perdure.llm.openai_responses import OpenAiResponsesDriver
from perdure.llm.simulated import SimulatedDriver
from perdure.llm.wire import FragmentCache

Factory = Callable[[ProviderConfig, Http, FragmentCache], Driver]

MAX_DRIVERS = 1_000
"""Drivers that a pool keeps; one is a few kilobytes."""

FACTORIES: Mapping[str, Factory] = MappingProxyType(
    {
        "openai": OpenAiResponsesDriver,
        "openai_completions": OpenAiChatDriver,
        "anthropic": AnthropicDriver,
        "llmsim": lambda config, http, cache: SimulatedDriver(),
    }
)


def known_types() -> tuple[str, ...]:
    """The types of provider that there are drivers for."""
    return tuple(FACTORIES)


def make_driver(config: ProviderConfig, http: Http, cache: FragmentCache | None = None) -> Driver:
    """A driver for this configuration. It makes no connection yet, so it also serves to check a configuration.

    Args:
        config: type, address, key and options.
        http: the process's connection pool.
        cache: the process's encoded messages; a new one if none is given.

    Raises:
        InvalidInput: the type is unknown, or the address or the key cannot be used; `field` says which.
    """
    factory = FACTORIES.get(config.provider_type)
    if factory is None:
        known = ", ".join(known_types())
        raise InvalidInput(f"unknown provider type {config.provider_type!r}; known: {known}", field="provider_type")
    return factory(config, http, cache or FragmentCache())


class DriverPool:
    """The drivers of a process. They share one connection pool and one memory of encoded messages.

    Args:
        http: the connection pool; a new one if none is given.
        cache: the encoded messages; a new one if none is given.

    Attributes:
        http: the connection pool.
    """

    def __init__(self, http: Http | None = None, cache: FragmentCache | None = None) -> None:
        self.http = http or Http()
        self._cache = cache or FragmentCache()
        self._drivers: dict[str, tuple[object, Driver]] = {}

    def driver(self, provider_id: str, version: object, config: Callable[[], ProviderConfig]) -> Driver:
        """The driver of a provider, made anew when the provider has changed.

        Args:
            provider_id: whose driver.
            version: anything that changes with the provider: its `updated_at`.
            config: called only when a driver must be made, so that keys are decrypted only then.

        Raises:
            InvalidInput: as `make_driver`.
        """
        known = self._drivers.get(provider_id)
        if known is not None and known[0] == version:
            return known[1]
        driver = make_driver(config(), self.http, self._cache)
        self._drivers.pop(provider_id, None)
        self._drivers[provider_id] = (version, driver)
        if len(self._drivers) > MAX_DRIVERS:
            del self._drivers[next(iter(self._drivers))]
        return driver

    async def close(self) -> None:
        """Forget all drivers and close their connections."""
        self._drivers.clear()
        await self.http.close()
