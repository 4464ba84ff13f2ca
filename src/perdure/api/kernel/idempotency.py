"""The Idempotency-Key header, and what makes two requests the same."""

from __future__ import annotations

import hashlib

from perdure.app.idempotency import Once
from perdure.domain.accounts import Caller
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import SessionId

MAX_KEY = 255


def once_of(key: bytes, fingerprint: str, caller: Caller, session_id: str | None) -> Once:
    """The key of a request, about this session if it is about one. Raises InvalidInput."""
    return Once(
        caller.organization_id,
        # One of the caller's own, whatever keys others choose.
        f"{caller.user_id} {_checked(key.decode('latin-1'))}",
        fingerprint,
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
