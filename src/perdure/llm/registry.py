"""Map provider types to drivers, and pool the drivers of a process.

A new driver takes one file and one line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

import msgspec
from msgspec import Struct

from perdure.domain.errors import InvalidInput
from perdure.domain.ids import OrgId, ProviderId
from perdure.domain.messages import JsonObject
from perdure.domain.model_profiles import Modality, ModelProfile, ModelVendor
from perdure.domain.providers import ProviderOptions, ProviderSecrets
from perdure.domain.times import Micros
from perdure.llm import carried
from perdure.llm.anthropic import AnthropicDriver
from perdure.llm.carried import Carried
from perdure.llm.dialects import NAMED, Dialect
from perdure.llm.driver import Driver, ProviderConfig
from perdure.llm.fragment_cache import FragmentCache
from perdure.llm.http import Http
from perdure.llm.model_table import vendor_of_model
from perdure.llm.openai_chat import OpenAiChatDriver
from perdure.llm.openai_responses import OpenAiResponsesDriver
from perdure.llm.simulated import SimulatedDriver
from perdure.llm.vendors import ANTHROPIC, OPENAI

Factory = Callable[[ProviderConfig, Http, FragmentCache], Driver]

MAX_DRIVERS = 1_000
"""Maximum number of pooled drivers; one takes a few kilobytes."""


class DriverKind(Struct, frozen=True):
    """A provider type.

    Attributes:
        title: the display name.
        environment: the variable from which the vendor's own tools read the key.
        key_needed: whether to ask users for a key. Most private servers need none.
        takes_key: whether it can have a key.
        own_address: whether it is called without a `base_url`.
        open_list: whether it lists its models to everybody, so that the list says nothing of the key.
        options: the options that it accepts, see `ProviderOptions`.
        help: how to get a key, in Markdown.
        vendor: who makes the models, if one vendor makes all of them.
        carried: what the driver can send besides text, if the model reads it.
    """

    factory: Factory
    title: str
    environment: str | None = None
    key_needed: bool = False
    takes_key: bool = True
    own_address: bool = True
    open_list: bool = False
    lists_models: bool = True
    options: frozenset[str] = frozenset()
    help: str = ""
    vendor: ModelVendor | None = None
    carried: Carried = Carried()


def _gemini(config: ProviderConfig, http: Http, cache: FragmentCache) -> Driver:
    from perdure.llm.gemini import GeminiDriver  # only a server with such a provider needs it

    return GeminiDriver(config, http, cache)


def _bedrock(config: ProviderConfig, http: Http, cache: FragmentCache) -> Driver:
    from perdure.llm.bedrock import BedrockDriver  # only a server with such a provider needs it

    return BedrockDriver(config, http, cache)


_CHAT_OPTIONS = frozenset(
    {"headers", "timeout_seconds", "include_usage", "max_tokens_field", "reasoning_content"}
)


def _chat_kind(dialect: Dialect) -> DriverKind:
    """Describe the provider type of a dialect of Chat Completions."""
    return DriverKind(
        OpenAiChatDriver,
        dialect.title,
        dialect.key_variable,
        key_needed=dialect.key_variable is not None or dialect.base_url is None,
        own_address=dialect.base_url is not None,
        open_list=dialect.open_list,
        options=_CHAT_OPTIONS | ({"bearer"} if dialect.deployments else set()),
        help=dialect.help,
    )


KINDS: Mapping[str, DriverKind] = MappingProxyType(
    {
        "openai": DriverKind(
            OpenAiResponsesDriver,
            "OpenAI",
            OPENAI.key_variable,
            key_needed=True,
            options=frozenset({"headers", "timeout_seconds", "reasoning", "reasoning_summary"}),
            help=(
                "Create a key at [platform.openai.com](https://platform.openai.com/api-keys)."
                " Without `base_url`, calls go to OpenAI."
            ),
        ),
        "openai_completions": DriverKind(
            OpenAiChatDriver,
            "OpenAI Chat Completions",
            OPENAI.key_variable,
            options=_CHAT_OPTIONS,
            help=(
                "For any server that speaks Chat Completions: enter its `base_url`, which usually ends in"
                " `/v1`, and a key if the server needs one. Without `base_url`, calls go to OpenAI."
            ),
            carried=carried.WITH_SOUND,
        ),
        "anthropic": DriverKind(
            AnthropicDriver,
            "Anthropic",
            ANTHROPIC.key_variable,
            key_needed=True,
            options=frozenset({"headers", "timeout_seconds", "bearer", "max_tokens"}),
            help=(
                "Create a key at [platform.claude.com](https://platform.claude.com/settings/keys)."
                " Without `base_url`, calls go to Anthropic."
            ),
            carried=carried.ANTHROPIC,
        ),
        "llmsim": DriverKind(
            lambda config, http, cache: SimulatedDriver(),
            "Simulated model",
            takes_key=False,
            lists_models=False,
            help="A simulation for tests: it needs no key and no options.",
            vendor="llmsim",
            carried=carried.ONLY_IMAGES,
        ),
        "gemini": DriverKind(
            _gemini,
            "Google Gemini",
            "GEMINI_API_KEY",
            key_needed=True,
            options=frozenset({"headers", "timeout_seconds", "bearer", "max_tokens"}),
            help=(
                "Create a key at [aistudio.google.com](https://aistudio.google.com/apikey)."
                " Without `base_url`, calls go to Google."
            ),
            vendor="google",
            carried=carried.GEMINI,
        ),
        "bedrock": DriverKind(
            _bedrock,
            "Amazon Bedrock",
            "AWS_BEARER_TOKEN_BEDROCK",
            key_needed=True,
            options=frozenset({"headers", "timeout_seconds", "max_tokens"}),
            help=(
                "Create a Bedrock API key in the [AWS console](https://console.aws.amazon.com/bedrock/), or"
                " enter an access key as `KEY_ID:SECRET` or `KEY_ID:SECRET:SESSION_TOKEN`. Without"
                " `base_url`, calls go to us-east-1; other regions have the address"
                " `https://bedrock-runtime.REGION.amazonaws.com`."
            ),
            carried=carried.BEDROCK,
        ),
        **{dialect.name: _chat_kind(dialect) for dialect in NAMED},
    }
)


def known_types() -> tuple[str, ...]:
    """Return the provider types that have a driver."""
    return tuple(KINDS)


def vendor_key(provider_type: str, environment: Mapping[str, str]) -> str | None:
    """Return a provider type's key from the environment; None if it is unset or empty."""
    kind = KINDS.get(provider_type)
    return (
        None
        if kind is None or kind.environment is None
        else environment.get(kind.environment, "").strip() or None
    )


