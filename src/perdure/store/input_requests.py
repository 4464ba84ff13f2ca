"""Rows of what parked calls ask people for."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

from perdure.domain.ids import ExecId, InputRequestId, OrgId, SessionId, ToolCallId, TurnId
from perdure.domain.input_requests import StoredInput
from perdure.domain.times import Micros
from perdure.store.crypto import Vault
from perdure.store.database import Purged, Tx
from perdure.store.rows import columns, from_json, insert, to_json, values

InputStatus = Literal["open", "answered", "ended"]

KEPT = 24 * 3600 * 1_000_000
"""Microseconds for which a question is kept after its deadline."""


class InputRequestRow(Struct, frozen=True):
    """A question. Several ones of a call are asked at the same time, and answered one by one.

    Attributes:
        kind: `sign_in` or `input`, as the call is parked.
        identity: whose sign-in it asks for: a user's id, or `service`.
        server_key: the server, as `connections` has it.
        sealed: what is asked, and the answer, encrypted at `binding`.
        known_at: when the sign-in was made that does not suffice; 0 without one.
        deadline: until when the call waits.
    """

    id: InputRequestId
    org_id: OrgId
    session_id: SessionId
    turn_id: TurnId
    exec_id: ExecId
    tool_call_id: ToolCallId
    tool_name: str
    kind: Literal["sign_in", "input"]
    identity: str
    server_key: str
    status: InputStatus
    sealed: bytes
    known_at: Micros
    created_at: Micros
    deadline: Micros

    @property
    def binding(self) -> str:
        """The associated data that `sealed` is encrypted with."""
        return input_binding(self.id)


def input_binding(request_id: InputRequestId) -> str:
    """Return the associated data that a question is encrypted with."""
    return f"input/{request_id}"


_STORED = msgspec.json.Decoder(StoredInput)


async def seal_input(
    vault: Vault, tx: Tx, org_id: OrgId, request_id: InputRequestId, stored: StoredInput
) -> bytes:
    """Encrypt a question."""
    return await vault.seal(tx, org_id, to_json(stored), input_binding(request_id))


async def open_input(vault: Vault, tx: Tx, row: InputRequestRow) -> StoredInput:
    """Decrypt a question."""
    text = await vault.open(tx, row.org_id, row.sealed, row.binding)
    return from_json(_STORED, text, f"the input request {row.id}")


_COLUMNS = columns(InputRequestRow)
_INSERT = insert("input_requests", InputRequestRow)
_OF_CALL = "session_id = ? AND exec_id = ? AND tool_call_id = ?"


async def add_input_request(tx: Tx, row: InputRequestRow) -> None:
    await tx.run(_INSERT, *values(row))


async def find_input_request(tx: Tx, org_id: OrgId, request_id: InputRequestId) -> InputRequestRow | None:
    found = await tx.one(
        f"SELECT {_COLUMNS} FROM input_requests WHERE id = ? AND org_id = ?", request_id, org_id
    )
    return None if found is None else InputRequestRow(*found)


async def any_input_request(tx: Tx, request_id: InputRequestId) -> InputRequestRow | None:
    """Return a question of any organization: only for a server without a login, which has one owner."""
    found = await tx.one(f"SELECT {_COLUMNS} FROM input_requests WHERE id = ?", request_id)
    return None if found is None else InputRequestRow(*found)


async def requests_of_call(
    tx: Tx, session_id: SessionId, exec_id: ExecId, call_id: ToolCallId
) -> list[InputRequestRow]:
    """Return all questions of a call, oldest first."""
    rows = await tx.all(
        f"SELECT {_COLUMNS} FROM input_requests WHERE {_OF_CALL} ORDER BY created_at, id",
        session_id,
        exec_id,
        call_id,
    )
    return [InputRequestRow(*row) for row in rows]


async def open_requests(tx: Tx, session_id: SessionId, now: Micros) -> list[InputRequestRow]:
    """Return the session's questions that are open, oldest first."""
    rows = await tx.all(
        f"SELECT {_COLUMNS} FROM input_requests WHERE session_id = ? AND status = 'open' AND deadline > ?"
        " ORDER BY created_at, id",
        session_id,
        now,
    )
    return [InputRequestRow(*row) for row in rows]


async def sign_ins_asked(
    tx: Tx, org_id: OrgId, identity: str, now: Micros, limit: int = 200
) -> list[InputRequestRow]:
    """Return the open questions for a sign-in of this identity, oldest first."""
    rows = await tx.all(
        f"SELECT {_COLUMNS} FROM input_requests WHERE org_id = ? AND identity = ? AND status = 'open'"
        " AND kind = 'sign_in' AND deadline > ? ORDER BY created_at, id LIMIT ?",
        org_id,
        identity,
        now,
        limit,
    )
    return [InputRequestRow(*row) for row in rows]


async def signed_in_since(tx: Tx, now: Micros, limit: int = 200) -> list[InputRequestRow]:
    """Return open questions for a sign-in that has happened since their calls looked for one."""
    rows = await tx.all(
        f"SELECT {columns(InputRequestRow, alias='i')} FROM input_requests i JOIN connections c"
        " ON c.org_id = i.org_id AND c.identity = i.identity AND c.server_key = i.server_key"
        " WHERE i.status = 'open' AND i.kind = 'sign_in' AND c.signed_in_at <> i.known_at"
        " AND i.deadline > ? ORDER BY i.created_at, i.id LIMIT ?",
        now,
        limit,
    )
    return [InputRequestRow(*row) for row in rows]


async def update_input_request(
    tx: Tx, row: InputRequestRow, status: InputStatus, sealed: bytes | None = None
) -> bool:
    """Set an open question's status; return whether it was still open."""
    count = await tx.run(
        "UPDATE input_requests SET status = ?, sealed = ? WHERE id = ? AND status = 'open'",
        status,
        row.sealed if sealed is None else sealed,
        row.id,
    )
    return count == 1


async def remove_requests_of_call(
    tx: Tx, session_id: SessionId, exec_id: ExecId, call_id: ToolCallId
) -> None:
    """Remove a call's questions: it asks new ones."""
    await tx.run(f"DELETE FROM input_requests WHERE {_OF_CALL}", session_id, exec_id, call_id)


async def remove_requests_of_turn(tx: Tx, session_id: SessionId, turn_id: TurnId) -> None:
    await tx.run("DELETE FROM input_requests WHERE session_id = ? AND turn_id = ?", session_id, turn_id)


async def purge_input_requests(tx: Tx, before: Micros, batch: int = 500) -> Purged:
    """Remove a batch of questions whose deadlines passed before an instant."""
    rows = await tx.all("SELECT id FROM input_requests WHERE deadline < ? LIMIT ?", before, batch)
    await tx.run_many("DELETE FROM input_requests WHERE id = ?", rows)
    return Purged(len(rows), len(rows) == batch)
