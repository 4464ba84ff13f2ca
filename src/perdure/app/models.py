"""Models: register, list, change and remove them."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, Struct

from perdure.app.context import App
from perdure.app.idempotency import Once, write_once
from perdure.domain.accounts import Caller, require
from perdure.domain.ids import ModelId, OrgId, ProviderId, check_id
from perdure.domain.model_profiles import ModelProfile
from perdure.domain.paging import AllowedAction
from perdure.domain.providers import (
    CreateModel,
    Model,
    ModelSource,
    UpdateModel,
)
from perdure.domain.times import maybe_rfc3339, to_rfc3339
from perdure.domain.visible import check_labels
from perdure.llm.catalog import ServedModel
from perdure.llm.registry import KINDS, vendor_of
from perdure.store.accounts import get_organization, set_default_model, update_organization
from perdure.store.database import Changes, Tx
from perdure.store.providers import (
    ModelRow,
    ProviderRow,
    add_model,
    delete_model,
    get_model,
    get_provider,
    list_models,
    list_providers,
    update_model,
)
from perdure.store.rows import to_json


class ModelDetails(Struct, frozen=True):
    """A model's provider, whether that has the key that it needs, and the model's profile if known."""

    provider: ProviderRow
    has_key: bool
    profile: ModelProfile | None = None


def to_model(row: ModelRow, details: ModelDetails | None = None) -> Model:
    """Convert a row to the resource that clients see; without `details` some fields are missing."""
    url = f"/v1/models/{row.id}"
    model = Model(
        id=row.id,
        model_id=row.model_id,
        display_name=row.display_name,
        provider_id=row.provider_id,
        capabilities=row.capability_list(),
        enabled=bool(row.enabled),
        is_favorite=bool(row.is_favorite),
        source=row.source,
        created_at=to_rfc3339(row.created_at),
        updated_at=to_rfc3339(row.updated_at),
        self_url=url,
        view_url=url,
        ui_link=url,
        context_tokens=row.context_tokens,
        stale_since=maybe_rfc3339(row.stale_since),
        allowed_actions=(
            AllowedAction("self", "GET", url, "get_model"),
            AllowedAction("update", "PATCH", url, "update_model"),
            AllowedAction("delete", "DELETE", url, "delete_model"),
        ),
    )
    if details is None:
        return model
    provider = details.provider
    vendor = vendor_of(provider.provider_type, row.model_id)
    usable = bool(row.enabled) and row.stale_since is None and provider.status == "active" and details.has_key
    return msgspec.structs.replace(
        model,
        healthy=usable,
        provider_name=provider.name,
        provider_type=provider.provider_type,
        model_vendor=UNSET if vendor is None else vendor,
        profile=UNSET if details.profile is None else details.profile,
    )


def _has_key(app: App, row: ProviderRow) -> bool:
    """Return whether the provider has the key that it needs.

    The vendor's own address needs one; a provider with a `base_url` may work without.
    """
    kind = KINDS.get(row.provider_type)
    if row.api_key_set or row.base_url is not None or kind is None or kind.environment is None:
        return True
    return app.drivers.environment_key(row.org_id, row.provider_type)


async def _to_models(app: App, rows: list[tuple[ModelRow, ProviderRow]]) -> list[Model]:
    served = [ServedModel(provider.provider_type, provider.base_url, row.model_id) for row, provider in rows]
    profiles = await app.catalog.profiles(served)
    return [
        to_model(row, ModelDetails(provider, _has_key(app, provider), profiles[place]))
        for (row, provider), place in zip(rows, served, strict=True)
    ]


async def forget_default(tx: Tx, org_id: OrgId, models: set[ModelId], now: int) -> None:
    """Remove models from the organization's default and fallbacks."""
    organization = await get_organization(tx, org_id)
    if organization is None:
        return
    if organization.default_model_id in models:
        await set_default_model(tx, org_id, None, now)
    fallbacks = organization.fallback_ids()
    if not models.isdisjoint(fallbacks):
        left = [each for each in fallbacks if each not in models]
        await update_organization(tx, org_id, {"fallback_models": to_json(left)})


async def default_if_none(tx: Tx, org_id: OrgId, model_id: ModelId, now: int) -> None:
    """Make a model the organization's default if it has none."""
    organization = await get_organization(tx, org_id)
    if organization is not None and organization.default_model_id is None:
        await set_default_model(tx, org_id, model_id, now)


