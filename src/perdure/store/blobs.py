"""Contents of files: kept once for an organization under their SHA-256, in parts, and never changed.

Whoever needs a content names its hash; so copies, forks and files that many sessions begin with cost no
bytes. A content that may have lost its last file is marked `released_at`; `purge_blobs` looks at marked ones
an hour later and removes those that no file names. The hour is what makes it safe without counting: every
transaction that saw a file with a content, and is about to give that content to another file, has long ended
by then (a statement's limit is 30 seconds).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from perdure.domain.files import Content
from perdure.domain.ids import OrgId
from perdure.domain.times import Micros
from perdure.store.database import Purged, Tx
from perdure.store.rows import among

PART = 256 * 1024
"""Bytes of a part: what a reader holds at once."""
KEPT = 3_600_000_000
"""Microseconds between a content's last release and its removal."""
PURGED = 16 * 1024 * 1024
"""Bytes that one batch removes, if no content is longer: everybody's writes wait for it on SQLite (measured:
3 ms for each MB)."""


def parts_of(size: int) -> int:
    """How many parts a content of so many bytes has."""
    return -(-size // PART)


async def keep_contents(tx: Tx, org_id: OrgId, contents: Iterable[Content], now: Micros) -> None:
    """Have these contents kept; those that are there already are not sent again."""
    wanted = {each.hash: each for each in contents}
    if not wanted:
        return
    match, hashes = among(tx.dialect, "hash", "TEXT", sorted(wanted))
    rows = await tx.all(
        f"SELECT hash, released_at FROM blobs WHERE org_id = ? AND {match} ORDER BY hash", org_id, hashes
    )
    held = {row[0] for row in rows if row[1] is None}
    for row in rows:
        # Marked: the mark is taken off, unless the content is removed at this very moment.
        if row[1] is not None and await _retain(tx, org_id, row[0]):
            held.add(row[0])
    for hash_ in sorted(wanted.keys() - held):
        await _add(tx, org_id, wanted[hash_], now)


async def send_ahead(tx: Tx, org_id: OrgId, content: Content, now: Micros) -> None:
    """Have a long content kept before any row is locked, so that nobody waits while it is on its way."""
    if len(content.data) > PART:
        await keep_contents(tx, org_id, (content,), now)


async def _retain(tx: Tx, org_id: OrgId, hash_: str) -> bool:
    return (
        await tx.run("UPDATE blobs SET released_at = NULL WHERE org_id = ? AND hash = ?", org_id, hash_) == 1
    )


async def _add(tx: Tx, org_id: OrgId, content: Content, now: Micros) -> None:
    size = len(content.data)
    sql = (
        "INSERT INTO blobs (org_id, hash, size_bytes, released_at, created_at) VALUES (?, ?, ?, NULL, ?)"
        " ON CONFLICT DO NOTHING"
    )
    while await tx.run(sql, org_id, content.hash, size, now) == 0:
        # Somebody else has added it since it was looked for, and may even have let go of it.
        if await _retain(tx, org_id, content.hash):
            return
    rows = [
        (org_id, content.hash, part, content.data[part * PART : (part + 1) * PART])
        for part in range(parts_of(size))
    ]
    if rows:
        await tx.run_many("INSERT INTO blob_parts (org_id, hash, part, content) VALUES (?, ?, ?, ?)", rows)


async def read_content(tx: Tx, org_id: OrgId, hash_: str, size: int) -> bytes:
    """A whole content of this size, in bytes."""
    rows = await tx.all(
        "SELECT content FROM blob_parts WHERE org_id = ? AND hash = ? ORDER BY part", org_id, hash_
    )
    return _joined(hash_, size, [row[0] for row in rows])


async def read_part(tx: Tx, org_id: OrgId, hash_: str, part: int) -> bytes:
    """One part of a content, counted from 0."""
    row = await tx.one(
        "SELECT content FROM blob_parts WHERE org_id = ? AND hash = ? AND part = ?", org_id, hash_, part
    )
    return _joined(hash_, None, [] if row is None else [row[0]])


async def read_contents(tx: Tx, org_id: OrgId, sizes: dict[str, int]) -> dict[str, bytes]:
    """Several contents by hash, given their sizes in bytes."""
    parts: dict[str, list[bytes]] = {hash_: [] for hash_ in sizes}
    match, hashes = among(tx.dialect, "hash", "TEXT", list(sizes))
    sql = f"SELECT hash, content FROM blob_parts WHERE org_id = ? AND {match} ORDER BY hash, part"
    for row in await tx.all(sql, org_id, hashes) if sizes else ():
        parts[row[0]].append(row[1])
    return {hash_: _joined(hash_, sizes[hash_], found) for hash_, found in parts.items()}


def _joined(hash_: str, size: int | None, parts: Sequence[bytes]) -> bytes:
    data = bytes(parts[0]) if len(parts) == 1 else b"".join(parts)
    if len(data) != size if size is not None else not parts:
        raise RuntimeError(f"the content {hash_} is not whole")
    return data


async def release_contents(tx: Tx, org_id: OrgId, hashes: Iterable[str], now: Micros) -> None:
    """Mark contents that a file has just let go of."""
    released = sorted(set(hashes))
    if released:
        match, some = among(tx.dialect, "hash", "TEXT", released)
        await tx.run(f"UPDATE blobs SET released_at = ? WHERE org_id = ? AND {match}", now, org_id, some)


_NAMED = (
    "EXISTS (SELECT 1 FROM files WHERE files.org_id = blobs.org_id AND files.hash = blobs.hash"
    " AND files.is_directory = 0)"
)


async def purge_blobs(tx: Tx, before: Micros, limit: int = 200) -> Purged:
    """Remove contents that no file names and that were released before an instant.

    One batch, bounded in number and in bytes.
    """
    rows = await tx.all(
        "SELECT org_id, hash, size_bytes FROM blobs WHERE released_at < ? ORDER BY released_at LIMIT ?",
        before,
        limit,
    )
    batch: list[tuple[str, str]] = []
    size = 0
    for org_id, hash_, bytes_ in rows:
        size += bytes_
        if batch and size > PURGED:
            break
        batch.append((org_id, hash_))
    gone = 0
    for org_id, hash_ in sorted(batch):
        # Each statement looks at the mark again: a writer that has taken it off meanwhile wins.
        await tx.run(
            "UPDATE blobs SET released_at = NULL WHERE org_id = ? AND hash = ? AND released_at < ?"
            f" AND {_NAMED}",
            org_id,
            hash_,
            before,
        )
        removed = await tx.run(
            f"DELETE FROM blobs WHERE org_id = ? AND hash = ? AND released_at < ? AND NOT {_NAMED}",
            org_id,
            hash_,
            before,
        )
        if removed:
            await tx.run("DELETE FROM blob_parts WHERE org_id = ? AND hash = ?", org_id, hash_)
            gone += 1
    return Purged(gone, len(batch) < len(rows) or len(rows) == limit)
