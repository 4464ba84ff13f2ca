"""Providers and models."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, Struct

from perdure.app.context import App
from perdure.app.idempotency import Once, replay, write_once
from perdure.app.provider_keys import Checked, check_new_key, key_columns
from perdure.app.provider_settings import Settings, changed_settings, form_of, settings_of
from perdure.domain.accounts import RANK, Caller, require
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import ModelId, OrgId, ProviderId, check_id
from perdure.domain.model_profiles import ModelProfile
from perdure.domain.paging import AllowedAction
from perdure.domain.providers import (
    CreateModel,
    CreateProvider,
    DriverCredentials,
    Model,
    ModelSource,
    Provider,
    ProviderOptions,
    ProvidersConfig,
    UpdateModel,
    UpdateProvider,
)
from perdure.domain.times import maybe_rfc3339, to_rfc3339
from perdure.domain.visible import check_labels
from perdure.llm.catalog import ServedModel
from perdure.llm.registry import KINDS, vendor_of
from perdure.store.accounts import get_organization, set_default_model
from perdure.store.database import Changes, Tx
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
    open_secrets,
    seal_secrets,
    update_model,
    update_provider,
)
from perdure.store.rows import to_json

# --- views --------------------------------------------------------------------


def to_provider(row: ProviderRow) -> Provider:
    """Convert a row to the resource that clients see; of secrets it says only which ones are set."""
    url = f"/v1/providers/{row.id}"
    options = row.option_struct()
    kind = KINDS.get(row.provider_type)
    sync = AllowedAction("sync", "POST", f"{url}/sync-models", "sync_models")
    return Provider(
        id=row.id,
        name=row.name,
        provider_type=row.provider_type,
        api_key_set=bool(row.api_key_set),
        status=row.status,
        created_at=to_rfc3339(row.created_at),
        updated_at=to_rfc3339(row.updated_at),
        self_url=url,
        view_url=url,
        ui_link=url,
        base_url=row.base_url,
        options=None if options == ProviderOptions() else options,
        header_names=row.header_list(),
        trace=row.trace_struct(),
        last_synced_at=maybe_rfc3339(row.last_synced_at),
        key_status=(row.key_status or "unchecked") if row.api_key_set else None,
        key_checked_at=maybe_rfc3339(row.key_checked_at),
        allowed_actions=(
            AllowedAction("self", "GET", url, "get_provider"),
            AllowedAction("models", "GET", f"{url}/models", "list_provider_models"),
            AllowedAction("check", "POST", f"{url}/check", "check_provider"),
            AllowedAction("update", "PATCH", url, "update_provider"),
            AllowedAction("delete", "DELETE", url, "delete_provider"),
            *((sync,) if kind is not None and kind.lists_models else ()),
        ),
    )


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


# --- providers ----------------------------------------------------------------


def _check_type(app: App, provider_type: str) -> None:
    known = app.drivers.known_types()
    if provider_type not in known:
        raise InvalidInput(
            f"`provider_type` must be one of {', '.join(sorted(known))}",
            code="unknown_provider_type",
            field="provider_type",
        )


def providers_config(app: App, caller: Caller) -> ProvidersConfig:
    """Return the types of provider, the credentials that each needs, and the caller's permissions."""

    def credentials(name: str) -> DriverCredentials:
        present = app.drivers.environment_key(caller.organization_id, name)
        return DriverCredentials(name, form_of(KINDS[name], in_environment=present), False)

    drivers = tuple(map(credentials, app.drivers.known_types()))
    return ProvidersConfig(drivers, policies(caller, "provider"))


def policies(caller: Caller, kind: str) -> dict[str, bool]:
    """Return the caller's permissions for providers or models, which only admins may manage."""
    return {f"{kind}.manage": RANK[caller.role] >= RANK["admin"]}


async def create_provider(
    app: App, caller: Caller, body: CreateProvider, once: Once | None = None, *, check: bool = True
) -> Provider:
    """Register a provider; its secrets are stored encrypted.

    Args:
        check: whether to ask the vendor about the key.

    Raises:
        InvalidInput: a setting is not valid, or the vendor refuses the key.
    """
    require(caller, "admin")
    _check_type(app, body.provider_type)
    check_labels(body, "name", "base_url")
    settings = settings_of(body)
    checked: Checked | None = None
    if check and settings.secrets.api_key is not None:
        await replay(app, once)
        checked = await check_new_key(app, settings)
    now, provider_id = app.now(), app.new_id("provider")

    async def work(tx: Tx) -> Provider:
        org_id = caller.organization_id
        sealed = await seal_secrets(app.vault, tx, org_id, provider_id, settings.secrets)
        row = ProviderRow(
            id=provider_id,
            org_id=org_id,
            name=body.name,
            provider_type=body.provider_type,
            base_url=body.base_url,
            secrets=sealed.secrets,
            api_key_set=sealed.api_key_set,
            header_names=sealed.header_names,
            options=to_json(settings.options),
            trace=None if body.trace is None else to_json(body.trace),
            status="active",
            last_synced_at=None,
            created_at=now,
            updated_at=now,
        )
        row = msgspec.structs.replace(row, **key_columns(None, settings, checked))
        await add_provider(tx, row)
        return to_provider(row)

    return await write_once(app, once, work)