def carried_to(provider_type: str, profile: ModelProfile | None) -> Carried:
    """Return what a model gets as it is: what it reads, as far as the protocol can carry it.

    A model of which nothing is known may read images: its server refuses them if not.
    """
    kind = KINDS.get(provider_type)
    known = None if profile is None else profile.modalities
    reads: tuple[Modality, ...] = ("image",) if known is None else known.input
    carried_by = Carried() if kind is None else kind.carried
    return msgspec.structs.replace(carried_by, kinds=carried_by.kinds & frozenset(reads))


def vendor_of(provider_type: str, model: str) -> ModelVendor | None:
    """Return who makes a provider's model, or None if unknown."""
    kind = KINDS.get(provider_type)
    return vendor_of_model(model) if kind is None or kind.vendor is None else kind.vendor


def make_driver(config: ProviderConfig, http: Http, cache: FragmentCache | None = None) -> Driver:
    """Create a driver for this configuration.

    This makes no connection yet, so callers also use it to validate a configuration.

    Args:
        config: type, base URL, key and options.
        http: the process's connection pool.
        cache: the process's cache of encoded messages; a new one by default.

    Raises:
        InvalidInput: the type is unknown, or the base URL, the key or an option is invalid; `field` says
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
            options = ", ".join(sorted(kind.options)) or "none"
            raise InvalidInput(
                f"`{option}` is not an option of {config.provider_type}; its options: {options}",
                field=f"options.{option}",
            )
    return kind.factory(config, http, cache or FragmentCache())


def config_of(
    provider_type: str,
    base_url: str | None,
    secrets: ProviderSecrets,
    options: ProviderOptions,
    environment: Mapping[str, str],
) -> ProviderConfig:
    """Build the configuration of a provider's driver.

    Args:
        provider_type: the provider's type.
        base_url: the provider's base URL; None for the vendor's own.
        secrets: the provider's key and secret headers.
        options: the provider's options.
        environment: environment variables, from which the vendor's key is read if the provider has none. It
            is sent to the vendor's own base URL only. Empty for all organizations but the first.
    """
    key = secrets.api_key
    if key is None and base_url is None:
        key = vendor_key(provider_type, environment)
    driver_options: JsonObject = msgspec.to_builtins(options)
    if secrets.headers:
        driver_options["headers"] = secrets.headers
    return ProviderConfig(provider_type, base_url, key, driver_options)


def _check_key(config: ProviderConfig) -> None:
    """Refuse to call a vendor's own address without a key: the answer would not say what is missing here."""
    kind = KINDS.get(config.provider_type)
    headers = config.options.get("headers")
    if kind is None or kind.environment is None or config.base_url is not None or config.api_key or headers:
        return
    raise InvalidInput(
        f"there is no API key: set the provider's `api_key` (if the server has a {kind.environment}, it "
        "serves only the organization that the server was set up with)",
        code="api_key_missing",
        field="api_key",
    )


