"""Rows of connections: the tokens of MCP servers, the sign-ins that get them, and this server as a client."""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.ids import OrgId
from perdure.domain.times import Micros
from perdure.store.database import LOCK_ROW, Purged, Tx
from perdure.store.rows import columns, insert, values


class ConnectionRow(Struct, frozen=True):
    """The tokens of one identity at one server.

    Attributes:
        identity: a user's id, or `service`.
        server_key: the id of a registered server, or a digest of the URL of another one.
        url: the server's URL at the sign-in: the tokens are sent nowhere else.
        sealed: the `Grant`, encrypted.
        version: counts the grants that were stored here.
        refreshing_until: until when one process alone may refresh it; 0: nobody does.
        signed_in_at: when a person last signed in.
        expires_at: when the access token ends; None: unknown.
    """

    org_id: OrgId
    identity: str
    server_key: str
    server_name: str
    url: str
    issuer: str
    scope: str
    sealed: bytes
    version: int
    refreshing_until: Micros
    signed_in_at: Micros
    expires_at: Micros | None
    created_at: Micros
    updated_at: Micros

    @property
    def binding(self) -> str:
        """The associated data that `sealed` is encrypted with."""
        return connection_binding(self.identity, self.server_key)


def connection_binding(identity: str, server_key: str) -> str:
    """Return the associated data that tokens are encrypted with."""
    return f"connection/{identity}/{server_key}"


_CONNECTION = columns(ConnectionRow)
_KEY = "org_id = ? AND identity = ? AND server_key = ?"


async def find_connection(
    tx: Tx, org_id: OrgId, identity: str, server_key: str, *, lock: bool = False
) -> ConnectionRow | None:
    found = await tx.one(
        f"SELECT {_CONNECTION} FROM connections WHERE {_KEY}{LOCK_ROW[tx.dialect] if lock else ''}",
        org_id,
        identity,
        server_key,
    )
    return None if found is None else ConnectionRow(*found)


async def list_connections(tx: Tx, org_id: OrgId, identity: str, limit: int = 500) -> list[ConnectionRow]:
    rows = await tx.all(
        f"SELECT {_CONNECTION} FROM connections WHERE org_id = ? AND identity = ? ORDER BY created_at,"
        " server_key LIMIT ?",
        org_id,
        identity,
        limit,
    )
    return [ConnectionRow(*row) for row in rows]


async def count_connections(tx: Tx, org_id: OrgId, identity: str) -> int:
    found = await tx.one(
        "SELECT COUNT(*) FROM connections WHERE org_id = ? AND identity = ?", org_id, identity
    )
    return 0 if found is None else int(found[0])


async def put_connection(tx: Tx, row: ConnectionRow) -> None:
    """Store tokens, in place of earlier ones of the same identity and server."""
    await remove_connection(tx, row.org_id, row.identity, row.server_key)
    await tx.run(insert("connections", ConnectionRow), *values(row))


async def begin_refresh(tx: Tx, row: ConnectionRow, until: Micros, now: Micros) -> bool:
    """Claim the right to refresh these tokens; return False if another process has it, or has done so."""
    count = await tx.run(
        f"UPDATE connections SET refreshing_until = ? WHERE {_KEY} AND version = ? AND refreshing_until < ?",
        until,
        row.org_id,
        row.identity,
        row.server_key,
        row.version,
        now,
    )
    return count == 1


async def end_refresh(
    tx: Tx, row: ConnectionRow, sealed: bytes, scope: str, expires_at: Micros | None, now: Micros
) -> bool:
    """Store refreshed tokens; return False if others were stored meanwhile, or the connection was removed."""
    count = await tx.run(
        "UPDATE connections SET sealed = ?, scope = ?, expires_at = ?, version = version + 1,"
        f" refreshing_until = 0, updated_at = ? WHERE {_KEY} AND version = ?",
        sealed,
        scope,
        expires_at,
        now,
        row.org_id,
        row.identity,
        row.server_key,
        row.version,
    )
    return count == 1


async def give_up_refresh(tx: Tx, row: ConnectionRow) -> None:
    """Let others try to refresh it."""
    await tx.run(
        f"UPDATE connections SET refreshing_until = 0 WHERE {_KEY} AND version = ?",
        row.org_id,
        row.identity,
        row.server_key,
        row.version,
    )


async def remove_connection(
    tx: Tx, org_id: OrgId, identity: str, server_key: str, version: int | None = None
) -> bool:
    """Remove tokens; return whether there were any. `version`: only if no others were stored meanwhile."""
    sql, args = f"DELETE FROM connections WHERE {_KEY}", [org_id, identity, server_key]
    if version is None:
        return await tx.run(sql, *args) == 1
    return await tx.run(f"{sql} AND version = ?", *args, version) == 1


async def remove_connections_of_user(tx: Tx, org_id: OrgId | None, identity: str) -> None:
    """Remove all tokens of a member who leaves the organization; of all of them if it is None."""
    for table in ("connections", "sign_ins"):
        if org_id is None:
            await tx.run(f"DELETE FROM {table} WHERE identity = ?", identity)
        else:
            await tx.run(f"DELETE FROM {table} WHERE org_id = ? AND identity = ?", org_id, identity)


