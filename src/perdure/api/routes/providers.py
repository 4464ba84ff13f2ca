"""Routes of providers and models."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from perdure.api.kernel.http import Call, Route
from perdure.app import model_sync
from perdure.app import providers as use
from perdure.domain.ids import Prefix
from perdure.domain.paging import Listing
from perdure.domain.providers import (
    CreateModel,
    CreateProvider,
    Model,
    ModelSource,
    Provider,
    ProvidersConfig,
    SyncedModels,
    SyncNotSupported,
    UpdateModel,
    UpdateProvider,
)
from perdure.domain.resources import ResourceConfig

PROVIDER: dict[str, Prefix] = {"id": "provider"}
MODEL: dict[str, Prefix] = {"id": "model"}
OWNER: dict[str, Prefix] = {"provider_id": "provider"}


_INCLUDE_STALE = Meta(description="Whether to include models that their provider no longer lists.")


class ListModels(Struct, frozen=True):
    """Query of the list of models."""

    source: Annotated[
        ModelSource | None, Meta(description="Return only models that became known in this way.")
    ] = None
    include_stale: Annotated[bool, _INCLUDE_STALE] = False
    favorites_only: Annotated[bool, Meta(description="Whether to return favorites only.")] = False


class ListProviderModels(Struct, frozen=True):
    """Query of the list of a provider's models."""

    include_stale: Annotated[bool, _INCLUDE_STALE] = False


async def create_provider(call: Call) -> Provider:
    return await use.create_provider(call.app, call.caller, call.body)


async def list_providers(call: Call) -> Listing[Provider]:
    return Listing(tuple(await use.all_providers(call.app, call.caller)))


async def get_provider(call: Call) -> Provider:
    return await use.read_provider(call.app, call.caller, call.params["id"])


async def update_provider(call: Call) -> Provider:
    return await use.change_provider(call.app, call.caller, call.params["id"], call.body)


async def delete_provider(call: Call) -> None:
    await use.remove_provider(call.app, call.caller, call.params["id"])


async def provider_config(call: Call) -> ProvidersConfig:
    return use.providers_config(call.app, call.caller)


async def sync_models(call: Call) -> SyncedModels | SyncNotSupported:
    return await model_sync.sync_models(call.app, call.caller, call.params["id"])


async def model_config(call: Call) -> ResourceConfig:
    return ResourceConfig(use.policies(call.caller, "model"))


async def create_model(call: Call) -> Model:
    return await use.create_model(call.app, call.caller, call.params["provider_id"], call.body)


async def list_provider_models(call: Call) -> Listing[Model]:
    query: ListProviderModels = call.query
    return Listing(
        tuple(
            await use.all_models(call.app, call.caller, call.params["provider_id"], stale=query.include_stale)
        )
    )


async def list_all_models(call: Call) -> Listing[Model]:
    query: ListModels = call.query
    found = await use.all_models(
        call.app, call.caller, source=query.source, favorites=query.favorites_only, stale=query.include_stale
    )
    return Listing(tuple(found))


async def get_model(call: Call) -> Model:
    return await use.read_model(call.app, call.caller, call.params["id"])


async def update_model(call: Call) -> Model:
    return await use.change_model(call.app, call.caller, call.params["id"], call.body)


async def delete_model(call: Call) -> None:
    await use.remove_model(call.app, call.caller, call.params["id"])


_PROVIDER: Any = {
    "name": "Local",
    "provider_type": "openai_completions",
    "base_url": "http://127.0.0.1:8080/v1",
    "api_key": "none",
}
_MODEL: Any = {"model_id": "smollm2-135m", "display_name": "SmolLM2 135M"}

ROUTES = (
    Route("POST", "/v1/providers", "create_provider", "Register a provider of models", "providers", create_provider,
          body=CreateProvider, body_example=_PROVIDER, returns=Provider, status=201),
    Route("GET", "/v1/providers", "list_providers", "List providers", "providers", list_providers, returns=Listing[Provider]),
    Route("GET", "/v1/providers/config", "provider_config", "What types of provider need to know, and what the caller may do",
          "providers", provider_config, returns=ProvidersConfig),
    Route("GET", "/v1/providers/{id}", "get_provider", "Get a provider", "providers", get_provider, ids=PROVIDER, returns=Provider,
          errors=(404,)),
    Route("PATCH", "/v1/providers/{id}", "update_provider", "Change a provider; fields that are left out stay", "providers",
          update_provider, ids=PROVIDER, body=UpdateProvider, body_example={"status": "disabled"}, returns=Provider, errors=(404,)),
    Route("DELETE", "/v1/providers/{id}", "delete_provider", "Delete a provider and its models", "providers", delete_provider,
          ids=PROVIDER, status=204, errors=(404,)),
    Route("POST", "/v1/providers/{id}/sync-models", "sync_models", "Read the provider's own list of models", "providers", sync_models,
          ids=PROVIDER, returns=SyncedModels | SyncNotSupported, errors=(404, 502)),
    Route("POST", "/v1/providers/{provider_id}/models", "create_model", "Register a model of a provider", "models", create_model,
          ids=OWNER, body=CreateModel, body_example=_MODEL, returns=Model, status=201, errors=(404,)),
    Route("GET", "/v1/providers/{provider_id}/models", "list_provider_models", "List a provider's models", "models",
          list_provider_models, ids=OWNER, query=ListProviderModels, returns=Listing[Model], errors=(404,)),
    Route("GET", "/v1/models", "list_all_models", "List models", "models", list_all_models, query=ListModels,
          returns=Listing[Model]),
    Route("GET", "/v1/models/config", "model_config", "What the caller may do with models", "models", model_config,
          returns=ResourceConfig),
    Route("GET", "/v1/models/{id}", "get_model", "Get a model", "models", get_model, ids=MODEL, returns=Model, errors=(404,)),
    Route("PATCH", "/v1/models/{id}", "update_model", "Change a model; fields that are left out stay", "models", update_model,
          ids=MODEL, body=UpdateModel, body_example={"is_favorite": True}, returns=Model, errors=(404,)),
    Route("DELETE", "/v1/models/{id}", "delete_model", "Delete a model", "models", delete_model, ids=MODEL, status=204,
          errors=(404,)),
)  # fmt: skip
