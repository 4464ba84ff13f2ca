"""Rows of pins: the definitions of MCP servers' tools as they were first seen, or accepted last."""

from __future__ import annotations

from collections.abc import Mapping

from perdure.domain.ids import OrgId
from perdure.domain.times import Micros
from perdure.store.database import Tx

INLINE_PINS = "inline:"
"""How the key of an inline server begins; the digest of its URL follows."""
DAY = 86_400_000_000
USED_AGAIN = DAY
"""Microseconds after which the use of an inline server is noted again, in `pinned_at`."""
UNUSED = 90 * DAY
"""Microseconds after which the pins of an inline server that nobody uses are forgotten."""


async def last_noted(tx: Tx, org_id: OrgId, server: str) -> Micros | None:
    """Return when the use of an inline server was noted last; None if it has no pins."""
    row = await tx.one("SELECT MIN(pinned_at) FROM mcp_pins WHERE org_id = ? AND server = ?", org_id, server)
    return None if row is None else row[0]


async def read_pins(tx: Tx, org_id: OrgId, server: str) -> dict[str, str]:
    """Return the digests of a server's tools, by their names at the server."""
    rows = await tx.all("SELECT tool, digest FROM mcp_pins WHERE org_id = ? AND server = ?", org_id, server)
    return {row[0]: row[1] for row in rows}


async def add_pins(tx: Tx, org_id: OrgId, server: str, digests: Mapping[str, str], now: Micros) -> None:
    """Pin tools that are seen for the first time. Those that another process has pinned stay as they are."""
    # In one order: two processes that add the same rows would lock them crosswise.
    for tool, digest in sorted(digests.items()):
        await tx.run(
            "INSERT INTO mcp_pins (org_id, server, tool, digest, pinned_at) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            org_id,
            server,
            tool,
            digest,
            now,
        )


async def accept_pin(tx: Tx, org_id: OrgId, server: str, tool: str, digest: str, now: Micros) -> None:
    """Pin a tool's definition in place of the one before."""
    await tx.run(
        "INSERT INTO mcp_pins (org_id, server, tool, digest, pinned_at) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (org_id, server, tool)"
        " DO UPDATE SET digest = excluded.digest, pinned_at = excluded.pinned_at",
        org_id,
        server,
        tool,
        digest,
        now,
    )


async def keep_pins(tx: Tx, org_id: OrgId, server: str, now: Micros) -> None:
    """Note that an inline server is in use."""
    await tx.run("UPDATE mcp_pins SET pinned_at = ? WHERE org_id = ? AND server = ?", now, org_id, server)


async def drop_unused_pins(tx: Tx, org_id: OrgId, now: Micros) -> None:
    """Forget the pins of an organization's inline servers that nobody uses any more.

    No session owns them: others with the same URL rely on them, and would take whatever the server says next
    for the first definition if they went with a session.
    """
    await tx.run(
        "DELETE FROM mcp_pins WHERE org_id = ? AND server LIKE ? AND pinned_at < ?",
        org_id,
        f"{INLINE_PINS}%",
        now - UNUSED,
    )


async def drop_pins(tx: Tx, org_id: OrgId, server: str) -> None:
    """Forget the pins of a server that is deleted for good."""
    await tx.run("DELETE FROM mcp_pins WHERE org_id = ? AND server = ?", org_id, server)
