"""The Idempotency-Key header: which requests may carry one, and what makes two requests the same."""

from __future__ import annotations

import hashlib

from perdure.api.kernel.asgi import Headers
from perdure.api.kernel.route import Route
from perdure.app.idempotency import Once
from perdure.domain.accounts import Caller
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import SessionId

MAX_KEY = 255


def once_of(
    route: Route, headers: Headers, caller: Caller, path: str, body: bytes, session_id: str | None
) -> Once | None:
    """The key of a request, if it carries one and the route takes one. Raises InvalidInput."""
    given = headers.get(b"idempotency-key")
    if given is None or not route.takes_key:
        return None
    return Once(
        caller.organization_id,
        # One of the caller's own, whatever keys others choose.
        f"{caller.user_id} {_checked(given.decode('latin-1'))}",
        fingerprint(route.method, path, body),
        None if session_id is None else SessionId(session_id),
    )


def fingerprint(method: str, path: str, body: bytes) -> str:
    """What must be the same for a request to count as the same."""
    return hashlib.sha256(b"\n".join((method.encode(), path.encode(), body))).hexdigest()


def _checked(key: str) -> str:
    if not 1 <= len(key) <= MAX_KEY or not key.isascii() or not key.isprintable():
        raise InvalidInput(
            f"the Idempotency-Key must be 1 to {MAX_KEY} printable ASCII characters",
            code="invalid_idempotency_key",
        )
    return key
