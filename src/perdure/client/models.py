"""Providers and their models."""

from __future__ import annotations

from typing import Any

from perdure.client import routes
from perdure.client.routes import Caller, listed, path_of
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

_PROVIDER = "/v1/providers/{}"
_MODEL = "/v1/models/{}"
_UNCHECKED = (("check", False),)


class ModelMethods(Caller):
    """The client's methods about providers and models."""

    create_provider = routes.creates("/v1/providers", CreateProvider, Provider, "Register a model provider.")
    create_provider_unchecked = routes.creates(
        "/v1/providers",
        CreateProvider,
        Provider,
        "Register a model provider without asking its vendor about the key.",
        _UNCHECKED,
    )
    get_provider = routes.reads(_PROVIDER, Provider, "Return a provider, without its key.")
    list_providers = routes.lists("/v1/providers", Provider, "List the organization's providers.")
    update_provider = routes.updates(_PROVIDER, UpdateProvider, Provider, "Change a provider.")
    update_provider_unchecked = routes.updates(
        _PROVIDER,
        UpdateProvider,
        Provider,
        "Change a provider without asking its vendor about the key.",
        _UNCHECKED,
    )
    delete_provider = routes.sends("DELETE", _PROVIDER, "Remove a provider and its models.")
    check_provider = routes.acts(
        "POST",
        f"{_PROVIDER}/check",
        KeyCheck,
        "Ask a provider for its models, and store what it says of the key.",
    )
    check_provider_credentials = routes.posts(
        "/v1/providers/check-credentials",
        CheckCredentials,
        KeyCheck,
        "Check credentials that are not stored.",
    )
    get_provider_config = routes.fetches(
        "/v1/providers/config", ProvidersConfig, "Return the provider types and the credentials they take."
    )

    async def sync_models(self, provider_id: str) -> SyncedModels | SyncNotSupported:
        """Sync with the provider's own list of models: register new models, hide the ones that are gone."""
        kind: Any = SyncedModels | SyncNotSupported
        result: SyncedModels | SyncNotSupported = await self.call(
            "POST", path_of(f"{_PROVIDER}/sync-models", provider_id), kind
        )
        return result

    create_model = routes.creates_under(
        f"{_PROVIDER}/models", CreateModel, Model, "Register a provider's model."
    )
    get_model = routes.reads(_MODEL, Model, "Return a model.")
    update_model = routes.updates(_MODEL, UpdateModel, Model, "Change a model.")
    delete_model = routes.sends("DELETE", _MODEL, "Remove a model.")
    get_model_config = routes.fetches(
        "/v1/models/config", ResourceConfig, "Return what the caller may do with models."
    )

    async def list_provider_models(
        self, provider_id: str, *, include_stale: bool | None = None
    ) -> tuple[Model, ...]:
        """List a provider's models; with `include_stale`, also those that it no longer lists."""
        params = [("include_stale", include_stale)]
        return await listed(self, path_of(f"{_PROVIDER}/models", provider_id), Model, params)

    async def list_models(
        self,
        *,
        source: ModelSource | None = None,
        include_stale: bool | None = None,
        favorites_only: bool | None = None,
    ) -> tuple[Model, ...]:
        """List the models of all providers.

        Args:
            source: only models that were registered in this way.
            include_stale: also models that their provider no longer lists.
            favorites_only: only favorites.
        """
        params = [
            ("source", source),
            ("include_stale", include_stale),
            ("favorites_only", favorites_only),
        ]
        return await listed(self, "/v1/models", Model, params)
