"""Files of a session: text or bytes under absolute paths, in the database."""

from __future__ import annotations

import hashlib

import msgspec
from msgspec import Struct

from perdure.domain.ids import new_id
from perdure.domain.times import Micros
from perdure.store.database import Tx
from perdure.store.rows import columns, values


class FileRow(Struct, frozen=True):
    session_id: str
    path: str
    org_id: str
    id: str
    is_directory: int
    is_readonly: int
    content: bytes | None
    is_text: int
    size_bytes: int
    hash: str
    created_at: Micros
    updated_at: Micros


class FileEntry(Struct, frozen=True):
    """A file without its content."""

    path: str
    is_directory: int
    is_readonly: int
    is_text: int
    size_bytes: int
    hash: str
    created_at: Micros
    updated_at: Micros


_FILE = columns(FileRow)
_ENTRY = columns(FileEntry)


def hash_of(content: bytes) -> str:
    """The content's SHA-256, in hex."""
    return hashlib.sha256(content).hexdigest()


async def get_file(tx: Tx, org_id: str, session_id: str, path: str) -> FileRow | None:
    found = await tx.one(f"SELECT {_FILE} FROM files WHERE session_id = ? AND path = ? AND org_id = ?", session_id, path, org_id)
    return None if found is None else FileRow(*found)


async def list_files(tx: Tx, org_id: str, session_id: str, under: str, limit: int = 10_000) -> list[FileEntry]:
    """Everything below a folder (`/` for all), by path."""
    prefix = under.rstrip("/") + "/"
    # The character after "/" bounds the range of paths that begin with the prefix.
    rows = await tx.all(
        f"SELECT {_ENTRY} FROM files WHERE session_id = ? AND org_id = ? AND path >= ? AND path < ? ORDER BY path LIMIT ?",
        session_id, org_id, prefix, prefix[:-1] + "0", limit,
    )  # fmt: skip
    return [FileEntry(*row) for row in rows]


async def bytes_held(tx: Tx, org_id: str, session_id: str) -> int:
    """The size of all files of the session, in bytes."""
    found = await tx.one("SELECT COALESCE(SUM(size_bytes), 0) FROM files WHERE session_id = ? AND org_id = ?", session_id, org_id)
    return 0 if found is None else int(found[0])


async def put_file(
    tx: Tx, org_id: str, session_id: str, path: str, content: bytes, *, is_text: bool, readonly: bool = False, now: Micros
) -> bool:
    """Write a file, and the folders above it; whether it is new."""
    old = await tx.one("SELECT id FROM files WHERE session_id = ? AND path = ?", session_id, path)
    await _put_folders(tx, org_id, session_id, path, now)
    if old is not None:
        await tx.run(
            "UPDATE files SET content = ?, is_text = ?, size_bytes = ?, hash = ?, updated_at = ? WHERE session_id = ? AND path = ?",
            content, int(is_text), len(content), hash_of(content), now, session_id, path,
        )  # fmt: skip
        return False
    row = FileRow(
        session_id, path, org_id, new_id("file"), 0, int(readonly), content, int(is_text), len(content), hash_of(content), now, now
    )
    await tx.run(f"INSERT INTO files ({_FILE}) VALUES ({', '.join('?' * 12)})", *values(row))
    return True


async def _put_folders(tx: Tx, org_id: str, session_id: str, path: str, now: Micros) -> None:
    parts = path.strip("/").split("/")[:-1]
    for depth in range(1, len(parts) + 1):
        folder = "/" + "/".join(parts[:depth])
        row = FileRow(session_id, folder, org_id, new_id("file"), 1, 0, None, 0, 0, "", now, now)
        await tx.run(f"INSERT INTO files ({_FILE}) VALUES ({', '.join('?' * 12)}) ON CONFLICT DO NOTHING", *values(row))


async def copy_files(tx: Tx, source: str, target: str, now: Micros) -> None:
    """Give a session a copy of another's files."""
    for row in await tx.all(f"SELECT {_FILE} FROM files WHERE session_id = ?", source):
        copy = msgspec.structs.replace(FileRow(*row), session_id=target, id=new_id("file"), created_at=now, updated_at=now)
        await tx.run(f"INSERT INTO files ({_FILE}) VALUES ({', '.join('?' * 12)})", *values(copy))


async def delete_file(tx: Tx, org_id: str, session_id: str, path: str) -> int:
    """Remove a file, or a folder with all that is in it; how many entries went."""
    prefix = path.rstrip("/") + "/"
    return await tx.run(
        "DELETE FROM files WHERE session_id = ? AND org_id = ? AND (path = ? OR (path >= ? AND path < ?))",
        session_id, org_id, path, prefix, prefix[:-1] + "0",
    )  # fmt: skip
