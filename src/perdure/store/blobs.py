"""Contents of files, stored once per organization under their SHA-256, in parts, and never changed.

Files refer to their content by its hash, so copies, forks and initial files of many sessions take no extra
space. Sessions refer in the same way to the lists of their discovered tools (`tool_lists.py`) and to the
files of their messages, images to their bytes (`content_holds.py`), skills to their files (`skills.py`), and
versions of the files of memories to theirs (`memory_versions.py`). A content that may have lost its last
reference is marked with `released_at`. An hour later `purge_blobs` checks marked contents and removes those
that nothing refers to. The delay replaces reference counting: a transaction that saw a file with the content,
and is about to give it to another file, has long ended by then (a statement's limit is 30 seconds).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from perdure.domain.files import Content
from perdure.domain.ids import OrgId
from perdure.domain.times import Micros
from perdure.store.database import LOCK_ROW, Purged, Tx, Value, first_within
from perdure.store.erasures import Tally
from perdure.store.rows import among

PART = 256 * 1024
"""Bytes of a part, which bounds what a streaming reader holds in memory."""
KEPT = 3_600_000_000
"""Microseconds between a content's last release and its removal."""
PURGED = 16 * 1024 * 1024
"""Bytes that one batch removes, unless a single content that arrived at once is larger. On SQLite all writes
wait for the batch (measured: 3 ms per MB)."""

PARTS = "blobs b JOIN blob_parts p ON p.org_id = b.org_id AND p.hash = COALESCE(b.parts_key, b.hash)"
"""Contents with their parts. One that arrived in parts has them under a key of its own (`uploads.py`)."""


