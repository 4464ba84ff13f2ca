"""Rows of registered MCP servers."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from perdure.domain.errors import NotFound
from perdure.domain.ids import McpServerId, OrgId
from perdure.domain.mcp_servers import (
    HIDDEN,
    McpAuthMode,
    McpClient,
    McpProtocolMode,
    McpRules,
    McpStatus,
)
from perdure.domain.times import Micros
from perdure.store.crypto import Vault
from perdure.store.database import LOCK_ROW, Changes, Tx, Value
from perdure.store.rows import among, assignments, columns, contains, from_json, insert, to_json, values


class McpServerRow(Struct, frozen=True):
    """A registered MCP server. `secrets` are encrypted, bound to the place `mcp/<id>`.

    Attributes:
        slug: how its tools' names begin; unique in the organization, and unchanged when the name changes.
        rules: the JSON of `McpRules`.
        headers: the JSON of the headers; `***` stands for a value in `secrets`.
        labels: the JSON of the tools' display names, by the tools' names at the server.
        api_key_set: whether `secrets` contain an API key.
        oauth: the JSON of `McpClient`.
    """

    id: McpServerId
    org_id: OrgId
    name: str
    slug: str
    url: str
    description: str | None
    auth_mode: McpAuthMode
    protocol_mode: McpProtocolMode
    status: McpStatus
    rules: str
    headers: str
    labels: str
    secrets: bytes | None
    api_key_set: int
    created_at: Micros
    updated_at: Micros
    archived_at: Micros | None
    oauth: str = "{}"

    def rules_struct(self) -> McpRules:
        return from_json(_RULES, self.rules, f"the MCP server {self.id}")

    def shown_headers(self) -> dict[str, str]:
        """Return the headers as clients see them: stored values are `***`, placeholders are themselves."""
        return from_json(_TEXTS, self.headers, f"the MCP server {self.id}")

    def client(self) -> McpClient:
        """Return the registered client; its secret is in `secrets`."""
        return from_json(_CLIENT, self.oauth, f"the MCP server {self.id}")

    def label_map(self) -> dict[str, str]:
        return from_json(_TEXTS, self.labels, f"the MCP server {self.id}")


class McpSecrets(Struct, frozen=True, omit_defaults=True):
    """What is stored encrypted: the API key, the headers that are shown as `***`, the client's secret."""

    api_key: str | None = None
    headers: dict[str, str] = {}
    client_secret: str | None = None


class SealedMcpSecrets(Struct, frozen=True):
    """The columns of a server that hold its secrets, and those that say what they contain."""

    headers: str
    secrets: bytes | None
    api_key_set: int
    oauth: str

    def columns(self) -> Changes:
        """Return the columns for an UPDATE."""
        return msgspec.structs.asdict(self)


_RULES = msgspec.json.Decoder(McpRules)
_CLIENT = msgspec.json.Decoder(McpClient)
_TEXTS = msgspec.json.Decoder(dict[str, str])
_SECRETS = msgspec.json.Decoder(McpSecrets)
_COLUMNS = columns(McpServerRow)


async def open_mcp_secrets(vault: Vault, tx: Tx, row: McpServerRow) -> McpSecrets:
    """Decrypt a server's secrets. Raises Unreadable if another master key encrypted them."""
    if row.secrets is None:
        return McpSecrets()
    return _SECRETS.decode(await vault.open(tx, row.org_id, row.secrets, f"mcp/{row.id}"))


async def seal_mcp_secrets(
    vault: Vault,
    tx: Tx,
    org_id: OrgId,
    server_id: McpServerId,
    secrets: McpSecrets,
    shown: dict[str, str],
    client: McpClient,
) -> SealedMcpSecrets:
    """Encrypt a server's secrets.

    Args:
        shown: the headers whose values may be shown: they contain placeholders.
        client: what may be shown of the registered client.
    """
    sealed = secrets.headers
    return SealedMcpSecrets(
        to_json({**shown, **dict.fromkeys(sealed, HIDDEN)}),
        None
        if secrets == McpSecrets()
        else await vault.seal(tx, org_id, to_json(secrets), f"mcp/{server_id}"),
        int(secrets.api_key is not None),
        to_json(replace(client, secret_set=secrets.client_secret is not None)),
    )


