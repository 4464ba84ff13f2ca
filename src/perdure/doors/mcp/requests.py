"""Reads JSON-RPC requests of both eras of the protocol, and checks what each era demands of them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from perdure.api.kernel.asgi import Headers, header_text
from perdure.api.kernel.decoding import decode
from perdure.domain.errors import InvalidInput
from perdure.domain.messages import JsonObject, JsonValue

STATELESS = "2026-07-28"
"""The revision whose requests stand alone: each says in `_meta` what the handshake said before."""
HANDSHAKE = ("2025-03-26", "2025-06-18", "2025-11-25")
"""The revisions that begin with `initialize`, oldest first."""

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL = (
    -32700,
    -32600,
    -32601,
    -32602,
    -32603,
)
HEADER_MISMATCH, UNSUPPORTED_VERSION = -32020, -32022

MAX_ID = 200
"""Characters of a request's id, if it is a text."""

_META = "io.modelcontextprotocol/"
VERSION_KEY, CAPABILITIES_KEY = f"{_META}protocolVersion", f"{_META}clientCapabilities"
SERVER_KEY = f"{_META}serverInfo"

_NAMED = {"tools/call": "name"}
"""Methods whose header `Mcp-Name` repeats a parameter, and which one."""

RequestId = int | str


class Request(Struct, frozen=True):
    """A request that is answered.

    Attributes:
        stateless: whether it is of the revision `STATELESS`.
        progress_token: what its progress is reported under; None if the client does not want to know.
    """

    id: RequestId
    method: str
    params: JsonObject
    stateless: bool
    progress_token: RequestId | None


class Refusal(Exception):
    """A request that is answered with an error of JSON-RPC.

    Args:
        status: the HTTP status.
        id: the request's id, if it is known.
    """

    def __init__(
        self,
        code: int,
        message: str,
        *,
        status: int = 400,
        id: RequestId | None = None,  # noqa: A002 (the protocol's name)
        data: JsonObject | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.id = id
        self.data = data


_JSON: msgspec.json.Decoder[JsonValue] = msgspec.json.Decoder()


def read_request(headers: Headers, body: bytes) -> Request | None:
    """Read the message in a body; None if it is one that needs no answer.

    Raises:
        Refusal: it is no valid message, or of a revision that this server does not speak.
    """
    try:
        message = decode(_JSON, body)
    except InvalidInput as error:
        raise Refusal(PARSE_ERROR, error.message) from None
    if isinstance(message, list):
        raise Refusal(INVALID_REQUEST, "batches are not supported: send each message in a request of its own")
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        raise Refusal(INVALID_REQUEST, 'send one JSON-RPC message: an object with "jsonrpc": "2.0"')
    params = message.get("params", {})
    request_id = _id_of(message)
    if not isinstance(params, dict):
        raise Refusal(INVALID_REQUEST, "`params` must be an object", id=request_id)
    meta = params.get("_meta", {})
    if not isinstance(meta, dict):
        raise Refusal(INVALID_PARAMS, "`params._meta` must be an object", id=request_id)
    stateless = _is_stateless(headers, meta)
    method = message.get("method")
    if method is None and ("result" in message or "error" in message):
        if stateless:
            raise Refusal(INVALID_REQUEST, "this server asks clients nothing: send requests, not responses")
        return None
    if not isinstance(method, str):
        raise Refusal(INVALID_REQUEST, "`method` must be the name of a method", id=request_id)
    if request_id is None:
        return None
    if stateless:
        _check_stateless(headers, request_id, method, params, meta)
    return Request(request_id, method, params, stateless, _token_of(meta, request_id))


def _id_of(message: Mapping[str, JsonValue]) -> RequestId | None:
    """Return a request's id; None for a notification, which has none."""
    if "id" not in message:
        return None
    found = message["id"]
    if isinstance(found, str) and len(found) <= MAX_ID:
        return found
    if isinstance(found, int) and not isinstance(found, bool):
        return found
    raise Refusal(INVALID_REQUEST, f"`id` must be an integer, or a text of up to {MAX_ID} characters")


def _token_of(meta: JsonObject, request_id: RequestId) -> RequestId | None:
    token = meta.get("progressToken")
    if token is None or (isinstance(token, str) and len(token) <= MAX_ID):
        return token
    if isinstance(token, int) and not isinstance(token, bool):
        return token
    raise Refusal(
        INVALID_PARAMS,
        f"`_meta.progressToken` must be an integer, or a text of up to {MAX_ID} characters",
        id=request_id,
    )


def _is_stateless(headers: Headers, meta: JsonObject) -> bool:
    """Whether a message is of the stateless era: its envelope or its header says so, not its method."""
    version = header_text(headers, b"mcp-protocol-version")
    return VERSION_KEY in meta or (version is not None and version not in HANDSHAKE)


def _check_stateless(
    headers: Headers, request_id: RequestId, method: str, params: JsonObject, meta: JsonObject
) -> None:
    """Check a request's envelope and that the headers say the same. The order decides which error it gets."""
    version, capabilities = meta.get(VERSION_KEY), meta.get(CAPABILITIES_KEY)
    if not isinstance(version, str) or not isinstance(capabilities, dict):
        raise Refusal(
            INVALID_PARAMS,
            f"`params._meta` must have `{VERSION_KEY}`, a text, and `{CAPABILITIES_KEY}`, an object",
            id=request_id,
        )
    _check_header(headers, request_id, "MCP-Protocol-Version", version)
    _check_header(headers, request_id, "Mcp-Method", method)
    if method in _NAMED and isinstance(name := params.get(_NAMED[method]), str):
        _check_header(headers, request_id, "Mcp-Name", name)
    if version != STATELESS:
        raise Refusal(
            UNSUPPORTED_VERSION,
            f"this server speaks {STATELESS} without `initialize`, and with it {', '.join(HANDSHAKE)}; not "
            f"{version[:40]!r}",
            id=request_id,
            data={"supported": [STATELESS], "requested": version},
        )


def _check_header(headers: Headers, request_id: RequestId, name: str, expected: str) -> None:
    sent = header_text(headers, name.lower().encode())
    if sent is not None and _decoded(sent.strip()) == expected:
        return
    what = "is missing" if sent is None else f"is {sent[:80]!r}"
    raise Refusal(
        HEADER_MISMATCH,
        f"the header {name} {what}; the request's body has {expected[:80]!r}: send both, and the same",
        id=request_id,
    )


_OPEN, _CLOSE = "=?base64?", "?="


def _decoded(value: str) -> str | None:
    """Decode a header's value, which may be in base64; None if it is malformed."""
    if not (value.startswith(_OPEN) and value.endswith(_CLOSE)):
        return value
    text = value[len(_OPEN) : -len(_CLOSE)]
    try:
        raw = base64.b64decode(text, validate=True)
        return raw.decode() if base64.b64encode(raw).decode() == text else None
    except (binascii.Error, ValueError):
        return None
