"""Which driver speaks for which type of provider, and the drivers of a process.

A new driver is one file and one line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

import msgspec
from msgspec import Struct

from perdure.domain.errors import InvalidInput
from perdure.domain.ids import ProviderId
from perdure.domain.messages import JsonObject
from perdure.domain.model_profiles import ModelVendor
from perdure.domain.providers import ProviderOptions, ProviderSecrets
from perdure.domain.times import Micros
from perdure.llm.anthropic import AnthropicDriver
from perdure.llm.driver import Driver, ProviderConfig
from perdure.llm.http import Http
from perdure.llm.model_table import vendor_of_model
from perdure.llm.openai_chat import OpenAiChatDriver
from perdure.llm.openai_responses import OpenAiResponsesDriver
from perdure.llm.simulated import SimulatedDriver
from perdure.llm.vendors import ANTHROPIC, OPENAI
from perdure.llm.wire import FragmentCache

Factory = Callable[[ProviderConfig, Http, FragmentCache], Driver]

MAX_DRIVERS = 1_000
"""Drivers that a pool keeps; one is a few kilobytes."""


class DriverKind(Struct, frozen=True):
    """A type of provider.

    Attributes:
        title: what people call it.
        environment: the variable that the vendor's own tools read the key from.
        key_needed: whether to ask people for a key. Servers of one's own mostly do without.
        options: what it can be told besides, see `ProviderOptions`.
        help: how to get a key, in Markdown.
        vendor: who makes its models, where one vendor makes all of them.
    """

    factory: Factory
    title: str
    environment: str | None = None
    key_needed: bool = False
    lists_models: bool = True
    options: frozenset[str] = frozenset()
    help: str = ""
    vendor: ModelVendor | None = None


KINDS: Mapping[str, DriverKind] = MappingProxyType(
    {
        "openai": DriverKind(
            OpenAiResponsesDriver,
            "OpenAI",
            OPENAI.key_variable,
            key_needed=True,
            options=frozenset({"headers", "reasoning", "reasoning_summary"}),
            help=(
                "Make a key at [platform.openai.com](https://platform.openai.com/api-keys)."
                " Without `base_url` it goes to OpenAI."
            ),
        ),
        "openai_completions": DriverKind(
            OpenAiChatDriver,
            "OpenAI Chat Completions",
            OPENAI.key_variable,
            options=frozenset({"headers", "include_usage", "max_tokens_field", "reasoning_content"}),
            help=(
                "For any server that speaks Chat Completions: give its `base_url`, mostly ending in `/v1`,"
                " and the key if it wants one. Without `base_url` it goes to OpenAI."
            ),
        ),
        "anthropic": DriverKind(
            AnthropicDriver,
            "Anthropic",
            ANTHROPIC.key_variable,
            key_needed=True,
            options=frozenset({"headers", "bearer", "max_tokens"}),
            help=(
                "Make a key at [platform.claude.com](https://platform.claude.com/settings/keys)."
                " Without `base_url` it goes to Anthropic."
            ),
        ),
        "llmsim": DriverKind(
            lambda config, http, cache: SimulatedDriver(),
            "Simulated model",
            lists_models=False,
            help="Nothing to fill in: it is a simulation, for tests.",
            vendor="llmsim",
        ),
    }
)


def known_types() -> tuple[str, ...]:
    """The types of provider that there are drivers for."""
    return tuple(KINDS)


def vendor_key(provider_type: str, environment: Mapping[str, str]) -> str | None:
    """The key that the environment holds for a type of provider; an empty one is none."""
    kind = KINDS.get(provider_type)
    return (
        None
        if kind is None or kind.environment is None
        else environment.get(kind.environment, "").strip() or None
    )


def vendor_of(provider_type: str, model: str) -> ModelVendor | None:
    """Who makes a provider's model, or None if that is not known."""
    kind = KINDS.get(provider_type)
    return vendor_of_model(model) if kind is None or kind.vendor is None else kind.vendor


def make_driver(config: ProviderConfig, http: Http, cache: FragmentCache | None = None) -> Driver:
    """A driver for this configuration.

    It makes no connection yet, so it also serves to check a configuration.

    Args:
        config: type, address, key and options.
        http: the process's connection pool.
        cache: the process's encoded messages; a new one if none is given.

    Raises:
        InvalidInput: the type is unknown, or the address, the key or an option cannot be used; `field` says
            which.
    """
    kind = KINDS.get(config.provider_type)
    if kind is None:
        known = ", ".join(known_types())
        raise InvalidInput(
            f"unknown provider type {config.provider_type!r}; known: {known}", field="provider_type"
        )
    for option in config.options:
        if option not in kind.options:
            raise InvalidInput(
                f"`{option}` is not an option of {config.provider_type}", field=f"options.{option}"
            )
    return kind.factory(config, http, cache or FragmentCache())


def config_of(
    provider_type: str,
    base_url: str | None,
    secrets: ProviderSecrets,
    options: ProviderOptions,
    environment: Mapping[str, str],
) -> ProviderConfig:
    """What a provider's driver is made from.

    Args:
        environment: where the vendor's key is looked for when the provider has none of its own. It belongs to
            the vendor's own address: it is never sent anywhere else.
    """
    key = secrets.api_key
    if key is None and base_url is None:
        key = vendor_key(provider_type, environment)
    told: JsonObject = msgspec.to_builtins(options)
    if secrets.headers:
        told["headers"] = secrets.headers
    return ProviderConfig(provider_type, base_url, key, told)


class StoredProvider(Protocol):
    """What a driver is made for: the row of a provider. `updated_at` changes whenever the provider does."""

    @property
    def id(self) -> ProviderId: ...

    @property
    def provider_type(self) -> str: ...

    @property
    def base_url(self) -> str | None: ...

    @property
    def updated_at(self) -> Micros: ...

    def option_struct(self) -> ProviderOptions: ...


class DriverPool:
    """The drivers of a process. They share one connection pool and one memory of encoded messages.

    Args:
        environment: where vendors' keys are looked for when a provider has none of its own.
        http: the connection pool; a new one if none is given.
        cache: the encoded messages; a new one if none is given.

    Attributes:
        http: the connection pool.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        http: Http | None = None,
        cache: FragmentCache | None = None,
    ) -> None:
        self.http = http or Http()
        self._environment = environment
        self._cache = cache or FragmentCache()
        self._drivers: dict[ProviderId, tuple[Micros, Driver]] = {}

    def known_types(self) -> tuple[str, ...]:
        """The types of provider that there are drivers for."""
        return known_types()

    def environment_key(self, provider_type: str) -> bool:
        """Whether the environment holds a key of that vendor."""
        return vendor_key(provider_type, self._environment) is not None

    def driver_for(self, provider: StoredProvider, secrets: ProviderSecrets) -> Driver:
        """The driver of a provider, made anew when the provider has changed.

        Raises:
            InvalidInput: as `make_driver`.
        """
        known = self._drivers.get(provider.id)
        if known is not None and known[0] == provider.updated_at:
            return known[1]
        config = config_of(
            provider.provider_type, provider.base_url, secrets, provider.option_struct(), self._environment
        )
        driver = make_driver(config, self.http, self._cache)
        self._drivers.pop(provider.id, None)
        self._drivers[provider.id] = (provider.updated_at, driver)
        if len(self._drivers) > MAX_DRIVERS:
            del self._drivers[next(iter(self._drivers))]
        return driver

    async def close(self) -> None:
        """Forget all drivers and close their connections."""
        self._drivers.clear()
        await self.http.close()
