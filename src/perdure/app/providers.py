"""Providers and models."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from perdure.app.services import App
from perdure.domain.accounts import Caller, require
from perdure.domain.errors import InvalidInput
from perdure.domain.links import AllowedAction
from perdure.domain.providers import CreateModel, CreateProvider, Model, Provider, UpdateModel, UpdateProvider
from perdure.domain.times import maybe_rfc3339, to_rfc3339
from perdure.store.accounts import get_organization, set_default_model
from perdure.store.database import Tx
from perdure.store.providers import (
    ModelRow,
    ProviderRow,
    add_model,
    add_provider,
    delete_model,
    delete_provider,
    get_model,
    get_provider,
    list_models,
    list_providers,
    update_model,
    update_provider,
)
from perdure.store.rows import to_json


def to_provider(row: ProviderRow) -> Provider:
    """The row as clients see it: of the key only whether there is one."""
    url = f"/v1/providers/{row.id}"
    return Provider(
        id=row.id, name=row.name, provider_type=row.provider_type, api_key_set=row.api_key is not None, status=row.status,
        created_at=to_rfc3339(row.created_at), updated_at=to_rfc3339(row.updated_at), self_url=url, view_url=url, ui_link=url,
        base_url=row.base_url, last_synced_at=maybe_rfc3339(row.last_synced_at),
        allowed_actions=(
            AllowedAction("self", "GET", url, "get_provider"),
            AllowedAction("update", "PATCH", url, "update_provider"),
            AllowedAction("delete", "DELETE", url, "delete_provider"),
        ),
    )  # fmt: skip


def to_model(row: ModelRow, provider: ProviderRow | None = None) -> Model:
    """The row as clients see it; with its provider's name and kind where that is at hand."""
    url = f"/v1/models/{row.id}"
    return Model(
        id=row.id, model_id=row.model_id, display_name=row.display_name, provider_id=row.provider_id,
        capabilities=row.capability_list(), enabled=bool(row.enabled), is_favorite=bool(row.is_favorite), source=row.source,
        created_at=to_rfc3339(row.created_at), updated_at=to_rfc3339(row.updated_at), self_url=url, view_url=url, ui_link=url,
        healthy=UNSET if provider is None else bool(row.enabled) and provider.status == "active",
        provider_name=UNSET if provider is None else provider.name,
        provider_type=UNSET if provider is None else provider.provider_type,
        allowed_actions=(AllowedAction("self", "GET", url, "get_model"), AllowedAction("delete", "DELETE", url, "delete_model")),
    )  # fmt: skip


def _check_type(app: App, provider_type: str) -> None:
    known = app.drivers.known_types()
    if provider_type not in known:
        raise InvalidInput(
            f"`provider_type` must be one of {', '.join(sorted(known))}", code="unknown_provider_type", field="provider_type"
        )


async def create_provider(app: App, caller: Caller, body: CreateProvider) -> Provider:
    """Register a provider; its key is sealed at once."""
    require(caller, "admin")
    _check_type(app, body.provider_type)
    key = body.api_key or (body.credentials or {}).get("api_key")
    now, provider_id = app.now(), app.new_id("provider")

    async def work(tx: Tx) -> Provider:
        org_id = caller.organization_id
        sealed = None if key is None else await app.vault.seal(tx, org_id, key, f"provider/{provider_id}")
        row = ProviderRow(provider_id, org_id, body.name, body.provider_type, body.base_url, sealed, "active", None, now, now)
        await add_provider(tx, row)
        return to_provider(row)

    return await app.database.write(work)


async def read_provider(app: App, caller: Caller, provider_id: str) -> Provider:
    """One provider."""
    return to_provider(await app.database.read(lambda tx: get_provider(tx, caller.organization_id, provider_id)))


async def all_providers(app: App, caller: Caller) -> list[Provider]:
    """Every provider, oldest first."""
    return [to_provider(row) for row in await app.database.read(lambda tx: list_providers(tx, caller.organization_id))]