async def remove_connections_of_server(tx: Tx, org_id: OrgId, server_key: str) -> None:
    """Remove all tokens of a server that is deleted, or whose URL changes."""
    await tx.run("DELETE FROM connections WHERE org_id = ? AND server_key = ?", org_id, server_key)
    await tx.run("DELETE FROM sign_ins WHERE org_id = ? AND server_key = ?", org_id, server_key)


class SignInRow(Struct, frozen=True):
    """A sign-in that has begun. It ends after a few minutes, or at its first answer.

    Attributes:
        hash: the SHA-256 of the token of its page.
        state_hash: that of the state that comes back.
    """

    hash: str
    state_hash: str
    org_id: OrgId
    identity: str
    server_key: str
    sealed: bytes
    created_at: Micros
    deadline: Micros

    @property
    def binding(self) -> str:
        """The associated data that `sealed` is encrypted with."""
        return f"sign-in/{self.hash}"


_SIGN_IN = columns(SignInRow)


async def add_sign_in(tx: Tx, row: SignInRow) -> None:
    await tx.run(insert("sign_ins", SignInRow), *values(row))


async def find_sign_in(tx: Tx, digest: str, now: Micros) -> SignInRow | None:
    """Return the sign-in with this token."""
    found = await tx.one(f"SELECT {_SIGN_IN} FROM sign_ins WHERE hash = ? AND deadline > ?", digest, now)
    return None if found is None else SignInRow(*found)


async def sign_in_by_state(tx: Tx, digest: str, now: Micros) -> SignInRow | None:
    """Return the sign-in with this state."""
    found = await tx.one(
        f"SELECT {_SIGN_IN} FROM sign_ins WHERE state_hash = ? AND deadline > ?", digest, now
    )
    return None if found is None else SignInRow(*found)


async def take_sign_in(tx: Tx, row: SignInRow) -> bool:
    """Remove a sign-in; return whether it was still there: each is answered once."""
    return await tx.run("DELETE FROM sign_ins WHERE hash = ?", row.hash) == 1


async def count_sign_ins(tx: Tx, org_id: OrgId, identity: str, now: Micros) -> int:
    found = await tx.one(
        "SELECT COUNT(*) FROM sign_ins WHERE org_id = ? AND identity = ? AND deadline > ?",
        org_id,
        identity,
        now,
    )
    return 0 if found is None else int(found[0])


async def purge_sign_ins(tx: Tx, before: Micros, batch: int = 500) -> Purged:
    """Remove a batch of sign-ins that ended before an instant."""
    rows = await tx.all("SELECT hash FROM sign_ins WHERE deadline < ? LIMIT ?", before, batch)
    await tx.run_many("DELETE FROM sign_ins WHERE hash = ?", rows)
    return Purged(len(rows), len(rows) == batch)


MAX_CLIENTS = 500
"""Clients of an organization that registered themselves, one for each issuer."""


def client_binding(issuer: str, redirect_uri: str) -> str:
    """Return the associated data that a client is encrypted with."""
    return f"oauth-client/{issuer}/{redirect_uri}"


async def find_client(tx: Tx, org_id: OrgId, issuer: str, redirect_uri: str) -> bytes | None:
    """Return this server's encrypted client at an issuer."""
    found = await tx.one(
        "SELECT sealed FROM oauth_clients WHERE org_id = ? AND issuer = ? AND redirect_uri = ?",
        org_id,
        issuer,
        redirect_uri,
    )
    return None if found is None else bytes(found[0])


async def issuers_of(tx: Tx, org_id: OrgId, redirect_uri: str, limit: int = 200) -> list[str]:
    """Return the issuers at which this server is registered."""
    rows = await tx.all(
        "SELECT issuer FROM oauth_clients WHERE org_id = ? AND redirect_uri = ? ORDER BY issuer LIMIT ?",
        org_id,
        redirect_uri,
        limit,
    )
    return [row[0] for row in rows]


async def put_client(
    tx: Tx, org_id: OrgId, issuer: str, redirect_uri: str, sealed: bytes, now: Micros
) -> None:
    """Store a client, in place of an earlier one. Of very many, the oldest are forgotten.

    Tokens have a copy of theirs, and a forgotten one registers itself again at its next sign-in.
    """
    await remove_client(tx, org_id, issuer, redirect_uri)
    await tx.run(
        "INSERT INTO oauth_clients (org_id, issuer, redirect_uri, sealed, created_at) VALUES (?, ?, ?, ?, ?)",
        org_id,
        issuer,
        redirect_uri,
        sealed,
        now,
    )
    await tx.run(
        "DELETE FROM oauth_clients WHERE org_id = ? AND created_at < (SELECT created_at FROM oauth_clients"
        " WHERE org_id = ? ORDER BY created_at DESC LIMIT 1 OFFSET ?)",
        org_id,
        org_id,
        MAX_CLIENTS - 1,
    )


async def remove_client(tx: Tx, org_id: OrgId, issuer: str, redirect_uri: str) -> None:
    await tx.run(
        "DELETE FROM oauth_clients WHERE org_id = ? AND issuer = ? AND redirect_uri = ?",
        org_id,
        issuer,
        redirect_uri,
    )
