"""Providers of models, and models."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from perdure.domain.ids import ModelId, ProviderId
from perdure.domain.model_profiles import ModelProfile, ModelVendor
from perdure.domain.paging import AllowedAction
from perdure.domain.times import Timestamp

ProviderStatus = Literal["active", "disabled"]
ModelSource = Literal["manual", "discovered", "predefined"]
BaseUrl = Annotated[
    str, Meta(max_length=2048, pattern=r"^https?://[^\s]+$", examples=["https://models.example.com/v1"])
]
ApiKey = Annotated[str, Meta(min_length=1, max_length=4096)]
ProviderType = Annotated[str, Meta(min_length=1, max_length=64, examples=["openai_completions"])]
ShortName = Annotated[str, Meta(min_length=1, max_length=200)]
ModelName = Annotated[str, Meta(min_length=1, max_length=200, examples=["gpt-5-mini"])]
Abilities = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...], Meta(max_length=32)]
Credentials = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=4096)]], Meta(max_length=16)
]
HeaderName = Annotated[
    str, Meta(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", examples=["X-Team"])
]
"""A token as RFC 9110 (5.6.2) has it."""
HeaderValue = Annotated[str, Meta(min_length=1, max_length=4096, pattern=r"^[\x20-\x7e]+$")]
Headers = Annotated[dict[HeaderName, HeaderValue | None], Meta(max_length=32)]
UrlTemplate = Annotated[
    str,
    Meta(max_length=2048, pattern=r"^https?://[^\s]+$", examples=["https://traces.example.com/{session_id}"]),
]

MAX_HEADERS = 32
"""More headers that a provider may have."""


class ProviderTrace(Struct, frozen=True, omit_defaults=False):
    """Where people find the vendor's own traces of sessions and calls.

    Kept for clients; nothing is fetched from there.
    """

    enabled: bool
    generation_url_template: UrlTemplate | None = None
    session_url_template: UrlTemplate | None = None


class SetProviderOptions(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What else a provider's driver is told. What is left out stays, `null` removes.

    Attributes:
        headers: more HTTP headers, by name. Their values are kept like the key and never shown again.
        bearer: `anthropic`: send the key as `Authorization: Bearer`.
        max_tokens: `anthropic`: the bound on an answer where none is asked for.
        include_usage: `openai_completions`: false for servers that refuse `stream_options`.
        max_tokens_field: `openai_completions`: what the server calls the bound on an answer.
        reasoning_content: `openai_completions`: send thinking back with tool calls.
        reasoning: `openai`: whether the models reason, where their names do not tell.
        reasoning_summary: `openai`: ask for readable reasoning.
    """

    headers: Headers | None | UnsetType = UNSET
    bearer: bool | None | UnsetType = UNSET
    max_tokens: Annotated[int, Meta(ge=1, le=10_000_000)] | None | UnsetType = UNSET
    include_usage: bool | None | UnsetType = UNSET
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None | UnsetType = UNSET
    reasoning_content: bool | None | UnsetType = UNSET
    reasoning: bool | None | UnsetType = UNSET
    reasoning_summary: Literal["auto", "concise", "detailed"] | None | UnsetType = UNSET


class ProviderOptions(Struct, frozen=True, omit_defaults=True):
    """The options that are set, without the headers."""

    bearer: bool | None = None
    max_tokens: int | None = None
    include_usage: bool | None = None
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    reasoning_content: bool | None = None
    reasoning: bool | None = None
    reasoning_summary: Literal["auto", "concise", "detailed"] | None = None


class ProviderSecrets(Struct, frozen=True, omit_defaults=True):
    """What is sealed of a provider: its key, and the values of its headers."""

    api_key: str | None = None
    headers: dict[str, str] = {}


class CreateProvider(Struct, frozen=True, omit_defaults=True):
    """The body of `POST /v1/providers`. The key is kept encrypted and never shown again."""

    name: ShortName
    provider_type: ProviderType
    base_url: BaseUrl | None = None
    api_key: ApiKey | None = None
    credentials: Credentials | None = None
    options: SetProviderOptions | None = None
    trace: ProviderTrace | None = None


