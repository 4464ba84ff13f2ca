"""Predefined providers, which the server sets up when it starts.

One, with one model, for each vendor whose key is in the server's environment, and one for the model that
`perdure serve --local-model` runs.
"""

from __future__ import annotations

from msgspec import Struct

from perdure.app.context import App
from perdure.app.models import default_if_none
from perdure.domain.ids import OrgId
from perdure.domain.providers import ProviderOptions
from perdure.llm.vendors import VENDORS
from perdure.store.database import Changes, Tx
from perdure.store.locks import Lock, hold
from perdure.store.providers import (
    ModelRow,
    ProviderRow,
    add_model,
    add_provider,
    list_models,
    list_providers,
    update_provider,
)
from perdure.store.rows import to_json

LOCAL_TYPE = "openai_completions"
"""The type of the local model's provider. No predefined provider of a vendor has it."""


class LocalModel(Struct, frozen=True):
    """A model that this server runs.

    Attributes:
        base_url: where it is served; another port after each start.
        model_id: its name in requests.
        title: its name for people.
    """

    base_url: str
    model_id: str
    title: str


async def add_predefined(app: App, org_id: OrgId) -> list[str]:
    """Add a provider for each vendor whose key is in the environment. Idempotent.

    Skips vendors of which the organization already has a provider. The key is not stored: each model call
    reads it from the environment, and sends it to the vendor's own address only.

    Returns:
        The names of the providers that were added.
    """
    vendors = [vendor for vendor in VENDORS if app.drivers.environment_key(org_id, vendor.provider_type)]
    if not vendors:
        return []
    now = app.now()

    async def work(tx: Tx) -> list[str]:
        await hold(tx, Lock.PREDEFINED)
        present = {row.provider_type for row in await list_providers(tx, org_id)}
        missing = [vendor for vendor in vendors if vendor.provider_type not in present]
        for index, vendor in enumerate(missing):
            # Lists are sorted by age: keep this order.
            provider = _provider(app, org_id, vendor.name, vendor.provider_type, now + index)
            await _add(app, tx, provider, vendor.model_id, vendor.model_name)
        return [vendor.name for vendor in missing]

    return await app.database.write(work)


async def set_local_model(app: App, org_id: OrgId, local: LocalModel | None) -> None:
    """Set up the provider of the model that this server runs; without one, disable an earlier start's.

    Idempotent. The model becomes the organization's default if that has none.
    """
    now = app.now()
    if local is None and await app.database.read(lambda tx: _local_model(tx, org_id)) is None:
        return

    async def work(tx: Tx) -> None:
        await hold(tx, Lock.PREDEFINED)
        found = await _local_model(tx, org_id)
        if found is None:
            if local is not None:
                provider = _provider(app, org_id, "Local model", LOCAL_TYPE, now, local.base_url)
                await _add(app, tx, provider, local.model_id, local.title)
            return
        model, provider = found
        changes: Changes = {"status": "disabled"}
        if local is not None:
            changes = {"status": "active", "base_url": local.base_url}
            await default_if_none(tx, org_id, model.id, now)
        changes["updated_at"] = max(now, provider.updated_at + 1)
        await update_provider(tx, org_id, provider.id, changes)

    await app.database.write(work)


async def _local_model(tx: Tx, org_id: OrgId) -> tuple[ModelRow, ProviderRow] | None:
    """Return the model that an earlier start with a local model set up."""
    providers = {row.id: row for row in await list_providers(tx, org_id) if row.provider_type == LOCAL_TYPE}
    for model in await list_models(tx, org_id) if providers else ():
        if model.source == "predefined" and model.provider_id in providers:
            return model, providers[model.provider_id]
    return None


def _provider(
    app: App, org_id: OrgId, name: str, provider_type: str, now: int, base_url: str | None = None
) -> ProviderRow:
    return ProviderRow(
        id=app.new_id("provider"),
        org_id=org_id,
        name=name,
        provider_type=provider_type,
        base_url=base_url,
        secrets=None,
        api_key_set=0,
        options=to_json(ProviderOptions()),
        header_names="[]",
        trace=None,
        status="active",
        last_synced_at=None,
        created_at=now,
        updated_at=now,
    )


async def _add(app: App, tx: Tx, provider: ProviderRow, model_id: str, title: str) -> None:
    """Add a provider with one model, which becomes the organization's default if that has none."""
    await add_provider(tx, provider)
    model = ModelRow(
        id=app.new_id("model"),
        org_id=provider.org_id,
        provider_id=provider.id,
        model_id=model_id,
        display_name=title,
        capabilities="[]",
        enabled=1,
        is_favorite=0,
        source="predefined",
        context_tokens=None,
        stale_since=None,
        created_at=provider.created_at,
        updated_at=provider.created_at,
    )
    await add_model(tx, model)
    await default_if_none(tx, provider.org_id, model.id, provider.created_at)