def headers_of(row: McpServerRow, secrets: McpSecrets) -> dict[str, str]:
    """Return a server's headers with the decrypted values. Placeholders are still in them."""
    return {**row.shown_headers(), **secrets.headers}


async def add_mcp_server(tx: Tx, row: McpServerRow) -> None:
    await tx.run(insert("mcp_servers", McpServerRow), *values(row))


async def get_mcp_server(
    tx: Tx, org_id: OrgId, server_id: McpServerId, *, lock: bool = False
) -> McpServerRow:
    """Return the organization's server, whatever its status; `lock` locks its row. Raises NotFound."""
    suffix = LOCK_ROW[tx.dialect] if lock else ""
    found = await tx.one(
        f"SELECT {_COLUMNS} FROM mcp_servers WHERE id = ? AND org_id = ?{suffix}", server_id, org_id
    )
    if found is None:
        raise NotFound("MCP server", code="mcp_server_not_found")
    return McpServerRow(*found)


async def list_mcp_servers(
    tx: Tx, org_id: OrgId, search: str | None = None, archived: bool = False
) -> list[McpServerRow]:
    """Return the organization's servers, oldest first.

    Args:
        search: a text that the name, the URL or the description contains.
        archived: whether to include archived ones.
    """
    where, args = "org_id = ?", list[Value]([org_id])
    if not archived:
        where += " AND status <> 'archived'"
    if search is not None:
        where += " AND " + contains(args, search, "name", "url", "description")
    rows = await tx.all(f"SELECT {_COLUMNS} FROM mcp_servers WHERE {where} ORDER BY created_at, id", *args)
    return [McpServerRow(*row) for row in rows]


async def count_mcp_servers(tx: Tx, org_id: OrgId) -> int:
    """Return the number of the organization's servers, archived ones included."""
    found = await tx.one("SELECT COUNT(*) FROM mcp_servers WHERE org_id = ?", org_id)
    return 0 if found is None else int(found[0])


async def some_mcp_servers(tx: Tx, org_id: OrgId, ids: Sequence[str]) -> list[McpServerRow]:
    """Return those of these servers that the organization has, whatever their status, oldest first."""
    if not ids:
        return []
    condition, argument = among(tx.dialect, "id", "TEXT", ids)
    rows = await tx.all(
        f"SELECT {_COLUMNS} FROM mcp_servers WHERE org_id = ? AND {condition} ORDER BY created_at, id",
        org_id,
        argument,
    )
    return [McpServerRow(*row) for row in rows]


async def known_mcp_servers(tx: Tx, org_id: OrgId, ids: Sequence[str]) -> set[str]:
    """Return which of these ids are servers of the organization, whatever their status."""
    if not ids:
        return set()
    condition, argument = among(tx.dialect, "id", "TEXT", ids)
    rows = await tx.all(f"SELECT id FROM mcp_servers WHERE org_id = ? AND {condition}", org_id, argument)
    return {row[0] for row in rows}


async def mcp_slugs(tx: Tx, org_id: OrgId) -> set[str]:
    """Return the slugs that the organization's servers have."""
    return {row[0] for row in await tx.all("SELECT slug FROM mcp_servers WHERE org_id = ?", org_id)}


async def update_mcp_server(tx: Tx, org_id: OrgId, server_id: McpServerId, changes: Changes) -> None:
    await tx.run(
        f"UPDATE mcp_servers SET {assignments(changes)} WHERE id = ? AND org_id = ?",
        *changes.values(),
        server_id,
        org_id,
    )


async def bind_mcp_client(tx: Tx, row: McpServerRow, issuer: str) -> None:
    """Note which issuer a server's client belongs to. Nothing happens if the server has changed meanwhile."""
    await tx.run(
        "UPDATE mcp_servers SET oauth = ? WHERE id = ? AND org_id = ? AND oauth = ?",
        to_json(replace(row.client(), issuer=issuer)),
        row.id,
        row.org_id,
        row.oauth,
    )


async def delete_mcp_server(tx: Tx, org_id: OrgId, server_id: McpServerId) -> None:
    """Delete a server for good, with its secrets."""
    await tx.run("DELETE FROM mcp_servers WHERE id = ? AND org_id = ?", server_id, org_id)