async def create_model(
    app: App, caller: Caller, provider_id: ProviderId, body: CreateModel, once: Once | None = None
) -> Model:
    """Register a model, which becomes the organization's default if it has none; admins only."""
    require(caller, "admin")
    check_labels(body, "model_id", "display_name")
    now = app.now()

    async def work(tx: Tx) -> Model:
        provider = await get_provider(tx, caller.organization_id, provider_id, lock=True)
        row = ModelRow(
            id=app.new_id("model"),
            org_id=provider.org_id,
            provider_id=provider.id,
            model_id=body.model_id,
            display_name=body.display_name,
            capabilities=to_json(body.capabilities),
            enabled=int(body.enabled),
            is_favorite=int(body.is_favorite),
            source="manual",
            context_tokens=None,
            stale_since=None,
            created_at=now,
            updated_at=now,
        )
        await add_model(tx, row)
        await default_if_none(tx, row.org_id, row.id, now)
        return to_model(row)

    return await write_once(app, once, work)


async def read_model(app: App, caller: Caller, model_id: ModelId) -> Model:
    """Read a model, with its provider and its profile. Raises NotFound."""

    async def work(tx: Tx) -> tuple[ModelRow, ProviderRow]:
        row = await get_model(tx, caller.organization_id, model_id)
        return row, await get_provider(tx, row.org_id, row.provider_id)

    return (await _to_models(app, [await app.database.read(work)]))[0]


async def all_models(
    app: App,
    caller: Caller,
    provider_id: ProviderId | None = None,
    *,
    source: ModelSource | None = None,
    favorites: bool = False,
    stale: bool = False,
) -> list[Model]:
    """List the organization's models, or one provider's, oldest first.

    Args:
        provider_id: the provider; None for all.
        source: only models from this source.
        favorites: only favorites.
        stale: whether to include models that their provider no longer lists.
    """

    async def work(tx: Tx) -> list[tuple[ModelRow, ProviderRow]]:
        org_id = caller.organization_id
        if provider_id is not None:
            await get_provider(tx, org_id, provider_id)
        providers = {row.id: row for row in await list_providers(tx, org_id)}
        rows = await list_models(tx, org_id, provider_id)
        return [(row, providers[row.provider_id]) for row in rows if row.provider_id in providers]

    def matches(row: ModelRow) -> bool:
        return (
            source in (None, row.source)
            and (stale or row.stale_since is None)
            and (not favorites or bool(row.is_favorite))
        )

    return await _to_models(
        app, [pair for pair in await app.database.read(work, long=True) if matches(pair[0])]
    )


async def change_model(app: App, caller: Caller, model_id: ModelId, body: UpdateModel) -> Model:
    """Change the fields of a model that the body contains; admins only."""
    require(caller, "admin")
    check_labels(body, "model_id", "display_name")
    now = app.now()
    changes: Changes = {}
    if body.model_id is not UNSET:
        changes["model_id"] = body.model_id
    if body.display_name is not UNSET:
        changes["display_name"] = body.display_name
    moved_to: ProviderId | None = None
    if body.provider_id is not UNSET:
        moved_to = changes["provider_id"] = check_id(body.provider_id, "provider", "provider_id")
    if body.capabilities is not UNSET:
        changes["capabilities"] = to_json(body.capabilities)
    if body.enabled is not UNSET:
        changes["enabled"] = int(body.enabled)
    if body.is_favorite is not UNSET:
        changes["is_favorite"] = int(body.is_favorite)

    async def work(tx: Tx) -> Model:
        row = await get_model(tx, caller.organization_id, model_id)
        if not changes:
            return to_model(row)
        if moved_to is not None:
            await get_provider(tx, row.org_id, moved_to, lock=True)
        sets: Changes = {**changes, "updated_at": max(now, row.updated_at + 1)}
        identity = (changes.get("provider_id", row.provider_id), changes.get("model_id", row.model_id))
        if identity != (row.provider_id, row.model_id):
            # These came from the provider's list, for another model.
            sets |= {"context_tokens": None, "stale_since": None}
        await update_model(tx, row.org_id, row.id, sets)
        return to_model(msgspec.structs.replace(row, **sets))

    return await app.database.write(work)


async def remove_model(app: App, caller: Caller, model_id: ModelId) -> None:
    """Delete a model; sessions that use it fall back to their agent's or the default model. Admins only."""
    require(caller, "admin")
    now = app.now()

    async def work(tx: Tx) -> None:
        row = await get_model(tx, caller.organization_id, model_id)
        await delete_model(tx, row.org_id, row.id)
        await forget_default(tx, row.org_id, {row.id}, now)

    await app.database.write(work)
