"""Rows of MCP servers, on both databases: whose they are, and that their secrets are sealed."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from perdure.domain.errors import NotFound, Unreadable
from perdure.domain.ids import McpServerId, new_id
from perdure.domain.mcp_servers import McpClient
from perdure.store.crypto import Vault
from perdure.store.database import Database
from perdure.store.mcp_pins import (
    INLINE_PINS,
    UNUSED,
    add_pins,
    drop_unused_pins,
    keep_pins,
    last_noted,
    read_pins,
)
from perdure.store.mcp_servers import (
    McpSecrets,
    McpServerRow,
    add_mcp_server,
    bind_mcp_client,
    count_mcp_servers,
    delete_mcp_server,
    get_mcp_server,
    headers_of,
    known_mcp_servers,
    list_mcp_servers,
    open_mcp_secrets,
    seal_mcp_secrets,
    some_mcp_servers,
    update_mcp_server,
)

ORG, OTHER = new_id("org"), new_id("org")
NOW = 1_700_000_000_000_000


def row(slug: str, **fields: Any) -> McpServerRow:
    made = McpServerRow(
        id=McpServerId(new_id("mcp")),
        org_id=ORG,
        name=slug.title(),
        slug=slug,
        url="https://example.com/mcp",
        description=None,
        auth_mode="none",
        protocol_mode="auto",
        status="active",
        rules="{}",
        headers="{}",
        labels="{}",
        secrets=None,
        api_key_set=0,
        created_at=NOW,
        updated_at=NOW,
        archived_at=None,
    )
    return replace(made, **fields)


async def add(database: Database, *rows: McpServerRow) -> None:
    for each in rows:
        await database.write(lambda tx, each=each: add_mcp_server(tx, each))


async def test_a_server_belongs_to_one_organization(database: Database) -> None:
    mine, other = row("mine"), row("mine", org_id=OTHER)
    await add(database, mine, other)
    assert await database.read(lambda tx: get_mcp_server(tx, ORG, mine.id)) == mine
    assert await database.read(lambda tx: list_mcp_servers(tx, ORG)) == [mine]
    assert await database.read(lambda tx: count_mcp_servers(tx, ORG)) == 1
    ids = [mine.id, other.id, "mcp_unknown"]
    assert await database.read(lambda tx: known_mcp_servers(tx, ORG, ids)) == {mine.id}
    assert await database.read(lambda tx: some_mcp_servers(tx, ORG, ids)) == [mine]
    assert await database.read(lambda tx: some_mcp_servers(tx, ORG, [])) == []
    with pytest.raises(NotFound):
        await database.read(lambda tx: get_mcp_server(tx, ORG, other.id))
    await database.write(lambda tx: update_mcp_server(tx, ORG, other.id, {"name": "Taken"}))
    await database.write(lambda tx: delete_mcp_server(tx, ORG, other.id))
    assert await database.read(lambda tx: get_mcp_server(tx, OTHER, other.id)) == other


async def test_secrets_are_sealed_for_one_server(database: Database) -> None:
    vault = Vault(lambda: [bytes(32)])
    await database.write(lambda tx: vault.add_org(tx, ORG, NOW))
    one, two = row("one"), row("two")
    shown, hidden = {"X-User": "{{secret:USER}}"}, {"X-Token": "t0ken-value"}
    given = McpSecrets("k3y-value", hidden, "cl1ent-secret")
    sealed = await database.write(
        lambda tx: seal_mcp_secrets(vault, tx, ORG, one.id, given, shown, McpClient("c1"))
    )
    one = replace(one, **sealed.columns())
    await add(database, one, replace(two, **sealed.columns()))
    stored = await database.read(lambda tx: get_mcp_server(tx, ORG, one.id))
    assert stored.shown_headers() == {"X-User": "{{secret:USER}}", "X-Token": "***"}
    assert not any(text in repr(stored) for text in ("t0ken-value", "k3y-value", "cl1ent-secret"))
    secrets = await database.read(lambda tx: open_mcp_secrets(vault, tx, stored))
    assert (secrets.api_key, headers_of(stored, secrets)) == ("k3y-value", {**shown, **hidden})
    assert secrets.client_secret == "cl1ent-secret"
    assert stored.client() == McpClient("c1", secret_set=True)
    await database.write(lambda tx: bind_mcp_client(tx, stored, "https://issuer"))
    await database.write(lambda tx: bind_mcp_client(tx, stored, "https://another"))
    bound = (await database.read(lambda tx: get_mcp_server(tx, ORG, one.id))).client()
    assert bound.issuer == "https://issuer", "the first one stays"
    moved = await database.read(lambda tx: get_mcp_server(tx, ORG, two.id))
    with pytest.raises(Unreadable):
        await database.read(lambda tx: open_mcp_secrets(vault, tx, moved))
    empty = await database.write(
        lambda tx: seal_mcp_secrets(vault, tx, ORG, one.id, McpSecrets(), shown, McpClient())
    )
    assert (empty.secrets, empty.api_key_set) == (None, 0)


async def test_pins_of_inline_servers_are_forgotten_when_nobody_uses_them(database: Database) -> None:
    used, unused, registered = f"{INLINE_PINS}1", f"{INLINE_PINS}2", "mcp_1"
    for org_id in (ORG, OTHER):
        for server in (used, unused, registered):
            await database.write(
                lambda tx, o=org_id, s=server: add_pins(tx, o, s, {"buy": "d", "sell": "e"}, NOW)
            )
    later = NOW + UNUSED
    assert await database.read(lambda tx: last_noted(tx, ORG, used)) == NOW
    assert await database.read(lambda tx: last_noted(tx, ORG, "inline:nobody")) is None
    await database.write(lambda tx: keep_pins(tx, ORG, used, later))
    assert await database.read(lambda tx: last_noted(tx, ORG, used)) == later
    await database.write(lambda tx: drop_unused_pins(tx, ORG, later + 1))
    kept = {
        (org_id, server): len(await database.read(lambda tx, o=org_id, s=server: read_pins(tx, o, s)))
        for org_id in (ORG, OTHER)
        for server in (used, unused, registered)
    }
    assert {key for key, count in kept.items() if not count} == {(ORG, unused)}
