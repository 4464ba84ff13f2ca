"""Rows of providers and models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import msgspec
from msgspec import Struct

from perdure.domain.errors import NotFound
from perdure.domain.ids import ModelId, OrgId, ProviderId
from perdure.domain.providers import (
    KeyStatus,
    ModelSource,
    ProviderOptions,
    ProviderSecrets,
    ProviderStatus,
    ProviderTrace,
)
from perdure.domain.times import Micros
from perdure.store.accounts import model_ids
from perdure.store.crypto import Vault
from perdure.store.database import LOCK_ROW, Changes, Row, Tx
from perdure.store.rows import assignments, columns, insert, to_json, values


class ProviderRow(Struct, frozen=True):
    """A provider. `secrets` are encrypted, bound to the place `provider/<id>`.

    `api_key_set` and `header_names` say what `secrets` contain, `key_status` what the vendor said of the key:
    None without a key, and for keys of older releases, which were not checked.
    """

    id: ProviderId
    org_id: OrgId
    name: str
    provider_type: str
    base_url: str | None
    secrets: bytes | None
    api_key_set: int
    options: str
    header_names: str
    trace: str | None
    status: ProviderStatus
    last_synced_at: Micros | None
    created_at: Micros
    updated_at: Micros
    key_status: KeyStatus | None = None
    key_checked_at: Micros | None = None

    def option_struct(self) -> ProviderOptions:
        return _OPTIONS.decode(self.options)

    def header_list(self) -> tuple[str, ...]:
        return _NAMES.decode(self.header_names)

    def trace_struct(self) -> ProviderTrace | None:
        return None if self.trace is None else _TRACE.decode(self.trace)


class SealedSecrets(Struct, frozen=True):
    """The columns of a provider that hold its secrets, and those that say what they contain."""

    secrets: bytes | None
    api_key_set: int
    header_names: str

    def columns(self) -> Changes:
        """Return the columns for an UPDATE."""
        return msgspec.structs.asdict(self)


class ModelRow(Struct, frozen=True):
    id: ModelId
    org_id: OrgId
    provider_id: ProviderId
    model_id: str
    display_name: str
    capabilities: str
    enabled: int
    is_favorite: int
    source: ModelSource
    context_tokens: int | None
    stale_since: Micros | None
    created_at: Micros
    updated_at: Micros

    def capability_list(self) -> tuple[str, ...]:
        return _NAMES.decode(self.capabilities)


_NAMES = msgspec.json.Decoder(tuple[str, ...])
_OPTIONS = msgspec.json.Decoder(ProviderOptions)
_SECRETS = msgspec.json.Decoder(ProviderSecrets)
_TRACE = msgspec.json.Decoder(ProviderTrace)

_PROVIDER = columns(ProviderRow)
_MODEL = columns(ModelRow)


async def open_secrets(vault: Vault, tx: Tx, row: ProviderRow) -> ProviderSecrets:
    """Decrypt a provider's secrets. Raises Unreadable if another master key encrypted them."""
    if row.secrets is None:
        return ProviderSecrets()
    return _SECRETS.decode(await vault.open(tx, row.org_id, row.secrets, f"provider/{row.id}"))


async def seal_secrets(
    vault: Vault, tx: Tx, org_id: OrgId, provider_id: ProviderId, secrets: ProviderSecrets
) -> SealedSecrets:
    """Encrypt a provider's secrets."""
    empty = secrets.api_key is None and not secrets.headers
    return SealedSecrets(
        None if empty else await vault.seal(tx, org_id, to_json(secrets), f"provider/{provider_id}"),
        int(secrets.api_key is not None),
        to_json(tuple(secrets.headers)),
    )


USABLE = (
    "FROM models m JOIN providers p ON p.id = m.provider_id AND p.org_id = m.org_id"
    " WHERE m.org_id = {org} AND m.enabled = 1 AND p.status = 'active'"
)
"""The models `m` of an organization that may be called, and their providers `p`."""
_USABLE = (
    f"SELECT {columns(ModelRow, alias='m')}, {columns(ProviderRow, alias='p')},"
    " (SELECT o.fallback_models FROM organizations o WHERE o.id = m.org_id)"
    f" {USABLE.format(org='?')}"
)


class UsableModel(Struct, frozen=True):
    """A model that may be called, and the provider that serves it."""

    model: ModelRow
    provider: ProviderRow

    @classmethod
    def of(cls, found: Row) -> Self:
        """Split a row that begins with the columns of a model and its provider."""
        width = len(ModelRow.__struct_fields__)
        return cls(ModelRow(*found[:width]), ProviderRow(*found[width : width + _PROVIDER_WIDTH]))


_PROVIDER_WIDTH = len(ProviderRow.__struct_fields__)