def parts_of(size: int) -> int:
    """Return the number of parts of a content of `size` bytes."""
    return -(-size // PART)


async def keep_contents(tx: Tx, org_id: OrgId, contents: Iterable[Content], now: Micros) -> None:
    """Store these contents; those that the organization already has are not sent again."""
    by_hash = {content.hash: content for content in contents}
    if not by_hash:
        return
    match, hashes = among(tx.dialect, "hash", "TEXT", sorted(by_hash))
    rows = await tx.all(
        f"SELECT hash, released_at FROM blobs WHERE org_id = ? AND {match} ORDER BY hash", org_id, hashes
    )
    present = {row[0] for row in rows if row[1] is None}
    # The others are marked: remove the marks, unless a concurrent purge has just removed the content.
    present |= await _retain(tx, org_id, [row[0] for row in rows if row[1] is not None])
    for hash_ in sorted(by_hash.keys() - present):
        await _add(tx, org_id, by_hash[hash_], now)


async def send_ahead(tx: Tx, org_id: OrgId, content: Content, now: Micros) -> None:
    """Store a long content before the caller locks rows, so that no transaction waits for its upload."""
    if len(content.data) > PART:
        await keep_contents(tx, org_id, (content,), now)


async def stage_content(tx: Tx, org_id: OrgId, content: Content, now: Micros) -> None:
    """Store a long content before the transaction that needs it, so that nothing is locked meanwhile.

    Unless one comes that keeps it, it is purged like a content that lost its last reference.
    """
    if len(content.data) > PART:
        await stage_contents(tx, org_id, (content,), now)


async def stage_contents(tx: Tx, org_id: OrgId, contents: Iterable[Content], now: Micros) -> None:
    """Store contents before the transaction that needs them; see `stage_content`."""
    sql = (
        "INSERT INTO blobs (org_id, hash, size_bytes, released_at, created_at) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT DO NOTHING"
    )
    known = list[str]()
    for content in sorted(contents, key=lambda each: each.hash):
        if await tx.run(sql, org_id, content.hash, len(content.data), now, now):
            await _add_parts(tx, org_id, content)
        else:
            known.append(content.hash)
    if known:  # those that are marked already must live as long as new ones
        match, hashes = among(tx.dialect, "hash", "TEXT", known)
        await tx.run(
            f"UPDATE blobs SET released_at = ? WHERE org_id = ? AND {match} AND released_at IS NOT NULL",
            now,
            org_id,
            hashes,
        )


async def _retain(tx: Tx, org_id: OrgId, hashes: Sequence[str]) -> set[str]:
    """Remove the marks of contents; return those that exist."""
    if not hashes:
        return set()
    match, choices = among(tx.dialect, "hash", "TEXT", hashes)
    if LOCK_ROW[tx.dialect]:  # in the order in which others lock them
        ordered = f"SELECT hash FROM blobs WHERE org_id = ? AND {match} ORDER BY hash{LOCK_ROW[tx.dialect]}"
        await tx.all(ordered, org_id, choices)
    sql = f"UPDATE blobs SET released_at = NULL WHERE org_id = ? AND {match} RETURNING hash"
    return {row[0] for row in await tx.all(sql, org_id, choices)}


async def add_row(
    tx: Tx, org_id: OrgId, hash_: str, size: int, now: Micros, parts_key: str | None = None
) -> bool:
    """Add a content's row, or remove the mark of an existing one; return whether it was added."""
    sql = (
        "INSERT INTO blobs (org_id, hash, size_bytes, released_at, created_at, parts_key)"
        " VALUES (?, ?, ?, NULL, ?, ?) ON CONFLICT DO NOTHING"
    )
    while await tx.run(sql, org_id, hash_, size, now, parts_key) == 0:
        # Another transaction has added the content since it was looked up, and may have released it again.
        if await _retain(tx, org_id, (hash_,)):
            return False
    return True


async def _add(tx: Tx, org_id: OrgId, content: Content, now: Micros) -> None:
    size = len(content.data)
    if await add_row(tx, org_id, content.hash, size, now):
        await _add_parts(tx, org_id, content)


async def _add_parts(tx: Tx, org_id: OrgId, content: Content) -> None:
    rows = [
        (org_id, content.hash, part, content.data[part * PART : (part + 1) * PART])
        for part in range(parts_of(len(content.data)))
    ]
    if rows:
        await tx.run_many("INSERT INTO blob_parts (org_id, hash, part, content) VALUES (?, ?, ?, ?)", rows)


async def read_content(tx: Tx, org_id: OrgId, hash_: str, size: int) -> bytes:
    """Read a whole content of `size` bytes."""
    rows = await tx.all(
        f"SELECT p.content FROM {PARTS} WHERE b.org_id = ? AND b.hash = ? ORDER BY p.part", org_id, hash_
    )
    return _joined(hash_, size, [row[0] for row in rows])


async def read_part(tx: Tx, org_id: OrgId, hash_: str, part: int) -> bytes:
    """Read one part of a content, counted from 0."""
    row = await tx.one(
        f"SELECT p.content FROM {PARTS} WHERE b.org_id = ? AND b.hash = ? AND p.part = ?",
        org_id,
        hash_,
        part,
    )
    return _joined(hash_, None, [] if row is None else [row[0]])


async def read_contents(tx: Tx, org_id: OrgId, sizes: dict[str, int]) -> dict[str, bytes]:
    """Read several contents, by hash, given their sizes in bytes."""
    parts: dict[str, list[bytes]] = {hash_: [] for hash_ in sizes}
    match, hashes = among(tx.dialect, "b.hash", "TEXT", list(sizes))
    sql = f"SELECT b.hash, p.content FROM {PARTS} WHERE b.org_id = ? AND {match} ORDER BY b.hash, p.part"
    for row in await tx.all(sql, org_id, hashes) if sizes else ():
        parts[row[0]].append(row[1])
    return {hash_: _joined(hash_, sizes[hash_], found) for hash_, found in parts.items()}


def _joined(hash_: str, size: int | None, parts: Sequence[bytes]) -> bytes:
    data = bytes(parts[0]) if len(parts) == 1 else b"".join(parts)
    if len(data) != size if size is not None else not parts:
        raise RuntimeError(f"the content {hash_} is incomplete in the database")
    return data


async def release_contents(tx: Tx, org_id: OrgId, hashes: Iterable[str], now: Micros) -> None:
    """Mark contents that a file no longer refers to."""
    released = sorted(set(hashes))
    if released:
        match, choices = among(tx.dialect, "hash", "TEXT", released)
        await tx.run(f"UPDATE blobs SET released_at = ? WHERE org_id = ? AND {match}", now, org_id, choices)


_IN_USE = (
    "(EXISTS (SELECT 1 FROM files WHERE files.org_id = blobs.org_id AND files.hash = blobs.hash"
    " AND files.is_directory = 0)"
    " OR EXISTS (SELECT 1 FROM tool_lists WHERE tool_lists.org_id = blobs.org_id"
    " AND tool_lists.hash = blobs.hash)"
    " OR EXISTS (SELECT 1 FROM skill_files WHERE skill_files.org_id = blobs.org_id"
    " AND skill_files.hash = blobs.hash)"
    " OR EXISTS (SELECT 1 FROM content_holds WHERE content_holds.org_id = blobs.org_id"
    " AND content_holds.hash = blobs.hash)"
    " OR EXISTS (SELECT 1 FROM memory_versions WHERE memory_versions.org_id = blobs.org_id"
    " AND memory_versions.hash = blobs.hash AND memory_versions.redacted_at IS NULL))"
)


ERASED = 1
"""In place of the time of a release, by an erasure: only that erasure's purge removes the content, as soon as
no transaction is open that may have seen it. Contents of others keep their time."""


async def purge_blobs(tx: Tx, before: Micros, limit: int = 200) -> Purged:
    """Remove one batch of contents that were released before an instant and that nothing refers to.

    Args:
        before: an instant in microseconds.
        limit: the most contents to look at; `PURGED` bounds their bytes.
    """
    return await _purge(tx, f"released_at < ? AND released_at <> {ERASED}", (before,), limit, Tally())


async def purge_erased_blobs(tx: Tx, org_id: OrgId, tally: Tally, limit: int = 200) -> Purged:
    """Remove one batch of contents that erasures in an organization have released, and count them."""
    return await _purge(tx, f"released_at = {ERASED} AND org_id = ?", (org_id,), limit, tally)


async def _purge(tx: Tx, due: str, args: tuple[Value, ...], limit: int, tally: Tally) -> Purged:
    rows = await tx.all(
        f"SELECT org_id, hash, size_bytes FROM blobs WHERE {due} ORDER BY released_at LIMIT ?",
        *args,
        limit,
    )
    batch = first_within(rows, PURGED)
    sizes = {(row[0], row[1]): row[2] for row in rows}
    gone, more = 0, len(batch) < len(rows) or len(rows) == limit
    for org_id, hash_ in sorted(batch):
        # Each statement checks the mark again, so that a writer that has removed it meanwhile wins.
        this = f"org_id = ? AND hash = ? AND {due}"
        await tx.run(f"UPDATE blobs SET released_at = NULL WHERE {this} AND {_IN_USE}", org_id, hash_, *args)
        if sizes[org_id, hash_] > PURGED and await _shorten(tx, this, (org_id, hash_, *args)):
            more = True
            continue
        removed = await tx.one(
            f"DELETE FROM blobs WHERE {this} AND NOT {_IN_USE} RETURNING COALESCE(parts_key, hash)",
            org_id,
            hash_,
            *args,
        )
        if removed is not None:
            await tx.run("DELETE FROM blob_parts WHERE org_id = ? AND hash = ?", org_id, removed[0])
            gone += 1
            tally.add("contents", 1, sizes[org_id, hash_])
    return Purged(gone, more)


async def _shorten(tx: Tx, this: str, args: tuple[Value, ...]) -> bool:
    """Remove the last `PURGED` bytes of a long content that arrived in parts; return whether it is one.

    First its row gives up the hash, so that nobody finds a content that is not whole any more.

    Args:
        this: the condition of its row, with `args`, which begin with the organization.
    """
    row = await tx.one(
        f"UPDATE blobs SET hash = parts_key, size_bytes = size_bytes - ? WHERE {this}"
        f" AND parts_key IS NOT NULL AND NOT {_IN_USE} RETURNING parts_key, size_bytes",
        PURGED,
        *args,
    )
    if row is not None:
        await tx.run(
            "DELETE FROM blob_parts WHERE org_id = ? AND hash = ? AND part >= ?",
            args[0],
            row[0],
            parts_of(row[1]),
        )
    return row is not None
