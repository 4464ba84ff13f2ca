"""Routes of providers and models."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.api.kernel.call import Call
from perdure.api.kernel.route import route
from perdure.app import model_sync
from perdure.app import models as use_models
from perdure.app import provider_keys as use_keys
from perdure.app import providers as use
from perdure.domain.ids import ModelId, ProviderId
from perdure.domain.paging import Listing
from perdure.domain.providers import (
    CheckCredentials,
    CreateModel,
    CreateProvider,
    KeyCheck,
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

_INCLUDE_STALE = Meta(description="Whether to include models that their provider no longer lists.")


class ListModels(Struct, frozen=True):
    """Query parameters of the list of models."""

    source: Annotated[
        ModelSource | None, Meta(description="Return only models that were registered in this way.")
    ] = None
    include_stale: Annotated[bool, _INCLUDE_STALE] = False
    favorites_only: Annotated[bool, Meta(description="Whether to return favorites only.")] = False


class ListProviderModels(Struct, frozen=True):
    """Query parameters of the list of a provider's models."""

    include_stale: Annotated[bool, _INCLUDE_STALE] = False


class SaveProvider(Struct, frozen=True):
    """Query parameters of requests that store a provider."""

    check: Annotated[
        bool, Meta(description="Whether to ask the vendor about the API key in the body before it is stored.")
    ] = True


_PROVIDER = {
    "name": "Local",
    "provider_type": "openai_completions",
    "base_url": "http://127.0.0.1:8080/v1",
    "api_key": "none",
}
_CREDENTIALS = {
    "provider_type": "openai_completions",
    "base_url": "http://127.0.0.1:8080/v1",
    "api_key": "none",
}
_MODEL = {"model_id": "smollm2-135m", "display_name": "SmolLM2 135M"}


@route("POST", "/v1/providers", "providers", status=201, body_example=_PROVIDER)
async def create_provider(call: Call, query: SaveProvider, body: CreateProvider) -> Provider:
    """Register a model provider.

    If the body has an API key, the vendor is asked for its list of models, for at most 5 seconds. If it
    refuses the key, nothing is stored (400, `provider_key_refused`). If it cannot be reached or its answer is
    unclear, `key_status` is `unchecked`. The API key and the headers are stored encrypted and never returned.
    Requires the role `admin`.
    """
    return await use.create_provider(call.app, call.caller, body, call.once, check=query.check)


@route("GET", "/v1/providers", "providers")
async def list_providers(call: Call) -> Listing[Provider]:
    """List providers.

    Oldest first, without their API keys.
    """
    return Listing(tuple(await use.all_providers(call.app, call.caller)))


@route("GET", "/v1/providers/{id}", "providers", errors=(404,))
async def get_provider(call: Call, id_: ProviderId) -> Provider:
    """Get a provider.

    Its API key and headers are never returned.
    """
    return await use.read_provider(call.app, call.caller, id_)


@route("PATCH", "/v1/providers/{id}", "providers", errors=(404,), body_example={"status": "disabled"})
async def update_provider(call: Call, id_: ProviderId, query: SaveProvider, body: UpdateProvider) -> Provider:
    """Update a provider.

    Omitted fields keep their values, even inside `options`; `null` clears a field. An API key in the body is
    checked as for a new provider. To change the host of `base_url`, send the API key and the headers again,
    or `null`: a stored secret is never sent to a new host. Requires the role `admin`.
    """
    return await use.change_provider(call.app, call.caller, id_, body, check=query.check)


@route("DELETE", "/v1/providers/{id}", "providers", errors=(404,))
async def delete_provider(call: Call, id_: ProviderId) -> None:
    """Delete a provider and its models.

    Sessions that use one of these models fall back to the next configured one: of the session, the agent, the
    harness or the organization. Requires the role `admin`.
    """
    await use.remove_provider(call.app, call.caller, id_)


@route("GET", "/v1/providers/config", "providers")
async def provider_config(call: Call) -> ProvidersConfig:
    """List the provider types and the caller's permissions.

    Returns the credentials that each type takes, and what the caller's role allows.
    """
    return use.providers_config(call.app, call.caller)


