"""Callbacks: URLs with one-time tokens, through which the result of a tool call comes later."""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from perdure.domain.errors import InvalidInput
from perdure.domain.ids import CallbackId, SessionId, ToolCallId
from perdure.domain.messages import JsonObject, JsonValue
from perdure.domain.times import CreatedAt, Timestamp

MAX_SECONDS = 10 * 365 * 24 * 3600.0
"""The longest time that a callback may stay open: ten years."""
MAX_OPEN = 100
"""The most callbacks of a session that may be open."""
MAX_BODY = 1024 * 1024
"""The most bytes of a callback's body. The result in it has the limit of client-side tools, 100 KB."""
MAX_MESSAGE = 500
"""Characters of the text that says what a parked call waits for."""

TOKEN_PREFIX = "pdr_cb_"  # noqa: S105 (a prefix, not a token)

LATE_RESULT = "callback"
"""The key in a message's metadata that tells clients which callback's late result the message is."""


class OpenCallback(Struct, frozen=True, omit_defaults=True):
    """A callback that has not been answered yet. Its URL is known only to the tool that made it."""

    id: Annotated[CallbackId, Meta(description="The callback's id.")]
    session_id: Annotated[SessionId, Meta(description="The session that waits for it.")]
    tool_call_id: Annotated[
        ToolCallId, Meta(description="The id of the tool call whose result it brings.", examples=["call_1"])
    ]
    tool_name: Annotated[str, Meta(description="The name of the tool.", examples=["order_shipment"])]
    in_background: Annotated[
        bool,
        Meta(
            description=(
                "Whether the turn went on without it. Its result then becomes a message of the session."
            ),
            examples=[False],
        ),
    ]
    created_at: CreatedAt
    expires_at: Annotated[
        Timestamp,
        Meta(description="The end of its time to be answered.", examples=["2026-03-15T09:26:53.589793Z"]),
    ]


class CallbackResult(Struct, frozen=True):
    """What a callback brings: a value, or the error that fails the call."""

    value: JsonValue = None
    error: str | None = None


_TOKEN = re.compile(r"(pdr_[a-z]{2}_[A-Za-z0-9_-]{43})([A-Za-z0-9_-]{22})")


def sign_token(key: bytes, secret: str, prefix: str = TOKEN_PREFIX) -> str:
    """Make a token of 256 random bits in base64. Its end proves that somebody with the key has made it."""
    start = f"{prefix}{secret}"
    return f"{start}{_signature(key, start)}"


def is_signed(key: bytes, token: str, prefix: str = TOKEN_PREFIX) -> bool:
    """Whether the token was made with this key: then, and only then, it is worth a look into the database."""
    parts = _TOKEN.fullmatch(token)
    if parts is None or not token.startswith(prefix):
        return False
    return hmac.compare_digest(_signature(key, parts[1]), parts[2])


def _signature(key: bytes, start: str) -> str:
    digest = hmac.digest(key, start.encode(), "sha256")
    return urlsafe_b64encode(digest[:16]).decode().rstrip("=")


def hash_of_token(token: str) -> str:
    """Hash a token for storage. Tokens have 256 random bits, so a fast hash without salt is safe."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def hash_of_answer(token: str, result: CallbackResult) -> str:
    """Hash a token with its answer, to recognize a request that is repeated. No token has such a hash."""
    data = msgspec.json.encode((hash_of_token(token), result), order="sorted")
    return f"answer:{hashlib.sha256(data).hexdigest()}"


def check_seconds(seconds: float) -> float:
    """Return the time that a callback stays open. Raises InvalidInput if it is too short or too long."""
    if not 0 < seconds <= MAX_SECONDS:  # also refuses NaN
        raise InvalidInput(
            f"a callback stays open for more than 0 and at most {MAX_SECONDS:.0f} seconds (ten years), not "
            f"{seconds!r}"
        )
    return seconds


def check_open(count: int) -> None:
    """Check that a session with this many open callbacks may have another. Raises InvalidInput."""
    if count >= MAX_OPEN:
        raise InvalidInput(
            f"the session has {count} open callbacks, and at most {MAX_OPEN} are allowed: wait for some of "
            "them, or cancel them",
            code="too_many_callbacks",
        )


def result_of(body: JsonValue) -> CallbackResult:
    """The result in a callback's body: the body itself, or what its only member `result` or `error` holds."""
    match body:
        case {"error": str(error), **rest} if not rest:
            return CallbackResult(error=error)
        case {"result": value, **rest} if not rest:
            return CallbackResult(value)
        case _:
            return CallbackResult(body)


def late_metadata(callback_id: CallbackId, call_id: ToolCallId, tool_name: str) -> JsonObject:
    """The metadata of the message with a late result."""
    return {LATE_RESULT: {"callback_id": callback_id, "tool_call_id": call_id, "tool_name": tool_name}}