class UpdateProvider(Struct, frozen=True, omit_defaults=True):
    """The body of `PATCH /v1/providers/{id}`."""

    name: ShortName | UnsetType = UNSET
    provider_type: ProviderType | UnsetType = UNSET
    base_url: BaseUrl | None | UnsetType = UNSET
    api_key: ApiKey | None | UnsetType = UNSET
    credentials: Credentials | None | UnsetType = UNSET
    options: SetProviderOptions | None | UnsetType = UNSET
    trace: ProviderTrace | None | UnsetType = UNSET
    status: ProviderStatus | UnsetType = UNSET


class Provider(Struct, frozen=True, omit_defaults=True):
    """A provider, as clients see it."""

    id: ProviderId
    name: str
    provider_type: str
    api_key_set: bool
    status: ProviderStatus
    created_at: Timestamp
    updated_at: Timestamp
    self_url: str
    view_url: str
    ui_link: str
    base_url: str | None = None
    options: ProviderOptions | None = None
    header_names: tuple[str, ...] = ()
    trace: ProviderTrace | None = None
    last_synced_at: Timestamp | None = None
    allowed_actions: tuple[AllowedAction, ...] = ()


class FormField(Struct, frozen=True):
    """A field of a form for credentials."""

    name: str
    label: str
    field_type: Literal["password", "text", "url"]
    required: bool
    help_text: str | None = None
    placeholder: str | None = None


class CredentialForm(Struct, frozen=True):
    """What a person has to fill in, with instructions in Markdown."""

    fields: tuple[FormField, ...]
    instructions_markdown: str


class DriverCredentials(Struct, frozen=True):
    """A type of provider, and what it needs to know."""

    driver: str
    credential_schema: CredentialForm
    supports_oauth: bool


class ProvidersConfig(Struct, frozen=True):
    """The types of provider that there are, and what the caller's role allows."""

    drivers: tuple[DriverCredentials, ...]
    policies: dict[str, bool]


class SyncedModels(Struct, frozen=True, tag_field="status", tag="success"):
    """The provider's list was read.

    Attributes:
        created: models that were not known here.
        updated: models about which something changed.
        stale: models found earlier that the list no longer names.
    """

    created: int
    updated: int
    stale: int


class SyncNotSupported(Struct, frozen=True, tag_field="status", tag="not_supported"):
    """This type of provider has no list of models."""


class CreateModel(Struct, frozen=True, omit_defaults=True):
    """The body of `POST /v1/providers/{provider_id}/models`. `model_id` is the vendor's name of the model."""

    model_id: ModelName
    display_name: ShortName
    capabilities: Abilities = ()
    enabled: bool = True
    is_favorite: bool = False


class UpdateModel(Struct, frozen=True, omit_defaults=True):
    """The body of `PATCH /v1/models/{id}`."""

    model_id: ModelName | UnsetType = UNSET
    display_name: ShortName | UnsetType = UNSET
    provider_id: str | UnsetType = UNSET
    capabilities: Abilities | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    is_favorite: bool | UnsetType = UNSET


class Model(Struct, frozen=True, omit_defaults=True):
    """A model, as clients see it.

    Attributes:
        healthy: whether calls can be made: it is enabled, the provider names it and is active and has a key
            if it needs one.
        context_tokens: the context window by the provider's own list.
        stale_since: when the provider's list was first found not to name it any more.
    """

    id: ModelId
    model_id: str
    display_name: str
    provider_id: ProviderId
    capabilities: tuple[str, ...]
    enabled: bool
    is_favorite: bool
    source: ModelSource
    created_at: Timestamp
    updated_at: Timestamp
    self_url: str
    view_url: str
    ui_link: str
    healthy: bool | UnsetType = UNSET
    provider_name: str | UnsetType = UNSET
    provider_type: str | UnsetType = UNSET
    model_vendor: ModelVendor | UnsetType = UNSET
    profile: ModelProfile | UnsetType = UNSET
    context_tokens: int | None = None
    stale_since: Timestamp | None = None
    allowed_actions: tuple[AllowedAction, ...] = ()
