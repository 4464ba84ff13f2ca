"""Predefined providers: one, with one model, for each vendor whose key is in the server's environment."""

from __future__ import annotations

from perdure.app.context import App
from perdure.app.providers import default_if_none
from perdure.domain.ids import OrgId
from perdure.domain.providers import ProviderOptions
from perdure.llm.vendors import VENDORS, Vendor
from perdure.store.database import Tx
from perdure.store.locks import Lock, hold
from perdure.store.providers import ModelRow, ProviderRow, add_model, add_provider, list_providers
from perdure.store.rows import to_json


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
            await _add(app, tx, org_id, vendor, now + index)  # lists are sorted by age: keep this order
        return [vendor.name for vendor in missing]

    return await app.database.write(work)


async def _add(app: App, tx: Tx, org_id: OrgId, vendor: Vendor, now: int) -> None:
    provider = ProviderRow(
        id=app.new_id("provider"),
        org_id=org_id,
        name=vendor.name,
        provider_type=vendor.provider_type,
        base_url=None,
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
    await add_provider(tx, provider)
    model = ModelRow(
        id=app.new_id("model"),
        org_id=org_id,
        provider_id=provider.id,
        model_id=vendor.model_id,
        display_name=vendor.model_name,
        capabilities="[]",
        enabled=1,
        is_favorite=0,
        source="predefined",
        context_tokens=None,
        stale_since=None,
        created_at=now,
        updated_at=now,
    )
    await add_model(tx, model)
    await default_if_none(tx, org_id, model.id, now)
