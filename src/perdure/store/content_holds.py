"""Which contents sessions and images need besides the files of workspaces, so that they are not purged."""

from __future__ import annotations

from collections.abc import Iterable

from perdure.domain.files import Content
from perdure.domain.ids import OrgId
from perdure.domain.times import Micros
from perdure.store.blobs import keep_contents, release_contents
from perdure.store.database import Tx


async def hold_contents(tx: Tx, org_id: OrgId, owner: str, contents: Iterable[Content], now: Micros) -> None:
    """Store contents for an owner, the id of a session or an image; it may have some of them already."""
    held = sorted({each.hash: each for each in contents}.items())
    await keep_contents(tx, org_id, (each for _, each in held), now)
    for hash_, content in held:
        await tx.run(
            "INSERT INTO content_holds (owner, hash, org_id, size_bytes) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            owner,
            hash_,
            org_id,
            len(content.data),
        )


async def held_by(tx: Tx, org_id: OrgId, owner: str) -> tuple[int, int]:
    """Return how many contents an owner has, and their bytes."""
    sql = "SELECT COUNT(*), COALESCE(SUM(size_bytes), 0) FROM content_holds WHERE owner = ? AND org_id = ?"
    row = await tx.one(sql, owner, org_id)
    return (0, 0) if row is None else (int(row[0]), int(row[1]))


async def copy_holds(tx: Tx, org_id: OrgId, source: str, target: str) -> None:
    """Give a new owner the contents of another one."""
    await tx.run(
        "INSERT INTO content_holds (owner, hash, org_id, size_bytes)"
        " SELECT ?, hash, org_id, size_bytes FROM content_holds WHERE owner = ? AND org_id = ?",
        target,
        source,
        org_id,
    )


async def drop_holds(tx: Tx, org_id: OrgId, owner: str, now: Micros) -> None:
    """Let go of all contents of an owner."""
    rows = await tx.all("SELECT hash FROM content_holds WHERE owner = ? AND org_id = ?", owner, org_id)
    if rows:
        await tx.run("DELETE FROM content_holds WHERE owner = ? AND org_id = ?", owner, org_id)
        await release_contents(tx, org_id, [row[0] for row in rows], now)
