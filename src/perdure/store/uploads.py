"""Contents that arrive in parts: stored in small transactions, and linked at the end in one.

While a content arrives, its row in `blobs` has a key in place of the hash, which no file refers to, and
counts as released. So what a client or a process leaves behind is purged like any content without a file.
"""

from __future__ import annotations

from collections.abc import Sequence

from perdure.domain.errors import Unavailable
from perdure.domain.files import Uploaded
from perdure.domain.ids import OrgId
from perdure.domain.times import Micros
from perdure.store.blobs import PART, add_row, parts_of, release_contents
from perdure.store.database import Tx

KEY = "upload_"
"""How keys begin; a hash has hexadecimal digits only."""


async def add_parts(
    tx: Tx, org_id: OrgId, key: str, before: int, parts: Sequence[bytes], now: Micros
) -> None:
    """Store the next parts of a content.

    Args:
        key: `KEY` and an id that no other content has.
        before: the bytes that are stored already, a multiple of `PART`.
        parts: parts of `PART` bytes each; only the last one of the content may have fewer.

    Raises:
        Unavailable: the content was purged, because it took too long to arrive.
    """
    size = before + sum(map(len, parts))
    if before == 0:
        await tx.run(
            "INSERT INTO blobs (org_id, hash, size_bytes, released_at, created_at, parts_key)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            org_id,
            key,
            size,
            now,
            now,
            key,
        )
    elif not await tx.run(
        "UPDATE blobs SET size_bytes = ?, released_at = ? WHERE org_id = ? AND hash = ?",
        size,
        now,
        org_id,
        key,
    ):
        raise _purged()
    first = parts_of(before)
    await tx.run_many(
        "INSERT INTO blob_parts (org_id, hash, part, content) VALUES (?, ?, ?, ?)",
        [(org_id, key, first + at, part) for at, part in enumerate(parts)],
    )


async def link_content(tx: Tx, org_id: OrgId, uploaded: Uploaded, now: Micros) -> None:
    """Make a content that has arrived available under its hash, unless the organization has it already.

    Raises:
        Unavailable: the content was purged.
    """
    if await add_row(tx, org_id, uploaded.hash, uploaded.size_bytes, now, uploaded.key):
        removed = await tx.run("DELETE FROM blobs WHERE org_id = ? AND hash = ?", org_id, uploaded.key)
        if not removed:
            raise _purged()
    else:
        await drop_upload(tx, org_id, uploaded.key)


async def stage_upload(tx: Tx, org_id: OrgId, uploaded: Uploaded, now: Micros) -> None:
    """Make a content that has arrived available under its hash, for a transaction that will keep it.

    Unless one does, it is purged like a content that lost its last reference.

    Raises:
        Unavailable: the content was purged.
    """
    await link_content(tx, org_id, uploaded, now)
    await release_contents(tx, org_id, (uploaded.hash,), now)


async def drop_upload(tx: Tx, org_id: OrgId, key: str) -> None:
    """Let the next purge remove a content that arrived in part, or in vain."""
    await tx.run("UPDATE blobs SET released_at = 0 WHERE org_id = ? AND hash = ?", org_id, key)


def _purged() -> Unavailable:
    return Unavailable("the file took too long to arrive: send it again", code="upload_expired")


def split(data: bytes | memoryview) -> list[bytes]:
    """Cut a content, or a piece of one, into parts."""
    return [bytes(data[at : at + PART]) for at in range(0, len(data), PART)]