@route("POST", "/v1/providers/check-credentials", "providers", status=200, body_example=_CREDENTIALS)
async def check_provider_credentials(call: Call, body: CheckCredentials) -> KeyCheck:
    """Check credentials before they are stored.

    Asks the vendor for its list of models, for at most 5 seconds, and stores nothing. The status is 200 also
    if the vendor refuses: `key_status` and `error` say what it answered. Requires the role `admin`.
    """
    return await use_keys.check_credentials(call.app, call.caller, body)


@route("POST", "/v1/providers/{id}/check", "providers", status=200, errors=(404,))
async def check_provider(call: Call, id_: ProviderId) -> KeyCheck:
    """Check a provider.

    Asks for its list of models, for at most 5 seconds, with the stored API key, and stores the `key_status`.
    The status is 200 also if the vendor refuses. Requires the role `admin`.
    """
    return await use_keys.check_provider(call.app, call.caller, id_)


@route("POST", "/v1/providers/{id}/sync-models", "providers", errors=(404, 502))
async def sync_models(call: Call, id_: ProviderId) -> SyncedModels | SyncNotSupported:
    """Import the provider's list of models.

    Registers new models (disabled if they are not chat models) and updates the context window of known ones.
    Imported models that the provider no longer lists become stale: lists hide them until they are listed
    again. Deletes nothing. 400 if the provider refuses and the caller can fix the cause, 502 if the
    provider cannot be reached. Requires the role `admin`.
    """
    return await model_sync.sync_models(call.app, call.caller, id_)


@route("GET", "/v1/models/config", "models")
async def model_config(call: Call) -> ResourceConfig:
    """Get the caller's permissions on models.

    This depends on the caller's role in the organization.
    """
    return ResourceConfig(use.policies(call.caller, "model"))


@route("POST", "/v1/providers/{provider_id}/models", "models", status=201, errors=(404,), body_example=_MODEL)
async def create_model(call: Call, provider_id: ProviderId, body: CreateModel) -> Model:
    """Register a model of a provider.

    The first registered model becomes the organization's default. Requires the role `admin`.
    """
    return await use_models.create_model(call.app, call.caller, provider_id, body, call.once)


@route("GET", "/v1/providers/{provider_id}/models", "models", errors=(404,))
async def list_provider_models(
    call: Call, provider_id: ProviderId, query: ListProviderModels
) -> Listing[Model]:
    """List a provider's models.

    Oldest first, with their known limits, abilities and prices.
    """
    return Listing(
        tuple(await use_models.all_models(call.app, call.caller, provider_id, stale=query.include_stale))
    )


@route("GET", "/v1/models", "models")
async def list_all_models(call: Call, query: ListModels) -> Listing[Model]:
    """List the models of all providers.

    Oldest first, with their known limits, abilities and prices.
    """
    models = await use_models.all_models(
        call.app, call.caller, source=query.source, favorites=query.favorites_only, stale=query.include_stale
    )
    return Listing(tuple(models))


@route("GET", "/v1/models/{id}", "models", errors=(404,))
async def get_model(call: Call, id_: ModelId) -> Model:
    """Get a model.

    Returns its provider and its known limits, abilities and prices.
    """
    return await use_models.read_model(call.app, call.caller, id_)


@route("PATCH", "/v1/models/{id}", "models", errors=(404,), body_example={"is_favorite": True})
async def update_model(call: Call, id_: ModelId, body: UpdateModel) -> Model:
    """Update a model.

    Omitted fields keep their values. Requires the role `admin`.
    """
    return await use_models.change_model(call.app, call.caller, id_, body)


@route("DELETE", "/v1/models/{id}", "models", errors=(404,))
async def delete_model(call: Call, id_: ModelId) -> None:
    """Delete a model.

    Sessions that use it fall back to the next configured model: of the session, the agent, the harness or the
    organization. Requires the role `admin`.
    """
    await use_models.remove_model(call.app, call.caller, id_)


ROUTES = (
    create_provider,
    list_providers,
    provider_config,
    get_provider,
    update_provider,
    delete_provider,
    check_provider_credentials,
    check_provider,
    sync_models,
    create_model,
    list_provider_models,
    list_all_models,
    model_config,
    get_model,
    update_model,
    delete_model,
)
