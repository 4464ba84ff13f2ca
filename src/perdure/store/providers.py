"""Rows of providers and models."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from perdure.domain.errors import NotFound
from perdure.domain.providers import ModelSource, ProviderStatus
from perdure.domain.times import Micros
from perdure.store.database import Tx
from perdure.store.rows import assignments, columns, insert, values


class ProviderRow(Struct, frozen=True):
    """`api_key` is sealed for the place `provider/<id>`."""

    id: str
    org_id: str
    name: str
    provider_type: str
    base_url: str | None
    api_key: bytes | None
    status: ProviderStatus
    last_synced_at: Micros | None
    created_at: Micros
    updated_at: Micros


class ModelRow(Struct, frozen=True):
    id: str
    org_id: str
    provider_id: str
    model_id: str
    display_name: str
    capabilities: str
    enabled: int
    is_favorite: int
    source: ModelSource
    created_at: Micros
    updated_at: Micros

    def capability_list(self) -> tuple[str, ...]:
        return msgspec.json.decode(self.capabilities, type=tuple[str, ...])


_PROVIDER = columns(ProviderRow)
_MODEL = columns(ModelRow)


async def add_provider(tx: Tx, row: ProviderRow) -> None:
    await tx.run(insert("providers", ProviderRow), *values(row))


async def get_provider(tx: Tx, org_id: str, provider_id: str) -> ProviderRow:
    """Raises NotFound."""
    found = await tx.one(f"SELECT {_PROVIDER} FROM providers WHERE id = ? AND org_id = ?", provider_id, org_id)
    if found is None:
        raise NotFound("provider")
    return ProviderRow(*found)


async def list_providers(tx: Tx, org_id: str) -> list[ProviderRow]:
    """All of them, oldest first."""
    rows = await tx.all(f"SELECT {_PROVIDER} FROM providers WHERE org_id = ? ORDER BY created_at, id", org_id)
    return [ProviderRow(*row) for row in rows]


async def update_provider(tx: Tx, org_id: str, provider_id: str, changes: dict[str, Any]) -> None:
    await tx.run(f"UPDATE providers SET {assignments(changes)} WHERE id = ? AND org_id = ?", *changes.values(), provider_id, org_id)


async def delete_provider(tx: Tx, org_id: str, provider_id: str) -> None:
    """Remove a provider and its models."""
    await tx.run("DELETE FROM models WHERE provider_id = ? AND org_id = ?", provider_id, org_id)
    await tx.run("DELETE FROM providers WHERE id = ? AND org_id = ?", provider_id, org_id)


async def add_model(tx: Tx, row: ModelRow) -> None:
    await tx.run(insert("models", ModelRow), *values(row))


async def get_model(tx: Tx, org_id: str, model_id: str) -> ModelRow:
    """Raises NotFound."""
    found = await tx.one(f"SELECT {_MODEL} FROM models WHERE id = ? AND org_id = ?", model_id, org_id)
    if found is None:
        raise NotFound("model")
    return ModelRow(*found)


async def list_models(tx: Tx, org_id: str, provider_id: str | None = None) -> list[ModelRow]:
    """The organization's models (of one provider, if given), oldest first."""
    narrowed = "" if provider_id is None else " AND provider_id = ?"
    args = (org_id,) if provider_id is None else (org_id, provider_id)
    rows = await tx.all(f"SELECT {_MODEL} FROM models WHERE org_id = ?{narrowed} ORDER BY created_at, id", *args)
    return [ModelRow(*row) for row in rows]


async def update_model(tx: Tx, org_id: str, model_id: str, changes: dict[str, Any]) -> None:
    await tx.run(f"UPDATE models SET {assignments(changes)} WHERE id = ? AND org_id = ?", *changes.values(), model_id, org_id)


async def delete_model(tx: Tx, org_id: str, model_id: str) -> None:
    await tx.run("DELETE FROM models WHERE id = ? AND org_id = ?", model_id, org_id)
