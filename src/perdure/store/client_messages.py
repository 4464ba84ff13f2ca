"""The messages that clients gave ids of their own."""

from __future__ import annotations

from msgspec import Struct

from perdure.store.database import Tx
from perdure.store.sessions import SessionRow


class Sent(Struct, frozen=True):
    """A message that a client has sent.

    Attributes:
        fingerprint: a hash of the request.
        sequence: the message's place in the session's log.
    """

    fingerprint: str
    sequence: int


async def sent_message(tx: Tx, row: SessionRow, client_message_id: str) -> Sent | None:
    """Return the session's message with this id; None if it has none."""
    found = await tx.one(
        "SELECT fingerprint, sequence FROM client_messages"
        " WHERE session_id = ? AND client_message_id = ? AND org_id = ?",
        row.id,
        client_message_id,
        row.org_id,
    )
    return None if found is None else Sent(*found)


async def keep_sent_message(tx: Tx, row: SessionRow, client_message_id: str, sent: Sent) -> None:
    """Store that the session has a message with this id."""
    await tx.run(
        "INSERT INTO client_messages (session_id, client_message_id, org_id, fingerprint, sequence)"
        " VALUES (?, ?, ?, ?, ?)",
        row.id,
        client_message_id,
        row.org_id,
        sent.fingerprint,
        sent.sequence,
    )