async def usable_model(
    tx: Tx, org_id: OrgId, model_id: str | None
) -> tuple[UsableModel, tuple[ModelId, ...]] | None:
    """Return a model and its provider; None if either is missing or disabled.

    Args:
        model_id: None for the organization's default.

    Returns:
        Also the organization's fallback models.
    """
    source, key = "?", model_id
    if key is None:
        source, key = "(SELECT default_model_id FROM organizations WHERE id = ?)", org_id
    found = await tx.one(f"{_USABLE} AND m.id = {source}", org_id, key)
    if found is None:
        return None
    return UsableModel.of(found), model_ids(found[-1])


async def usable_models(tx: Tx, org_id: OrgId, ids: Sequence[str]) -> list[UsableModel]:
    """Return those of these models that may be called, in this order."""
    if not ids:
        return []
    found = await tx.all(f"{_USABLE} AND m.id IN ({', '.join('?' * len(ids))})", org_id, *ids)
    models = {each.model.id: each for each in map(UsableModel.of, found)}
    return [models[ModelId(each)] for each in dict.fromkeys(ids) if each in models]


async def has_usable_model(tx: Tx, org_id: OrgId) -> bool:
    """Whether the organization has a model that is enabled, of a provider that is active."""
    return await tx.one(f"{_USABLE} LIMIT 1", org_id) is not None


async def add_provider(tx: Tx, row: ProviderRow) -> None:
    await tx.run(insert("providers", ProviderRow), *values(row))


async def get_provider(tx: Tx, org_id: OrgId, provider_id: ProviderId, *, lock: bool = False) -> ProviderRow:
    """Return a provider; `lock` locks its row until the commit. Raises NotFound."""
    suffix = LOCK_ROW[tx.dialect] if lock else ""
    found = await tx.one(
        f"SELECT {_PROVIDER} FROM providers WHERE id = ? AND org_id = ?{suffix}", provider_id, org_id
    )
    if found is None:
        raise NotFound("provider")
    return ProviderRow(*found)


async def list_providers(tx: Tx, org_id: OrgId) -> list[ProviderRow]:
    """Return the organization's providers, oldest first."""
    rows = await tx.all(f"SELECT {_PROVIDER} FROM providers WHERE org_id = ? ORDER BY created_at, id", org_id)
    return [ProviderRow(*row) for row in rows]


async def update_provider(tx: Tx, org_id: OrgId, provider_id: ProviderId, changes: Changes) -> None:
    await tx.run(
        f"UPDATE providers SET {assignments(changes)} WHERE id = ? AND org_id = ?",
        *changes.values(),
        provider_id,
        org_id,
    )


async def delete_provider(tx: Tx, org_id: OrgId, provider_id: ProviderId) -> None:
    """Delete a provider and its models."""
    await tx.run("DELETE FROM models WHERE provider_id = ? AND org_id = ?", provider_id, org_id)
    await tx.run("DELETE FROM providers WHERE id = ? AND org_id = ?", provider_id, org_id)


async def add_model(tx: Tx, row: ModelRow) -> None:
    await tx.run(insert("models", ModelRow), *values(row))


async def add_models(tx: Tx, rows: list[ModelRow]) -> None:
    await tx.run_many(insert("models", ModelRow), [values(row) for row in rows])


async def refresh_models(tx: Tx, rows: list[ModelRow]) -> None:
    """Update known models with the data of the provider's own list."""
    await tx.run_many(
        "UPDATE models SET display_name = ?, context_tokens = ?, stale_since = ?, updated_at = ?"
        " WHERE id = ? AND org_id = ?",
        [
            (row.display_name, row.context_tokens, row.stale_since, row.updated_at, row.id, row.org_id)
            for row in rows
        ],
    )


async def get_model(tx: Tx, org_id: OrgId, model_id: ModelId) -> ModelRow:
    """Return a model. Raises NotFound."""
    found = await tx.one(f"SELECT {_MODEL} FROM models WHERE id = ? AND org_id = ?", model_id, org_id)
    if found is None:
        raise NotFound("model")
    return ModelRow(*found)


async def list_models(tx: Tx, org_id: OrgId, provider_id: ProviderId | None = None) -> list[ModelRow]:
    """Return the organization's models, oldest first; with `provider_id`, only that provider's."""
    narrowed = "" if provider_id is None else " AND provider_id = ?"
    args = (org_id,) if provider_id is None else (org_id, provider_id)
    rows = await tx.all(
        f"SELECT {_MODEL} FROM models WHERE org_id = ?{narrowed} ORDER BY created_at, id", *args
    )
    return [ModelRow(*row) for row in rows]


async def update_model(tx: Tx, org_id: OrgId, model_id: ModelId, changes: Changes) -> None:
    await tx.run(
        f"UPDATE models SET {assignments(changes)} WHERE id = ? AND org_id = ?",
        *changes.values(),
        model_id,
        org_id,
    )


async def delete_model(tx: Tx, org_id: OrgId, model_id: ModelId) -> None:
    await tx.run("DELETE FROM models WHERE id = ? AND org_id = ?", model_id, org_id)
