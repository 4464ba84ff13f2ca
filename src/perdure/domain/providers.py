"""Providers of models, and models."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from perdure.domain.links import AllowedAction
from perdure.domain.times import Timestamp

ProviderStatus = Literal["active", "disabled"]
ModelSource = Literal["manual", "discovered", "predefined"]
BaseUrl = Annotated[str, Meta(max_length=2048, pattern=r"^https?://[^\s]+$", examples=["https://models.example.com/v1"])]
ApiKey = Annotated[str, Meta(min_length=1, max_length=4096)]
ProviderType = Annotated[str, Meta(min_length=1, max_length=64, examples=["openai_completions"])]
ShortName = Annotated[str, Meta(min_length=1, max_length=200)]
ModelName = Annotated[str, Meta(min_length=1, max_length=200, examples=["gpt-5-mini"])]
Abilities = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...], Meta(max_length=32)]


class CreateProvider(Struct, frozen=True, omit_defaults=True):
    """The body of `POST /v1/providers`. The key is kept encrypted and never shown again."""

    name: ShortName
    provider_type: ProviderType
    base_url: BaseUrl | None = None
    api_key: ApiKey | None = None
    credentials: dict[str, str] | None = None


class UpdateProvider(Struct, frozen=True, omit_defaults=True):
    """The body of `PATCH /v1/providers/{id}`."""

    name: ShortName | UnsetType = UNSET
    provider_type: ProviderType | UnsetType = UNSET
    base_url: BaseUrl | None | UnsetType = UNSET
    api_key: ApiKey | None | UnsetType = UNSET
    status: ProviderStatus | UnsetType = UNSET


class Provider(Struct, frozen=True, omit_defaults=True):
    """A provider, as clients see it."""

    id: str
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
    last_synced_at: Timestamp | None = None
    allowed_actions: tuple[AllowedAction, ...] = ()


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
    capabilities: Abilities | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    is_favorite: bool | UnsetType = UNSET


class Model(Struct, frozen=True, omit_defaults=True):
    """A model, as clients see it."""

    id: str
    model_id: str
    display_name: str
    provider_id: str
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
    allowed_actions: tuple[AllowedAction, ...] = ()
