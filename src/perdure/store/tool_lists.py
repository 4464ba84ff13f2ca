"""Lists of tools that were discovered for the model calls of sessions.

A list is a content, stored once per organization under its SHA-256. A session keeps the list of its latest
model call. Nothing needs the earlier ones: a model call begins when all tool calls of the answer before are
done, and the log names the list of each call by its digest.
"""

from __future__ import annotations

from perdure.domain.files import Content
from perdure.domain.ids import OrgId, SessionId
from perdure.domain.times import Micros
from perdure.store.blobs import keep_contents, read_content, release_contents
from perdure.store.database import Tx

DROPPED = 100
"""Earlier lists that are removed at once. A session that was upgraded can have more, and loses them step by
step."""


async def keep_tool_list(tx: Tx, org_id: OrgId, session_id: SessionId, tools: Content, now: Micros) -> None:
    """Store the list of a session's new model call, in place of the list before.

    Costs one statement if they are the same.
    """
    added = await tx.run(
        "INSERT INTO tool_lists (session_id, hash, org_id, size_bytes) VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO NOTHING",
        session_id,
        tools.hash,
        org_id,
        len(tools.data),
    )
    if not added:
        return
    earlier = await tx.all(
        "SELECT hash FROM tool_lists WHERE session_id = ? AND org_id = ? AND hash <> ? LIMIT ?",
        session_id,
        org_id,
        tools.hash,
        DROPPED,
    )
    await tx.run_many(
        "DELETE FROM tool_lists WHERE session_id = ? AND hash = ?", [(session_id, row[0]) for row in earlier]
    )
    # In the order of the hashes: sessions that exchange the same two lists would lock them crosswise.
    for hash_ in sorted((tools.hash, *(row[0] for row in earlier))):
        if hash_ == tools.hash:
            await keep_contents(tx, org_id, (tools,), now)
        else:
            await release_contents(tx, org_id, (hash_,), now)


async def read_tool_list(tx: Tx, org_id: OrgId, session_id: SessionId, digest: str) -> Content | None:
    """Read a list of a session; None if the session has no such list."""
    found = await tx.one(
        "SELECT size_bytes FROM tool_lists WHERE session_id = ? AND hash = ? AND org_id = ?",
        session_id,
        digest,
        org_id,
    )
    if found is None:
        return None
    return Content(await read_content(tx, org_id, digest, found[0]), digest, is_text=True)


async def copy_tool_lists(tx: Tx, source: SessionId, target: SessionId) -> None:
    """Give a session the lists of another one, whose log it has a copy of."""
    await tx.run(
        "INSERT INTO tool_lists (session_id, hash, org_id, size_bytes)"
        " SELECT ?, hash, org_id, size_bytes FROM tool_lists WHERE session_id = ?",
        target,
        source,
    )


async def drop_tool_lists(tx: Tx, org_id: OrgId, session_id: SessionId, now: Micros) -> None:
    """Remove a session's lists, which no other session may need."""
    rows = await tx.all("SELECT hash FROM tool_lists WHERE session_id = ? AND org_id = ?", session_id, org_id)
    if rows:
        await tx.run("DELETE FROM tool_lists WHERE session_id = ? AND org_id = ?", session_id, org_id)
        await release_contents(tx, org_id, [row[0] for row in rows], now)
