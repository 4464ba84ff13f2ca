"""Idempotency-Key: the same request again gets the first answer again, and changes nothing.

The answer is kept in the transaction that does the work, so whatever crashes, either both are there or
neither.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from perdure.app.context import App
from perdure.domain.accounts import Caller
from perdure.domain.errors import Conflict, InvalidInput
from perdure.domain.ids import OrgId, SessionId
from perdure.domain.times import Micros
from perdure.store.database import Body, Database, T, Tx
from perdure.store.sessions import get_session

KEPT = 86_400_000_000
"""Microseconds that an answer is kept: a day."""

MAX_KEY = 255


class Replayed(Exception):
    """The request was answered before, with this status and JSON."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


def check_key(key: str) -> str:
    """The key itself. Raises InvalidInput."""
    if not 1 <= len(key) <= MAX_KEY or not key.isascii() or not key.isprintable():
        raise InvalidInput(
            f"the Idempotency-Key must be 1 to {MAX_KEY} printable ASCII characters",
            code="invalid_idempotency_key",
        )
    return key


def fingerprint(method: str, path: str, body: bytes) -> str:
    """What must be the same for a request to count as the same."""
    return hashlib.sha256(b"\n".join((method.encode(), path.encode(), body))).hexdigest()


class _Guarded:
    """A database whose next transaction is done at most once for a key.

    The transaction's result is the answer: a struct, or a tuple that begins with it and says whether it was
    created.
    """

    def __init__(
        self, inner: Database, org_id: OrgId, key: str, print_: str, now: Micros, session_id: SessionId | None
    ) -> None:
        self._inner = inner
        self._place = (org_id, key, print_, now)
        self._session_id = session_id
        self.dialect = inner.dialect

    async def write(self, body: Body[T], *, single: bool = False) -> T:
        async def guarded(tx: Tx) -> T:
            org_id, key, print_, now = self._place
            await tx.run(
                "DELETE FROM idempotency WHERE org_id = ? AND key = ? AND created_at < ?",
                org_id,
                key,
                now - KEPT,
            )
            taken = await tx.one(
                "INSERT INTO idempotency (org_id, key, fingerprint, status, body, created_at) VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT DO NOTHING RETURNING key",
                org_id,
                key,
                print_,
                0,
                b"",
                now,
            )
            if taken is None:
                if self._session_id is not None:  # what was said in it is gone with it
                    await get_session(tx, org_id, self._session_id)
                await _replay(tx, org_id, key, print_)
            result = await body(tx)
            status, answer = _answer(result)
            await tx.run(
                "UPDATE idempotency SET status = ?, body = ? WHERE org_id = ? AND key = ?",
                status,
                answer,
                org_id,
                key,
            )
            return result

        return await self._inner.write(guarded)

    async def read(self, body: Body[T], *, long: bool = False) -> T:
        return await self._inner.read(body, long=long)

    async def close(self) -> None:
        """Not ours to close."""


async def _replay(tx: Tx, org_id: OrgId, key: str, print_: str) -> None:
    row = await tx.one(
        "SELECT fingerprint, status, body FROM idempotency WHERE org_id = ? AND key = ?", org_id, key
    )
    if row is None or row[0] != print_:
        raise Conflict("this Idempotency-Key was used for another request", code="idempotency_key_reused")
    raise Replayed(row[1], bytes(row[2]))


def _answer(result: Any) -> tuple[int, bytes]:
    if isinstance(result, tuple):
        value, created = result
        return (201 if created else 200), msgspec.json.encode(value)
    return 201, msgspec.json.encode(result)


def once(app: App, caller: Caller, key: str, print_: str, session_id: SessionId | None = None) -> App:
    """The services for a request that carries a key: one of the caller's own, whatever keys others choose.

    A request about a session, `session_id`, is answered again only while that is there.
    """
    mine = f"{caller.user_id} {check_key(key)}"
    database = _Guarded(app.database, caller.organization_id, mine, print_, app.now(), session_id)
    return msgspec.structs.replace(app, database=database)


async def purge_answers(tx: Tx, now: Micros, limit: int = 1000) -> None:
    """Forget answers that are over a day old."""
    rows = await tx.all("SELECT org_id, key FROM idempotency WHERE created_at < ? LIMIT ?", now - KEPT, limit)
    for org_id, key in rows:
        await tx.run("DELETE FROM idempotency WHERE org_id = ? AND key = ?", org_id, key)
