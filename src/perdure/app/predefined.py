"""What the server's environment sets up: a provider for each vendor whose key is in it, with one model."""

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
    """Make a provider for each vendor whose key is in the environment. Idempotent.

    A type of which the organization has a provider is left alone. The key is not stored: each call takes it
    from the environment, and it goes to the vendor's own address only.

    Returns:
        the names of the providers that were made.
    """
    wanted = [each for each in VENDORS if app.drivers.environment_key(each.provider_type)]
    if not wanted:
        return []
    now = app.now()

    async def work(tx: Tx) -> list[str]:
        await hold(tx, Lock.PREDEFINED)
        there = {row.provider_type for row in await list_providers(tx, org_id)}
        made = [each for each in wanted if each.provider_type not in there]
        for index, each in enumerate(made):
            await _add(app, tx, org_id, each, now + index)  # lists are by age
        return [each.name for each in made]

    return await app.database.write(work)


async def _add(app: App, tx: Tx, org_id: OrgId, wanted: Vendor, now: int) -> None:
    provider = ProviderRow(
        id=app.new_id("provider"),
        org_id=org_id,
        name=wanted.name,
        provider_type=wanted.provider_type,
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
        model_id=wanted.model_id,
        display_name=wanted.model_name,
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
