"""Model providers: create, list, change and remove them."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from perdure.app.context import App
from perdure.app.idempotency import Once, replay, write_once
from perdure.app.models import forget_default
from perdure.app.provider_keys import Checked, check_new_key, key_columns
from perdure.app.provider_settings import Settings, changed_settings, form_of, settings_of
from perdure.domain.accounts import RANK, Caller, require
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import ProviderId
from perdure.domain.paging import AllowedAction
from perdure.domain.providers import (
    BreakerState,
    CreateProvider,
    DriverCredentials,
    Provider,
    ProviderHealth,
    ProviderOptions,
    ProvidersConfig,
    UpdateProvider,
)
from perdure.domain.times import maybe_rfc3339, to_rfc3339
from perdure.domain.visible import check_labels
from perdure.llm.registry import KINDS
from perdure.store.database import Changes, Tx
from perdure.store.providers import (
    ModelRow,
    ProviderRow,
    add_provider,
    delete_provider,
    get_provider,
    list_models,
    list_providers,
    open_secrets,
    seal_secrets,
    update_provider,
)
from perdure.store.rows import to_json

# --- views --------------------------------------------------------------------


def to_provider(row: ProviderRow) -> Provider:
    """Convert a row to the resource that clients see; of secrets it says only which ones are set.

    A change of a provider closes its circuit breakers.
    """
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
        health=ProviderHealth("closed", ()),
        allowed_actions=(
            AllowedAction("self", "GET", url, "get_provider"),
            AllowedAction("models", "GET", f"{url}/models", "list_provider_models"),
            AllowedAction("check", "POST", f"{url}/check", "check_provider"),
            AllowedAction("update", "PATCH", url, "update_provider"),
            AllowedAction("delete", "DELETE", url, "delete_provider"),
            *((sync,) if kind is not None and kind.lists_models else ()),
        ),
    )


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
    """Read a provider and its health. Raises NotFound."""

    async def work(tx: Tx) -> tuple[ProviderRow, list[ModelRow]]:
        row = await get_provider(tx, caller.organization_id, provider_id)
        return row, await list_models(tx, row.org_id, row.id)

    row, models = await app.database.read(work)
    return _with_health(app, row, models)


async def all_providers(app: App, caller: Caller) -> list[Provider]:
    """List the organization's providers and their health, oldest first."""

    async def work(tx: Tx) -> tuple[list[ProviderRow], list[ModelRow]]:
        org_id = caller.organization_id
        # Without failures, which is usual, the models are not needed.
        models = await list_models(tx, org_id) if app.breakers else []
        return await list_providers(tx, org_id), models

    rows, models = await app.database.read(work)
    return [_with_health(app, row, models) for row in rows]


_SEVERITY: tuple[BreakerState, ...] = ("open", "half_open", "closed")


def _with_health(app: App, row: ProviderRow, models: list[ModelRow]) -> Provider:
    """The provider with what this process has seen of its models."""
    now, version = app.now(), row.updated_at
    seen = (
        app.breakers.health(model.id, version, model.model_id, now)
        for model in models
        if model.provider_id == row.id
    )
    failing = tuple(each for each in seen if each is not None)
    states = {each.state for each in failing}
    worst: BreakerState = next((state for state in _SEVERITY if state in states), "closed")
    return msgspec.structs.replace(to_provider(row), health=ProviderHealth(worst, failing))


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
        await forget_default(tx, row.org_id, models, now)

    await app.database.write(work)
