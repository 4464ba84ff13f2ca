"""Idempotency-Key: a repeated request gets the first response again and changes nothing.

The response is stored in the transaction that does the work, so a crash cannot leave one without the other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from perdure.app.context import Services
from perdure.domain.errors import Conflict
from perdure.domain.ids import OrgId, SessionId
from perdure.domain.runs import StartedRun
from perdure.domain.sessions import Session
from perdure.store.database import Body, T, Tx
from perdure.store.idempotency import KEPT, keep_answer, kept_answer, take_key
from perdure.store.sessions import get_session


class Replayed(Exception):
    """The request is a repetition: carries the status and the JSON of the first response."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


class Once:
    """The Idempotency-Key of one request, for the one transaction that does its work.

    Args:
        org_id: the caller's organization.
        key: the key, unique to the caller.
        fingerprint: a hash of the request; a repeated request must have the same.
        session_id: the session in the request's path. If it has been deleted, the stored response is not
            returned. None if the request is about no session.
    """

    __slots__ = ("fingerprint", "key", "org_id", "session_id", "used")

    def __init__(self, org_id: OrgId, key: str, fingerprint: str, session_id: SessionId | None) -> None:
        self.org_id = org_id
        self.key = key
        self.fingerprint = fingerprint
        self.session_id = session_id
        self.used = False
        """Whether a transaction with this key has committed, during this request or before it."""


async def replay(app: Services, once: Once | None) -> None:
    """Raise Replayed if the request is a repetition, before work outside the transaction begins."""
    if once is None:
        return
    before = await app.database.read(lambda tx: kept_answer(tx, once.org_id, once.key))
    if before is not None and before.fingerprint == once.fingerprint:
        raise Replayed(before.status, before.body)


def created(value: object) -> tuple[object, int]:
    """Return the response to a request that created a resource: the resource, with the status 201."""
    return value, 201


def write_once(
    app: Services, once: Once | None, work: Body[T], answer: Callable[[T], tuple[object, int]] = created
) -> Awaitable[T]:
    """Run a use case's transaction and, if the request has a key, store the response under it.

    Args:
        once: the request's key; None if it has none.
        work: the transaction's body.
        answer: converts the transaction's result into the response's value and status.

    Raises:
        Replayed: the request is a repetition; nothing was done.
        Conflict: the key was used for a different request.
        NotFound: the request is a repetition, and its session has been deleted.
        RuntimeError: this request has already used its key in another transaction. A use case that takes a
            key must do all its work in one transaction.
    """
    return app.database.write(work) if once is None else _write_once(app, once, work, answer)


async def first_answer(once: Once | None, work: Awaitable[T], kind: type[T]) -> T:
    """Run a use case that takes the key. Of a repetition, return what the first request stored.

    For requests whose response is more than what they store.

    Args:
        kind: the type of what is stored.
    """
    try:
        return await work
    except Replayed as before:
        if once is None:
            raise
        once.used = True
        return msgspec.json.decode(before.body, type=kind)


async def _write_once(
    app: Services, once: Once, work: Body[T], answer: Callable[[T], tuple[object, int]]
) -> T:
    if once.used:
        raise RuntimeError("a request with an Idempotency-Key must do its work in one transaction")
    now = app.now()

    async def guarded(tx: Tx) -> T:
        about = once.session_id
        if not await take_key(tx, once.org_id, once.key, once.fingerprint, now, now - KEPT, about):
            if once.session_id is not None:
                # Stored responses may quote a session: do not return them after it was deleted.
                await get_session(tx, once.org_id, once.session_id)
            before = await kept_answer(tx, once.org_id, once.key)
            if before is None or before.fingerprint != once.fingerprint:
                raise Conflict(
                    "this Idempotency-Key was used for another request: use a new key",
                    code="idempotency_key_reused",
                )
            raise Replayed(before.status, before.body)
        result = await work(tx)
        value, status = answer(result)
        body = msgspec.json.encode(value)
        await keep_answer(tx, once.org_id, once.key, status, body, _created_session(value))
        return result

    result = await app.database.write(guarded)
    once.used = True
    return result


def _created_session(value: object) -> SessionId | None:
    """Return the session that a request has created; None if it has created something else."""
    if isinstance(value, Session):
        return value.id
    return value.session_id if isinstance(value, StartedRun) else None
