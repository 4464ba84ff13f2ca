"""Idempotency-Key: the same request again gets the first answer again, and changes nothing.

The answer is kept in the transaction that does the work, so whatever crashes, either both are there or
neither.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from perdure.app.context import Services
from perdure.domain.errors import Conflict
from perdure.domain.ids import OrgId, SessionId
from perdure.store.database import Body, T, Tx
from perdure.store.idempotency import KEPT, keep_answer, kept_answer, take_key
from perdure.store.sessions import get_session


class Replayed(Exception):
    """The request was answered before, with this status and JSON."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


class Once:
    """The key of one request, for the one transaction that does its work.

    Args:
        key: the caller's own.
        fingerprint: what must be the same for a request to count as the same.
        session_id: the session that the request is about: it is answered again only while that is there.
    """

    __slots__ = ("fingerprint", "key", "org_id", "session_id", "used")

    def __init__(self, org_id: OrgId, key: str, fingerprint: str, session_id: SessionId | None) -> None:
        self.org_id = org_id
        self.key = key
        self.fingerprint = fingerprint
        self.session_id = session_id
        self.used = False
        """Whether a transaction with this key has committed."""


def created(value: object) -> tuple[object, int]:
    """The answer to a request that has made this."""
    return value, 201


def write_once(
    app: Services, once: Once | None, work: Body[T], answer: Callable[[T], tuple[object, int]] = created
) -> Awaitable[T]:
    """Run a use case's transaction, and keep the answer under the request's key if there is one.

    Args:
        answer: what the request is answered with, and its status, given the transaction's result.

    Raises:
        Replayed: the request was answered before; nothing is done.
        Conflict: the key was used for another request.
        NotFound: the request was answered before, and its session is gone.
        RuntimeError: the key has been used in a transaction of this very request: a use case that takes a key
            has one transaction.
    """
    return app.database.write(work) if once is None else _write_once(app, once, work, answer)


async def _write_once(
    app: Services, once: Once, work: Body[T], answer: Callable[[T], tuple[object, int]]
) -> T:
    if once.used:
        raise RuntimeError("a request with an Idempotency-Key must do its work in one transaction")
    now = app.now()

    async def guarded(tx: Tx) -> T:
        if not await take_key(tx, once.org_id, once.key, once.fingerprint, now, now - KEPT):
            if once.session_id is not None:  # what was said in it is gone with it
                await get_session(tx, once.org_id, once.session_id)
            before = await kept_answer(tx, once.org_id, once.key)
            if before is None or before.fingerprint != once.fingerprint:
                raise Conflict(
                    "this Idempotency-Key was used for another request", code="idempotency_key_reused"
                )
            raise Replayed(before.status, before.body)
        result = await work(tx)
        value, status = answer(result)
        await keep_answer(tx, once.org_id, once.key, status, msgspec.json.encode(value))
        return result

    result = await app.database.write(guarded)
    once.used = True
    return result
