"""Rows of links that decide an item of the inbox. Only the hashes of their tokens are stored."""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.ids import OrgId, TokenId, UserId
from perdure.domain.inbox import InboxItemId
from perdure.domain.times import Micros
from perdure.store.database import Purged, Tx
from perdure.store.rows import columns, insert, values


class InboxLinkRow(Struct, frozen=True):
    """A link.

    Attributes:
        hash: the SHA-256 of its token.
        made_by: on whose authority it decides.
        made_with: the access token that it was made with; None on a server without a login.
        deadline: until when it works.
    """

    hash: str
    org_id: OrgId
    item_id: InboxItemId
    made_by: UserId
    made_with: TokenId | None
    created_at: Micros
    deadline: Micros


async def add_inbox_link(tx: Tx, row: InboxLinkRow) -> None:
    await tx.run(insert("inbox_links", InboxLinkRow), *values(row))


async def count_inbox_links(tx: Tx, org_id: OrgId, item_id: InboxItemId, now: Micros) -> int:
    """Count the links of an item that still work."""
    row = await tx.one(
        "SELECT COUNT(*) FROM inbox_links WHERE org_id = ? AND item_id = ? AND deadline > ?",
        org_id,
        item_id,
        now,
    )
    return 0 if row is None else row[0]


async def inbox_link_by_hash(tx: Tx, digest: str) -> InboxLinkRow | None:
    """Return the link with this hash, also one whose deadline has passed."""
    found = await tx.one(f"SELECT {columns(InboxLinkRow)} FROM inbox_links WHERE hash = ?", digest)
    return None if found is None else InboxLinkRow(*found)


async def purge_inbox_links(tx: Tx, before: Micros, batch: int = 500) -> Purged:
    """Remove a batch of links whose deadlines passed before an instant in microseconds."""
    rows = await tx.all("SELECT hash FROM inbox_links WHERE deadline < ? LIMIT ?", before, batch)
    await tx.run_many("DELETE FROM inbox_links WHERE hash = ?", rows)
    return Purged(len(rows), len(rows) == batch)