class StoredProvider(Protocol):
    """A provider's row, for which a driver is created. `updated_at` changes with every change of the row."""

    @property
    def id(self) -> ProviderId: ...

    @property
    def org_id(self) -> OrgId: ...

    @property
    def provider_type(self) -> str: ...

    @property
    def base_url(self) -> str | None: ...

    @property
    def updated_at(self) -> Micros: ...

    def option_struct(self) -> ProviderOptions: ...


class DriverPool:
    """The drivers of a process. They share one connection pool and one cache of encoded messages.

    Args:
        environment: environment variables, from which a vendor's key is read if a provider has none.
        http: the connection pool; a new one by default.
        cache: the cache of encoded messages; a new one by default.

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
        self._environment_for: OrgId | None = None
        self._cache = cache or FragmentCache()
        self._drivers: dict[ProviderId, tuple[Micros, Driver]] = {}

    def known_types(self) -> tuple[str, ...]:
        """Return the provider types that have a driver."""
        return known_types()

    def environment_key(self, org_id: OrgId, provider_type: str) -> bool:
        """Whether the environment holds a key for this provider type that serves the organization."""
        return vendor_key(provider_type, self._environment_of(org_id)) is not None

    def _environment_of(self, org_id: OrgId) -> Mapping[str, str]:
        return self._environment if org_id == self._environment_for else {}

    def lend_environment(self, org_id: OrgId) -> None:
        """Let the environment's keys serve this organization, and no other.

        It is the first one, which the server was set up with. Others have keys of their own.
        """
        self._environment_for = org_id

    def driver_for(self, provider: StoredProvider, secrets: ProviderSecrets) -> Driver:
        """Return the driver of a provider; create a new one if the provider has changed.

        Raises:
            InvalidInput: as `make_driver`; also if the vendor needs a key and there is none.
        """
        pooled = self._drivers.get(provider.id)
        if pooled is not None and pooled[0] == provider.updated_at:
            return pooled[1]
        config = self.config_for(provider, secrets)
        _check_key(config)
        driver = make_driver(config, self.http, self._cache)
        self._drivers.pop(provider.id, None)
        self._drivers[provider.id] = (provider.updated_at, driver)
        if len(self._drivers) > MAX_DRIVERS:
            del self._drivers[next(iter(self._drivers))]
        return driver

    def config_for(self, provider: StoredProvider, secrets: ProviderSecrets) -> ProviderConfig:
        """Return the configuration of a provider's driver, with its key."""
        return config_of(
            provider.provider_type,
            provider.base_url,
            secrets,
            provider.option_struct(),
            self._environment_of(provider.org_id),
        )

    def unpooled(self, config: ProviderConfig) -> Driver:
        """Create a driver for one use, such as a check of new settings. Raises InvalidInput."""
        return make_driver(config, self.http, self._cache)

    async def close(self) -> None:
        """Drop all drivers and close their connections."""
        self._drivers.clear()
        await self.http.close()
