"""The Idempotency-Key header, and the fingerprint that identifies a repeated request."""

from __future__ import annotations

import hashlib

from perdure.app.idempotency import Once
from perdure.domain.accounts import Caller
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import SessionId

MAX_KEY = 255
"""The maximum length of an Idempotency-Key, in characters."""


def once_of(key: bytes, fingerprint: str, caller: Caller, session_id: str | None) -> Once:
    """Build the idempotency guard of a request.

    Args:
        key: the Idempotency-Key header.
        session_id: the session in the request's path, if there is one.

    Raises:
        InvalidInput: the key is empty, too long or not printable ASCII.
    """
    return Once(
        caller.organization_id,
        # Each user has a key space of their own: equal keys of two users do not collide.
        f"{caller.user_id} {_checked(key.decode('latin-1'))}",
        fingerprint,
        None if session_id is None else SessionId(session_id),
    )


def fingerprint(method: str, path: str, body: bytes) -> str:
    """Hash the parts of a request that must be equal for it to count as repeated."""
    return hashlib.sha256(b"\n".join((method.encode(), path.encode(), body))).hexdigest()


def _checked(key: str) -> str:
    if not 1 <= len(key) <= MAX_KEY or not key.isascii() or not key.isprintable():
        raise InvalidInput(
            f"the Idempotency-Key must be 1 to {MAX_KEY} printable ASCII characters",
            code="invalid_idempotency_key",
        )
    return key
