"""Models by their provider's own list."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from perdure.app.context import App
from perdure.app.providers import default_if_none
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
"""Models taken from one list; the largest gateways name about a thousand."""

MAX_NAME = 200
"""Characters of a model's name; longer ones are left out."""

_MENDABLE = {
    "provider_auth": ("api_key", "the provider refused the key"),
    "quota_exceeded": ("api_key", "the provider's quota is used up"),
    "invalid_model_request": ("base_url", "the provider refused to list its models"),
}
"""What the caller can mend: the field, and words for it."""


async def sync_models(app: App, caller: Caller, provider_id: ProviderId) -> SyncedModels | SyncNotSupported:
    """Ask a provider for its models: add those that are new, and remember which are gone.

    Models that the list does not name are kept, hidden from lists; those that people registered themselves
    are left alone.

    Raises:
        InvalidInput: the provider refuses, and the caller can do something about it.
        ModelError: it cannot be reached, or its answer cannot be read.
    """
    require(caller, "admin")

    async def look(tx: Tx) -> tuple[ProviderRow, ProviderSecrets]:
        row = await get_provider(tx, caller.organization_id, provider_id)
        return row, await open_secrets(app.vault, tx, row)

    row, secrets = await app.database.read(look)
    kind = KINDS.get(row.provider_type)
    if kind is None or not kind.lists_models:
        return SyncNotSupported()
    try:
        listed = await app.drivers.driver_for(row, secrets).list_models()
    except ModelError as error:
        raise _mendable(error) from None
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


def _mendable(error: ModelError) -> Exception:
    if error.code == "model_not_found":
        return InvalidInput(
            f"there is no list of models at this address: {error.message}",
            code="models_not_listed",
            field="base_url",
        )
    field, words = _MENDABLE.get(error.code, (None, ""))
    return error if field is None else InvalidInput(f"{words}: {error.message}", code=error.code, field=field)


def _is_name(name: str) -> bool:
    return len(name) <= MAX_NAME and name.isprintable() and name == name.strip() and _is_text(name)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Changes(Struct, frozen=True):
    """What a list comes to.

    `stale` counts all that it does not name, `updated` those that it told something new about.
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
    # A microsecond apart: lists are by age, and so keep the provider's order.
    new = [_discovered(app, provider, model, now + index) for index, model in enumerate(unknown)]
    return _Changes(new, changed, updated, stale, _default([*known, *new], named, provider.provider_type))


def _refreshed(row: ModelRow, listed: ListedModel, now: Micros) -> ModelRow:
    """The row with what the list tells; a name that people gave it stays."""
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
    """A new model. One that plainly does something else than converse is there, but switched off."""
    title = listed.display_name if listed.display_name and _is_name(listed.display_name) else listed.model_id
    profile = described(listed.model_id)
    abilities = (
        ()
        if profile is None
        else tuple(
            word
            for word, there in (
                ("tools", profile.tool_call),
                ("vision", profile.attachment),
                ("reasoning", profile.reasoning),
            )
            if there
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
    """The model for an organization that has no default.

    The only one there is, or the vendor's that is predefined.
    """
    usable = [row for row in rows if row.enabled and row.model_id in named]
    if len(usable) == 1:
        return usable[0].id
    return next((row.id for row in usable if row.model_id == preferred_model(provider_type)), None)
