"""Model providers and models."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from perdure.domain.ids import ModelId, ProviderId, ProviderIdText
from perdure.domain.model_profiles import ModelProfile, ModelVendor
from perdure.domain.paging import AllowedActions, SelfUrl, UiLink, ViewUrl
from perdure.domain.times import CreatedAt, Timestamp, UpdatedAt
from perdure.domain.visible import LABEL_PATTERN

ProviderStatus = Literal["active", "disabled"]
KeyStatus = Literal["valid", "refused", "unchecked"]
ModelSource = Literal["manual", "discovered", "predefined"]
BaseUrl = Annotated[
    str, Meta(max_length=2048, pattern=r"^https?://[^\s]+$(?!\n)", examples=["https://models.example.com/v1"])
]
ApiKey = Annotated[str, Meta(min_length=1, max_length=4096)]
ProviderType = Annotated[str, Meta(min_length=1, max_length=64, examples=["openai_completions"])]
_LABEL = Meta(extra_json_schema={"pattern": LABEL_PATTERN})
ShortName = Annotated[str, Meta(min_length=1, max_length=200), _LABEL]
ModelName = Annotated[str, Meta(min_length=1, max_length=200, examples=["gpt-5-mini"]), _LABEL]
"""`check_labels` rejects other names, with a clearer error than the pattern."""
Abilities = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...], Meta(max_length=32)]
Credentials = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=4096)]], Meta(max_length=16)
]
HeaderName = Annotated[
    str,
    Meta(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$(?!\n)", examples=["X-Team"]),
]
"""A token as defined in RFC 9110 (5.6.2)."""
HeaderValue = Annotated[str, Meta(min_length=1, max_length=4096, pattern=r"^[\x20-\x7e]+$(?!\n)")]
Headers = Annotated[dict[HeaderName, HeaderValue | None], Meta(max_length=32)]
UrlTemplate = Annotated[
    str,
    Meta(
        max_length=2048,
        pattern=r"^https?://[^\s]+$(?!\n)",
        examples=["https://traces.example.com/{session_id}"],
    ),
]

MAX_HEADERS = 32
"""Maximum number of a provider's additional headers."""


_PROVIDER_LINK = Meta(examples=["/v1/providers/provider_0192f0c1b2a37b5c8d4e5f60718293a4"])
_MODEL_LINK = Meta(examples=["/v1/models/model_0192f0c1b2a37b5c8d4e5f60718293a4"])
_BEARER = Meta(
    description=(
        "`anthropic`, `azure_openai`: whether to send the key as `Authorization: Bearer`, as gateways and"
        " tokens of Entra ID need it."
    )
)
_MAX_TOKENS = Meta(
    description="`anthropic`: the maximum size of an answer in tokens, where the call sets none."
)
_INCLUDE_USAGE = Meta(description="Chat Completions: `false` for servers that reject `stream_options`.")
_MAX_TOKENS_FIELD = Meta(
    description="Chat Completions: the name of the field that limits the size of an answer."
)
_REASONING_CONTENT = Meta(
    description=(
        "Chat Completions: whether to send the reasoning back with messages that contain tool calls,"
        " where host and model name do not tell."
    )
)
_REASONING = Meta(description="`openai`: whether the models can reason, where their names do not tell.")
_REASONING_SUMMARY = Meta(description="`openai`: the kind of readable reasoning summary to request.")
_TIMEOUT_SECONDS = Meta(
    description=(
        "How long a model of this provider may be silent before its first byte and between bytes, in seconds."
        " Default: the server's setting `PERDURE_MODEL_TIMEOUT_SECONDS`."
    )
)
_PROVIDER_NAME = Meta(description="The provider's name, for people.")
_PROVIDER_TYPE = Meta(
    description=(
        "The provider's protocol or vendor, such as `openai`, `anthropic` or `openai_completions`; "
        "`GET /v1/providers/config` lists them all."
    )
)
_BASE_URL = Meta(
    description=(
        "The API's URL. Default: the vendor's own. Every member can read it, so it must contain no secret."
    )
)
_API_KEY = Meta(description="The API key. It cannot be read again.")
_CREDENTIALS = Meta(description="The key by its name in the form of `GET /v1/providers/config`: `api_key`.")
_OPTIONS = Meta(description="More settings for the provider's protocol.")
_TRACE = Meta(description="Links to the vendor's own traces, for people. The server does not fetch them.")
_PROVIDER_STATUS = Meta(description="The provider's status. A `disabled` provider is not used.")
_KEY_STATUS = Meta(
    description=(
        "What the vendor said of the API key when it was last checked: `valid`, `refused`, or `unchecked` if "
        "it was not asked, did not answer, or answers without a key as well. Missing without a key."
    ),
    examples=["valid"],
)
_MODEL_NAME = Meta(description="The vendor's name of the model.")
_MODEL_DISPLAY_NAME = Meta(description="The model's name, for people.")
_ABILITIES = Meta(description="What the model can do, such as `vision`.")
_ENABLED = Meta(description="Whether the model may be used.")
_IS_FAVORITE = Meta(description="Whether the model is marked as a favorite.")
_MODEL_PROVIDER_ID = Meta(description="The provider that serves the model.")