async def change_provider(app: App, caller: Caller, provider_id: str, body: UpdateProvider) -> Provider:
    """Change what the caller named, and nothing else."""
    require(caller, "admin")
    if isinstance(body.provider_type, str):
        _check_type(app, body.provider_type)
    now = app.now()

    async def work(tx: Tx) -> Provider:
        row = await get_provider(tx, caller.organization_id, provider_id)
        changes = {name: getattr(body, name) for name in body.__struct_fields__ if getattr(body, name) is not UNSET}
        if not changes:
            return to_provider(row)
        if changes.get("api_key") is not None:
            changes["api_key"] = await app.vault.seal(tx, row.org_id, changes["api_key"], f"provider/{row.id}")
        changes["updated_at"] = max(now, row.updated_at + 1)
        await update_provider(tx, row.org_id, row.id, changes)
        return to_provider(msgspec.structs.replace(row, **changes))

    return await app.database.write(work)


async def remove_provider(app: App, caller: Caller, provider_id: str) -> None:
    """Delete a provider and its models."""
    require(caller, "admin")
    now = app.now()

    async def work(tx: Tx) -> None:
        row = await get_provider(tx, caller.organization_id, provider_id)
        models = {model.id for model in await list_models(tx, row.org_id, row.id)}
        await delete_provider(tx, row.org_id, row.id)
        await _forget_default(tx, row.org_id, models, now)

    await app.database.write(work)


async def _forget_default(tx: Tx, org_id: str, models: set[str], now: int) -> None:
    organization = await get_organization(tx, org_id)
    if organization is not None and organization.default_model_id in models:
        await set_default_model(tx, org_id, None, now)


async def create_model(app: App, caller: Caller, provider_id: str, body: CreateModel) -> Model:
    """Register a model. The organization's first one becomes its default."""
    require(caller, "admin")
    now = app.now()

    async def work(tx: Tx) -> Model:
        org_id = caller.organization_id
        provider = await get_provider(tx, org_id, provider_id)
        row = ModelRow(
            app.new_id("model"), org_id, provider.id, body.model_id, body.display_name, to_json(body.capabilities),
            int(body.enabled), int(body.is_favorite), "manual", now, now,
        )  # fmt: skip
        await add_model(tx, row)
        organization = await get_organization(tx, org_id)
        if organization is not None and organization.default_model_id is None:
            await set_default_model(tx, org_id, row.id, now)
        return to_model(row)

    return await app.database.write(work)


async def read_model(app: App, caller: Caller, model_id: str) -> Model:
    """One model, with its provider's name and kind."""

    async def work(tx: Tx) -> Model:
        row = await get_model(tx, caller.organization_id, model_id)
        return to_model(row, await get_provider(tx, row.org_id, row.provider_id))

    return await app.database.read(work)


async def all_models(app: App, caller: Caller, provider_id: str | None = None, *, favorites: bool = False) -> list[Model]:
    """Every model (of one provider, if given), oldest first."""

    async def work(tx: Tx) -> list[Model]:
        org_id = caller.organization_id
        if provider_id is not None:
            await get_provider(tx, org_id, provider_id)
        providers = {row.id: row for row in await list_providers(tx, org_id)}
        rows = await list_models(tx, org_id, provider_id)
        return [to_model(row, providers.get(row.provider_id)) for row in rows if row.is_favorite or not favorites]

    return await app.database.read(work)


async def change_model(app: App, caller: Caller, model_id: str, body: UpdateModel) -> Model:
    """Change what the caller named, and nothing else."""
    require(caller, "admin")
    now = app.now()

    async def work(tx: Tx) -> Model:
        row = await get_model(tx, caller.organization_id, model_id)
        changes: dict[str, Any] = {name: getattr(body, name) for name in body.__struct_fields__ if getattr(body, name) is not UNSET}
        if not changes:
            return to_model(row)
        if "capabilities" in changes:
            changes["capabilities"] = to_json(changes["capabilities"])
        for flag in ("enabled", "is_favorite"):
            if flag in changes:
                changes[flag] = int(changes[flag])
        changes["updated_at"] = max(now, row.updated_at + 1)
        await update_model(tx, row.org_id, row.id, changes)
        return to_model(msgspec.structs.replace(row, **changes))

    return await app.database.write(work)


async def remove_model(app: App, caller: Caller, model_id: str) -> None:
    """Delete a model; sessions that name it fall back to the next claim."""
    require(caller, "admin")
    now = app.now()

    async def work(tx: Tx) -> None:
        row = await get_model(tx, caller.organization_id, model_id)
        await delete_model(tx, row.org_id, row.id)
        await _forget_default(tx, row.org_id, {row.id}, now)

    await app.database.write(work)
