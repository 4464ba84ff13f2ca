"""Rows of a session's key-value pairs and secrets."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.domain.ids import OrgId, SessionId
from perdure.domain.times import Micros
from perdure.store.crypto import Vault
from perdure.store.database import Row, Tx

SECRETS = "SELECT {first}name, sealed{more} FROM secrets WHERE session_id = ? AND org_id = ?"
"""The statement for a session's secrets, with further columns before and after."""
VALUES_SIZE = 1024 * 1024
"""Bytes of values that are read at a time."""


async def get_value(tx: Tx, session_id: SessionId, key: str) -> str | None:
    found = await tx.one("SELECT value FROM key_values WHERE session_id = ? AND key = ?", session_id, key)
    return None if found is None else found[0]


async def set_value(tx: Tx, org_id: OrgId, session_id: SessionId, key: str, value: str, now: Micros) -> None:
    await tx.run(
        "INSERT INTO key_values (session_id, key, org_id, value, created_at, updated_at)"
        " VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (session_id, key) DO UPDATE SET value = excluded.value,"
        " updated_at = excluded.updated_at",
        session_id,
        key,
        org_id,
        value,
        now,
        now,
    )


async def delete_value(tx: Tx, session_id: SessionId, key: str) -> bool:
    """Delete a value; return whether it existed."""
    return await tx.run("DELETE FROM key_values WHERE session_id = ? AND key = ?", session_id, key) == 1


async def list_values(
    tx: Tx, session_id: SessionId, after: str = "", size: int = VALUES_SIZE
) -> tuple[list[tuple[str, str, Micros, Micros]], bool]:
    """Return (key, value, created at, updated at) of values, sorted by key, and whether more follow.

    Args:
        after: the last key to leave out.
        size: the most bytes to return, unless a single value is larger.
    """
    rows, more = await tx.within(
        size,
        ("value",),
        "SELECT key, value, created_at, updated_at FROM key_values WHERE session_id = ? AND key > ?"
        " ORDER BY key",
        session_id,
        after,
    )
    return [(row[0], row[1], row[2], row[3]) for row in rows], more


async def count_values(tx: Tx, session_id: SessionId) -> int:
    found = await tx.one("SELECT COUNT(*) FROM key_values WHERE session_id = ?", session_id)
    return 0 if found is None else int(found[0])


def secret_binding(session_id: SessionId, name: str) -> str:
    """Return the associated data that a session's secret is encrypted with."""
    return f"secret/{session_id}/{name}"


async def set_secret(
    tx: Tx, vault: Vault, org_id: OrgId, session_id: SessionId, name: str, value: str, now: Micros
) -> None:
    sealed = await vault.seal(tx, org_id, value, secret_binding(session_id, name))
    await tx.run(
        "INSERT INTO secrets (session_id, name, org_id, sealed, created_at, updated_at)"
        " VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (session_id, name) DO UPDATE SET sealed = excluded.sealed,"
        " updated_at = excluded.updated_at",
        session_id,
        name,
        org_id,
        sealed,
        now,
        now,
    )


async def delete_secret(tx: Tx, session_id: SessionId, name: str) -> bool:
    """Delete a secret; return whether it existed."""
    return await tx.run("DELETE FROM secrets WHERE session_id = ? AND name = ?", session_id, name) == 1


async def list_secrets(tx: Tx, session_id: SessionId) -> list[tuple[str, Micros, Micros]]:
    """Return (name, created at, updated at) of each secret, sorted by name."""
    rows = await tx.all(
        "SELECT name, created_at, updated_at FROM secrets WHERE session_id = ? ORDER BY name", session_id
    )
    return [(row[0], row[1], row[2]) for row in rows]


async def secret_sizes(tx: Tx, session_id: SessionId) -> dict[str, int]:
    """Return the encrypted size of each secret in bytes, a few more than the secret itself has."""
    rows = await tx.all("SELECT name, LENGTH(sealed) FROM secrets WHERE session_id = ?", session_id)
    return {row[0]: row[1] for row in rows}


async def open_secret(tx: Tx, vault: Vault, org_id: OrgId, session_id: SessionId, name: str) -> str | None:
    """Decrypt one secret of a session; None if it does not exist."""
    row = await tx.one(
        "SELECT sealed FROM secrets WHERE session_id = ? AND org_id = ? AND name = ?",
        session_id,
        org_id,
        name,
    )
    return None if row is None else await vault.open(tx, org_id, row[0], secret_binding(session_id, name))


async def open_secrets(tx: Tx, vault: Vault, org_id: OrgId, session_id: SessionId) -> dict[str, str]:
    """Decrypt all secrets of a session, by name, so that callers can redact them."""
    rows = await tx.all(SECRETS.format(first="", more=""), session_id, org_id)
    return await opened_secrets(tx, vault, org_id, session_id, rows)


async def opened_secrets(
    tx: Tx, vault: Vault, org_id: OrgId, session_id: SessionId, rows: Sequence[Row]
) -> dict[str, str]:
    """Decrypt secrets of a session whose rows begin with what `SECRETS` selects."""
    return {row[0]: await vault.open(tx, org_id, row[1], secret_binding(session_id, row[0])) for row in rows}


async def copy_storage(
    tx: Tx, vault: Vault, org_id: OrgId, source: SessionId, target: SessionId, now: Micros
) -> None:
    """Copy a session's key-value pairs and secrets to another session."""
    await tx.run(
        "INSERT INTO key_values (session_id, key, org_id, value, created_at, updated_at)"
        " SELECT ?, key, org_id, value, ?, ? FROM key_values WHERE session_id = ?",
        target,
        now,
        now,
        source,
    )
    for name, value in (await open_secrets(tx, vault, org_id, source)).items():
        await set_secret(tx, vault, org_id, target, name, value, now)