class ProviderTrace(Struct, frozen=True, omit_defaults=False):
    """Links to the vendor's own traces of sessions and calls. The server stores but never fetches them."""

    enabled: Annotated[bool, Meta(description="Whether clients should show the links.")]
    generation_url_template: Annotated[
        UrlTemplate | None, Meta(description="The URL template for the trace of one model call.")
    ] = None
    session_url_template: Annotated[
        UrlTemplate | None, Meta(description="The URL template for the trace of one session.")
    ] = None


class SetProviderOptions(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Options of a provider's driver. An omitted option does not change; `null` removes one."""

    headers: Annotated[
        Headers | None | UnsetType,
        Meta(
            description=(
                "More HTTP headers to send, by name. Their values "
                "cannot be read again. `null` removes a header."
            )
        ),
    ] = UNSET
    bearer: Annotated[bool | None | UnsetType, _BEARER] = UNSET
    max_tokens: Annotated[Annotated[int, Meta(ge=1, le=10_000_000)] | None | UnsetType, _MAX_TOKENS] = UNSET
    include_usage: Annotated[bool | None | UnsetType, _INCLUDE_USAGE] = UNSET
    max_tokens_field: Annotated[
        Literal["max_tokens", "max_completion_tokens"] | None | UnsetType, _MAX_TOKENS_FIELD
    ] = UNSET
    reasoning_content: Annotated[bool | None | UnsetType, _REASONING_CONTENT] = UNSET
    reasoning: Annotated[bool | None | UnsetType, _REASONING] = UNSET
    reasoning_summary: Annotated[
        Literal["auto", "concise", "detailed"] | None | UnsetType, _REASONING_SUMMARY
    ] = UNSET
    timeout_seconds: Annotated[Annotated[int, Meta(ge=1, le=86_400)] | None | UnsetType, _TIMEOUT_SECONDS] = (
        UNSET
    )


class ProviderOptions(Struct, frozen=True, omit_defaults=True):
    """The options of a provider's driver, without the headers."""

    bearer: Annotated[bool | None, _BEARER] = None
    max_tokens: Annotated[int | None, _MAX_TOKENS] = None
    include_usage: Annotated[bool | None, _INCLUDE_USAGE] = None
    max_tokens_field: Annotated[Literal["max_tokens", "max_completion_tokens"] | None, _MAX_TOKENS_FIELD] = (
        None
    )
    reasoning_content: Annotated[bool | None, _REASONING_CONTENT] = None
    reasoning: Annotated[bool | None, _REASONING] = None
    reasoning_summary: Annotated[Literal["auto", "concise", "detailed"] | None, _REASONING_SUMMARY] = None
    timeout_seconds: Annotated[int | None, _TIMEOUT_SECONDS] = None


class ProviderSecrets(Struct, frozen=True, omit_defaults=True):
    """A provider's encrypted values: its key and the values of its headers."""

    api_key: str | None = None
    headers: dict[str, str] = {}


BreakerState = Literal["closed", "open", "half_open"]
_BREAKER = Meta(
    description=(
        "`closed`: calls are made; `open`: calls have failed just now, so fallback models are called first; "
        "`half_open`: the next call tries it again."
    ),
    examples=["closed"],
)


class ModelHealth(Struct, frozen=True, omit_defaults=True):
    """The circuit breaker of a model whose last call was not answered."""

    model_id: Annotated[ModelId, Meta(description="The model's id.")]
    model: Annotated[str, _MODEL_NAME]
    state: Annotated[BreakerState, _BREAKER]
    failures: Annotated[int, Meta(description="The number of failures since the last answer.", examples=[5])]
    error_code: Annotated[
        str, Meta(description="The code of the last failure.", examples=["provider_unavailable"])
    ]
    error: Annotated[str, Meta(description="The last failure, for people.")]
    retry_at: Annotated[Timestamp | None, Meta(description="When an open breaker becomes half-open.")] = None


class ProviderHealth(Struct, frozen=True):
    """What one process of the server has seen of a provider's models since it started."""

    state: Annotated[BreakerState, Meta(description="The worst state of its models.", examples=["closed"])]
    models: Annotated[
        tuple[ModelHealth, ...],
        Meta(description="The models whose last call was not answered.", examples=[[]]),
    ]


class CreateProvider(Struct, frozen=True, omit_defaults=True):
    """The body of `POST /v1/providers`. The key is stored encrypted and cannot be read again."""

    name: Annotated[ShortName, _PROVIDER_NAME]
    provider_type: Annotated[ProviderType, _PROVIDER_TYPE]
    base_url: Annotated[BaseUrl | None, _BASE_URL] = None
    api_key: Annotated[ApiKey | None, _API_KEY] = None
    credentials: Annotated[Credentials | None, _CREDENTIALS] = None
    options: Annotated[SetProviderOptions | None, _OPTIONS] = None
    trace: Annotated[ProviderTrace | None, _TRACE] = None


class UpdateProvider(Struct, frozen=True, omit_defaults=True):
    """The body of `PATCH /v1/providers/{id}`."""

    name: Annotated[ShortName | UnsetType, _PROVIDER_NAME] = UNSET
    provider_type: Annotated[ProviderType | UnsetType, _PROVIDER_TYPE] = UNSET
    base_url: Annotated[BaseUrl | None | UnsetType, _BASE_URL] = UNSET
    api_key: Annotated[ApiKey | None | UnsetType, _API_KEY] = UNSET
    credentials: Annotated[Credentials | None | UnsetType, _CREDENTIALS] = UNSET
    options: Annotated[SetProviderOptions | None | UnsetType, _OPTIONS] = UNSET
    trace: Annotated[ProviderTrace | None | UnsetType, _TRACE] = UNSET
    status: Annotated[ProviderStatus | UnsetType, _PROVIDER_STATUS] = UNSET


class Provider(Struct, frozen=True, omit_defaults=True):
    """A model provider."""

    id: Annotated[ProviderId, Meta(description="The provider's id.")]
    name: Annotated[str, _PROVIDER_NAME, Meta(examples=["Local"])]
    provider_type: Annotated[str, _PROVIDER_TYPE, Meta(examples=["openai_completions"])]
    api_key_set: Annotated[bool, Meta(description="Whether the provider has an API key.", examples=[True])]
    status: Annotated[ProviderStatus, _PROVIDER_STATUS]
    created_at: CreatedAt
    updated_at: UpdatedAt
    self_url: Annotated[SelfUrl, _PROVIDER_LINK]
    view_url: Annotated[ViewUrl, _PROVIDER_LINK]
    ui_link: Annotated[UiLink, _PROVIDER_LINK]
    base_url: Annotated[str | None, _BASE_URL, Meta(examples=["http://127.0.0.1:8080/v1"])] = None
    options: Annotated[ProviderOptions | None, _OPTIONS] = None
    header_names: Annotated[
        tuple[str, ...],
        Meta(description="The names of the additional HTTP headers. Their values are not shown."),
    ] = ()
    trace: Annotated[ProviderTrace | None, _TRACE] = None
    last_synced_at: Annotated[
        Timestamp | None, Meta(description="When the provider's list of models was last read.")
    ] = None
    key_status: Annotated[KeyStatus | None, _KEY_STATUS] = None
    key_checked_at: Annotated[Timestamp | None, Meta(description="When the API key was last checked.")] = None
    health: Annotated[
        ProviderHealth | None,
        Meta(description="The circuit breakers of the provider's models, in the process that answers."),
    ] = None
    allowed_actions: AllowedActions = ()


class CheckCredentials(Struct, frozen=True, omit_defaults=True):
    """The body of `POST /v1/providers/check-credentials`. Nothing of it is stored."""

    provider_type: Annotated[ProviderType, _PROVIDER_TYPE]
    api_key: Annotated[ApiKey, Meta(description="The API key to check.")]
    base_url: Annotated[BaseUrl | None, _BASE_URL] = None
    options: Annotated[SetProviderOptions | None, _OPTIONS] = None


class KeyCheckError(Struct, frozen=True):
    """Why the check of a provider did not succeed."""

    code: Annotated[str, Meta(description="The error's code.", examples=["provider_auth"])]
    message: Annotated[
        str,
        Meta(
            description="The vendor's own words, or what happened. Secrets are redacted.",
            examples=["Incorrect API key provided"],
        ),
    ]


class KeyCheck(Struct, frozen=True, omit_defaults=True):
    """What a provider answers to a request for its list of models."""

    ok: Annotated[
        bool, Meta(description="Whether the provider answered with its list of models.", examples=[True])
    ]
    checked_at: Annotated[Timestamp, Meta(description="When the provider was asked.")]
    latency_ms: Annotated[int, Meta(description="How long the check took, in milliseconds.", examples=[120])]
    key_status: Annotated[KeyStatus | None, _KEY_STATUS] = None
    models: Annotated[
        int | None, Meta(description="The number of models that the provider lists.", examples=[12])
    ] = None
    error: Annotated[
        KeyCheckError | None, Meta(description="Why the check did not succeed, or says nothing of the key.")
    ] = None


class FormField(Struct, frozen=True):
    """A field of a credentials form."""

    name: Annotated[str, Meta(description="The field's name in `credentials`.", examples=["api_key"])]
    label: Annotated[str, Meta(description="The field's label.", examples=["API key"])]
    field_type: Annotated[
        Literal["password", "text", "url"], Meta(description="The type of input.", examples=["password"])
    ]
    required: Annotated[bool, Meta(description="Whether the field is required.", examples=[True])]
    help_text: Annotated[str | None, Meta(description="Help for the person who fills in the form.")] = None
    placeholder: Annotated[str | None, Meta(description="An example value.")] = None


class CredentialForm(Struct, frozen=True):
    """A form for a user to fill in, with instructions in Markdown."""

    fields: Annotated[tuple[FormField, ...], Meta(description="The fields of the form.")]
    instructions_markdown: Annotated[
        str,
        Meta(
            description="How to obtain the credentials, in Markdown.",
            examples=["Create a key at [platform.openai.com](https://platform.openai.com/api-keys)."],
        ),
    ]


class DriverCredentials(Struct, frozen=True):
    """A provider type and the credentials that it needs."""

    driver: Annotated[str, Meta(description="The provider type.", examples=["openai"])]
    credential_schema: Annotated[
        CredentialForm, Meta(description="The form for the provider type's credentials.")
    ]
    supports_oauth: Annotated[bool, Meta(description="Always `false`.", examples=[False])]


class ProvidersConfig(Struct, frozen=True):
    """The supported provider types, and what the caller's role allows."""

    drivers: Annotated[
        tuple[DriverCredentials, ...], Meta(description="The provider types that the server supports.")
    ]
    policies: Annotated[
        dict[str, bool],
        Meta(
            description=(
                "What the caller may do. `provider.manage`: create, change, delete and sync providers."
            ),
            examples=[{"provider.manage": True}],
        ),
    ]


class SyncedModels(Struct, frozen=True, tag_field="status", tag="success"):
    """The result of reading the provider's list of models."""

    created: Annotated[
        int, Meta(description="The number of models that were not known before.", examples=[12])
    ]
    updated: Annotated[int, Meta(description="The number of models that changed.", examples=[3])]
    stale: Annotated[
        int,
        Meta(
            description="The number of models found earlier that the provider no longer lists.",
            examples=[1],
        ),
    ]


class SyncNotSupported(Struct, frozen=True, tag_field="status", tag="not_supported"):
    """The result for a provider type without a list of models."""


class CreateModel(Struct, frozen=True, omit_defaults=True):
    """The body of `POST /v1/providers/{provider_id}/models`. `model_id` is the vendor's name of the model."""

    model_id: Annotated[ModelName, _MODEL_NAME]
    display_name: Annotated[ShortName, _MODEL_DISPLAY_NAME]
    capabilities: Annotated[Abilities, _ABILITIES] = ()
    enabled: Annotated[bool, _ENABLED] = True
    is_favorite: Annotated[bool, _IS_FAVORITE] = False


class UpdateModel(Struct, frozen=True, omit_defaults=True):
    """The body of `PATCH /v1/models/{id}`."""

    model_id: Annotated[ModelName | UnsetType, _MODEL_NAME] = UNSET
    display_name: Annotated[ShortName | UnsetType, _MODEL_DISPLAY_NAME] = UNSET
    provider_id: Annotated[ProviderIdText | UnsetType, _MODEL_PROVIDER_ID] = UNSET
    capabilities: Annotated[Abilities | UnsetType, _ABILITIES] = UNSET
    enabled: Annotated[bool | UnsetType, _ENABLED] = UNSET
    is_favorite: Annotated[bool | UnsetType, _IS_FAVORITE] = UNSET


class Model(Struct, frozen=True, omit_defaults=True):
    """A provider's model."""

    id: Annotated[ModelId, Meta(description="The model's id.")]
    model_id: Annotated[str, _MODEL_NAME, Meta(examples=["smollm2-135m"])]
    display_name: Annotated[str, _MODEL_DISPLAY_NAME, Meta(examples=["SmolLM2 135M"])]
    provider_id: Annotated[ProviderId, _MODEL_PROVIDER_ID]
    capabilities: Annotated[tuple[str, ...], _ABILITIES, Meta(examples=[[]])]
    enabled: Annotated[bool, _ENABLED, Meta(examples=[True])]
    is_favorite: Annotated[bool, _IS_FAVORITE]
    source: Annotated[ModelSource, Meta(description="How the model became known.", examples=["manual"])]
    created_at: CreatedAt
    updated_at: UpdatedAt
    self_url: Annotated[SelfUrl, _MODEL_LINK]
    view_url: Annotated[ViewUrl, _MODEL_LINK]
    ui_link: Annotated[UiLink, _MODEL_LINK]
    healthy: Annotated[
        bool | UnsetType,
        Meta(
            description=(
                "Whether calls can be made: enabled, still listed "
                "by an active provider that has a key if it needs one."
            ),
            examples=[True],
        ),
    ] = UNSET
    provider_name: Annotated[str | UnsetType, _PROVIDER_NAME, Meta(examples=["Local"])] = UNSET
    provider_type: Annotated[str | UnsetType, _PROVIDER_TYPE, Meta(examples=["openai_completions"])] = UNSET
    model_vendor: Annotated[
        ModelVendor | UnsetType,
        Meta(description="The company that made the model, as far as its name tells."),
    ] = UNSET
    profile: Annotated[ModelProfile | UnsetType, Meta(description="What is known about the model.")] = UNSET
    context_tokens: Annotated[
        int | None,
        Meta(
            description="The size of the context window in tokens, according to the provider's list.",
            examples=[8192],
        ),
    ] = None
    stale_since: Annotated[
        Timestamp | None, Meta(description="When the provider was first found to no longer list the model.")
    ] = None
    allowed_actions: AllowedActions = ()
