"""Synchronization of models with their provider's own list."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from perdure.app.context import App
from perdure.app.models import default_if_none
from perdure.domain.accounts import Caller, require
from perdure.domain.errors import InvalidInput, ModelError
from perdure.domain.ids import ModelId, ProviderId
from perdure.domain.providers import ProviderSecrets, SyncedModels, SyncNotSupported
from perdure.domain.times import Micros
from perdure.llm.driver import ListedModel
from perdure.llm.model_table import converses, described
from perdure.llm.registry import KINDS
from perdure.llm.vendors import preferred_model
from perdure.store.database import Changes, Tx
from perdure.store.providers import (
    ModelRow,
    ProviderRow,
    add_models,
    get_provider,
    list_models,
    open_secrets,
    refresh_models,
    update_provider,
)
from perdure.store.rows import to_json

MAX_MODELS = 2_000
"""The most models taken from one list; the largest gateways list about a thousand."""

MAX_NAME = 200
"""The most characters of a model's name; models with longer names are skipped."""

_FIXABLE = {
    "provider_auth": ("api_key", "the provider refused the key"),
    "quota_exceeded": ("api_key", "the provider's quota is used up"),
    "invalid_model_request": ("base_url", "the provider refused to list its models"),
}
"""Errors that the caller can fix: the code, the field to change, and the message."""


async def sync_models(app: App, caller: Caller, provider_id: ProviderId) -> SyncedModels | SyncNotSupported:
    """Fetch a provider's list of models: add new models, update known ones, mark missing ones as stale.

    Stale models stay, but lists hide them. Models that users registered themselves never become stale.

    Raises:
        InvalidInput: the provider refuses, and the caller can fix the reason.
        ModelError: the provider is unreachable, or its answer cannot be read.
    """
    require(caller, "admin")

    async def read_provider(tx: Tx) -> tuple[ProviderRow, ProviderSecrets]:
        row = await get_provider(tx, caller.organization_id, provider_id)
        return row, await open_secrets(app.vault, tx, row)

    row, secrets = await app.database.read(read_provider)
    kind = KINDS.get(row.provider_type)
    if kind is None or not kind.lists_models:
        return SyncNotSupported()
    try:
        listed = await app.drivers.driver_for(row, secrets).list_models()
    except ModelError as error:
        raise _fixable(error) from None
    named = {model.model_id: model for model in listed[:MAX_MODELS] if _is_name(model.model_id)}
    now = app.now()

    async def work(tx: Tx) -> SyncedModels:
        provider = await get_provider(tx, row.org_id, row.id, lock=True)
        changes = _compare(app, provider, await list_models(tx, row.org_id, row.id), named, now)
        if changes.new:
            await add_models(tx, changes.new)
        if changes.changed:
            await refresh_models(tx, changes.changed)
        synced: Changes = {"last_synced_at": now, "updated_at": max(now, provider.updated_at + 1)}
        await update_provider(tx, row.org_id, row.id, synced)
        if changes.default is not None:
            await default_if_none(tx, row.org_id, changes.default, now)
        return SyncedModels(len(changes.new), changes.updated, changes.stale)

    return await app.database.write(work)


def _fixable(error: ModelError) -> Exception:
    if error.code == "model_not_found" or error.status in {404, 405}:
        return InvalidInput(
            f"the provider's address has no list of models: {error.message}",
            code="models_not_listed",
            field="base_url",
        )
    field, reason = _FIXABLE.get(error.code, (None, ""))
    return (
        error if field is None else InvalidInput(f"{reason}: {error.message}", code=error.code, field=field)
    )


def _is_name(name: str) -> bool:
    return len(name) <= MAX_NAME and name.isprintable() and name == name.strip() and _is_text(name)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Changes(Struct, frozen=True):
    """The result of comparing the known models with a provider's list.

    Attributes:
        new: models to insert.
        changed: known models to update, with their new values.
        updated: the number of known models about which the list has new data.
        stale: the number of discovered models that the list does not contain.
        default: the model for an organization that has no default.
    """

    new: list[ModelRow]
    changed: list[ModelRow]
    updated: int
    stale: int
    default: ModelId | None


def _compare(
    app: App, provider: ProviderRow, known: list[ModelRow], named: dict[str, ListedModel], now: Micros
) -> _Changes:
    changed: list[ModelRow] = []
    stale = updated = 0
    for row in known:
        listed = named.get(row.model_id)
        if listed is not None:
            fresh = _refreshed(row, listed, now)
            if fresh is not row:
                changed.append(fresh)
                updated += 1
        elif row.source == "discovered":
            stale += 1
            if row.stale_since is None:
                changed.append(
                    msgspec.structs.replace(row, stale_since=now, updated_at=max(now, row.updated_at + 1))
                )
    have = {row.model_id for row in known}
    unknown = [model for model in named.values() if model.model_id not in have]
    # One microsecond apart, so that our lists, which are sorted by age, keep the provider's order.
    new = [_discovered(app, provider, model, now + index) for index, model in enumerate(unknown)]
    return _Changes(new, changed, updated, stale, _default([*known, *new], named, provider.provider_type))


def _refreshed(row: ModelRow, listed: ListedModel, now: Micros) -> ModelRow:
    """Return the row with the data of the list; a display name that users set stays."""
    untitled = row.source == "discovered" and row.display_name == row.model_id
    title = (
        listed.display_name
        if untitled and listed.display_name and _is_name(listed.display_name)
        else row.display_name
    )
    context = listed.context_tokens or row.context_tokens
    if (title, context, None) == (row.display_name, row.context_tokens, row.stale_since):
        return row
    return msgspec.structs.replace(
        row,
        display_name=title,
        context_tokens=context,
        stale_since=None,
        updated_at=max(now, row.updated_at + 1),
    )


def _discovered(app: App, provider: ProviderRow, listed: ListedModel, now: Micros) -> ModelRow:
    """Return the row of a new model, disabled if its name says that it is not for conversations."""
    title = listed.display_name if listed.display_name and _is_name(listed.display_name) else listed.model_id
    profile = described(listed.model_id)
    abilities = (
        ()
        if profile is None
        else tuple(
            ability
            for ability, supported in (
                ("tools", profile.tool_call),
                ("vision", profile.attachment),
                ("reasoning", profile.reasoning),
            )
            if supported
        )
    )
    return ModelRow(
        id=app.new_id("model"),
        org_id=provider.org_id,
        provider_id=provider.id,
        model_id=listed.model_id,
        display_name=title,
        capabilities=to_json(abilities),
        enabled=int(converses(listed.model_id)),
        is_favorite=0,
        source="discovered",
        context_tokens=listed.context_tokens,
        stale_since=None,
        created_at=now,
        updated_at=now,
    )


def _default(rows: list[ModelRow], named: dict[str, ListedModel], provider_type: str) -> ModelId | None:
    """Return the default model for an organization that has none: the only usable one, or the preferred."""
    usable = [row for row in rows if row.enabled and row.model_id in named]
    if len(usable) == 1:
        return usable[0].id
    return next((row.id for row in usable if row.model_id == preferred_model(provider_type)), None)
