"""Rows of sessions' SQL databases.

Each stores one SQLite image, which is replaced as a whole by a compare-and-set on its version.
"""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.ids import OrgId, SessionId
from perdure.domain.times import Micros
from perdure.store.database import Tx
from perdure.store.rows import columns


class DatabaseRow(Struct, frozen=True):
    """A database, without its image."""

    name: str
    version: int
    size_bytes: int
    page_count: int
    created_at: Micros
    updated_at: Micros


_ROW = columns(DatabaseRow)


async def list_databases(tx: Tx, session_id: SessionId) -> list[DatabaseRow]:
    """Return a session's databases, sorted by name."""
    return [
        DatabaseRow(*row)
        for row in await tx.all(
            f"SELECT {_ROW} FROM sql_databases WHERE session_id = ? ORDER BY name", session_id
        )
    ]


async def get_database(tx: Tx, session_id: SessionId, name: str) -> DatabaseRow | None:
    found = await tx.one(
        f"SELECT {_ROW} FROM sql_databases WHERE session_id = ? AND name = ?", session_id, name
    )
    return None if found is None else DatabaseRow(*found)


async def read_image(tx: Tx, session_id: SessionId, name: str) -> tuple[int, bytes] | None:
    """Return a database's version and image; None if it does not exist."""
    found = await tx.one(
        "SELECT version, image FROM sql_databases WHERE session_id = ? AND name = ?", session_id, name
    )
    return None if found is None else (found[0], bytes(found[1]))


async def add_database(tx: Tx, org_id: OrgId, session_id: SessionId, name: str, now: Micros) -> bool:
    """Create an empty database; return False if the name is taken."""
    row = await tx.one(
        "INSERT INTO sql_databases (session_id, name, org_id, version, image, size_bytes, page_count,"
        " created_at, updated_at)"
        " VALUES (?, ?, ?, 1, ?, 0, 0, ?, ?) ON CONFLICT DO NOTHING RETURNING name",
        session_id,
        name,
        org_id,
        b"",
        now,
        now,
    )
    return row is not None


async def write_image(
    tx: Tx, session_id: SessionId, name: str, version: int, image: bytes, pages: int, now: Micros
) -> bool:
    """Replace the image if the database still has this version; return whether it did."""
    touched = await tx.run(
        "UPDATE sql_databases SET version = version + 1, image = ?, size_bytes = ?, page_count = ?,"
        " updated_at = ?"
        " WHERE session_id = ? AND name = ? AND version = ?",
        image,
        len(image),
        pages,
        now,
        session_id,
        name,
        version,
    )
    return touched == 1


async def drop_database(tx: Tx, session_id: SessionId, name: str) -> bool:
    """Delete a database; return whether it existed."""
    return await tx.run("DELETE FROM sql_databases WHERE session_id = ? AND name = ?", session_id, name) == 1


async def copy_databases(tx: Tx, source: str, target: str) -> None:
    """Copy a session's databases to another session."""
    await tx.run(
        "INSERT INTO sql_databases (session_id, name, org_id, version, image, size_bytes, page_count,"
        " created_at, updated_at)"
        " SELECT ?, name, org_id, 1, image, size_bytes, page_count, created_at, updated_at"
        " FROM sql_databases WHERE session_id = ?",
        target,
        source,
    )