async def read_provider(app: App, caller: Caller, provider_id: ProviderId) -> Provider:
    """Read a provider. Raises NotFound."""
    return to_provider(
        await app.database.read(lambda tx: get_provider(tx, caller.organization_id, provider_id))
    )


async def all_providers(app: App, caller: Caller) -> list[Provider]:
    """List the organization's providers, oldest first."""
    return [
        to_provider(row)
        for row in await app.database.read(lambda tx: list_providers(tx, caller.organization_id))
    ]


async def change_provider(
    app: App, caller: Caller, provider_id: ProviderId, body: UpdateProvider, *, check: bool = True
) -> Provider:
    """Change the fields of a provider that the body contains; admins only.

    Args:
        check: whether to ask the vendor about the key, if the body contains one.

    Raises:
        InvalidInput: a setting is not valid, or the vendor refuses the key.
    """
    require(caller, "admin")
    if isinstance(body.provider_type, str):
        _check_type(app, body.provider_type)
    now = app.now()
    changed = {name for name in body.__struct_fields__ if getattr(body, name) is not UNSET}
    check_labels(body, "name", "base_url")
    checked: Checked | None = None
    if check and (isinstance(body.api_key, str) or body.credentials):
        after = await _after_change(app, caller, provider_id, body)
        if after.secrets.api_key is not None:
            checked = await check_new_key(app, after)

    async def work(tx: Tx) -> Provider:
        row = await get_provider(tx, caller.organization_id, provider_id, lock=True)
        if not changed:
            return to_provider(row)
        changes: Changes = {
            name: getattr(body, name) for name in changed & {"name", "provider_type", "base_url", "status"}
        }
        if "trace" in changed:
            changes["trace"] = None if body.trace is None else to_json(body.trace)
        if changed - {"name", "status", "trace"}:
            before = await _settings(app, tx, row)
            after = changed_settings(before, body)
            changes["options"] = to_json(after.options)
            changes |= key_columns(before, after, checked)
            if after.secrets != before.secrets:
                sealed = await seal_secrets(app.vault, tx, row.org_id, row.id, after.secrets)
                changes |= sealed.columns()
        changes["updated_at"] = max(now, row.updated_at + 1)
        await update_provider(tx, row.org_id, row.id, changes)
        return to_provider(msgspec.structs.replace(row, **changes))

    return await app.database.write(work)


async def _settings(app: App, tx: Tx, row: ProviderRow) -> Settings:
    secrets = await open_secrets(app.vault, tx, row)
    return Settings(row.provider_type, row.base_url, secrets, row.option_struct())


async def _after_change(app: App, caller: Caller, provider_id: ProviderId, body: UpdateProvider) -> Settings:
    """Return the settings that a change would store. Raises InvalidInput, NotFound."""

    async def read(tx: Tx) -> Settings:
        return await _settings(app, tx, await get_provider(tx, caller.organization_id, provider_id))

    return changed_settings(await app.database.read(read), body)


async def remove_provider(app: App, caller: Caller, provider_id: ProviderId) -> None:
    """Delete a provider and its models; admins only."""
    require(caller, "admin")
    now = app.now()

    async def work(tx: Tx) -> None:
        row = await get_provider(tx, caller.organization_id, provider_id, lock=True)
        models = {model.id for model in await list_models(tx, row.org_id, row.id)}
        await delete_provider(tx, row.org_id, row.id)
        await _forget_default(tx, row.org_id, models, now)

    await app.database.write(work)


# --- models -------------------------------------------------------------------


async def _forget_default(tx: Tx, org_id: OrgId, models: set[ModelId], now: int) -> None:
    organization = await get_organization(tx, org_id)
    if organization is not None and organization.default_model_id in models:
        await set_default_model(tx, org_id, None, now)


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
        await _forget_default(tx, row.org_id, {row.id}, now)

    await app.database.write(work)
