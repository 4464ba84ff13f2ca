"""The messages of MCP: JSON-RPC 2.0 as both eras of the protocol use it, and the rules for its headers.

A server is not trusted: what it sends is counted before it is decoded, and its texts lose hidden characters.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from perdure.domain.json_costs import SLICE, extremes_in, without_strings
from perdure.domain.messages import JsonObject, JsonValue
from perdure.domain.nesting import is_deep
from perdure.domain.visible import without_hidden

STATELESS = "2026-07-28"
LEGACY = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
"""Revisions with sessions that this client speaks, newest first."""

HEADERS_SINCE = ("2025-11-25", "2025-06-18")
"""Revisions with sessions whose requests repeat the revision in a header."""

METHOD_NOT_FOUND = -32601
HEADER_MISMATCH = -32020
MISSING_CAPABILITY = -32021
UNSUPPORTED_VERSION = -32022
URL_ELICITATION = -32042
STATELESS_CODES = frozenset({HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION})
"""Errors that only servers of the stateless era answer."""

META = "io.modelcontextprotocol/"

MAX_DEPTH = 64
"""Levels of lists and objects in a message."""
MAX_VALUES = 300_000
"""Values in a message, approximately: each takes up to a hundred bytes of memory."""
MAX_EXTREMES = 1_000
"""Numbers in a message that take the decoder long."""
MAX_MESSAGES = 1_000
"""Messages of one batch."""
_COUNTED = 2_048

RpcId = int | str


class Malformed(ValueError):
    """What a server sent is not a message of the protocol, or is too costly to decode."""


class RpcError(Struct, frozen=True):
    """A JSON-RPC error."""

    code: int = 0
    message: Any = ""
    data: Any = None


class _Frame(Struct, frozen=True):
    id: int | str | UnsetType | None = UNSET
    method: str | UnsetType = UNSET
    params: Any = None
    result: Any = UNSET
    error: RpcError | UnsetType | None = UNSET


class Incoming(Struct, frozen=True):
    """A message from a server.

    Attributes:
        id: None in notifications, and in errors about a request that the server could not read.
        method: None in responses.
        result: of a response; None if it is an error.
    """

    id: RpcId | None
    method: str | None
    params: JsonObject
    result: JsonObject | None
    error: RpcError | None

    @property
    def is_response(self) -> bool:
        return self.method is None

    @property
    def is_request(self) -> bool:
        return self.method is not None and self.id is not None


_FRAME = msgspec.json.Decoder(_Frame)
_FRAMES = msgspec.json.Decoder(list[_Frame])


def read_messages(body: bytes) -> tuple[Incoming, ...]:
    """Decode a message, or a batch of them (which one old revision has).

    Raises:
        Malformed: it is not one, or costs too much.
    """
    check_costs(body)
    is_batch = body.lstrip()[:1] == b"["
    try:
        frames = _decoded(body, is_batch=is_batch)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Malformed(f"it is not a JSON-RPC message: {str(error)[:200]}") from None
    if len(frames) > MAX_MESSAGES:
        raise Malformed(f"it is a batch of more than {MAX_MESSAGES} messages")
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        for frame in frames:
            _check_depth(frame)
    messages = tuple(map(_incoming, frames))
    return tuple(map(_with_storable_numbers, messages)) if _has_long_number(body) else messages


def _decoded(body: bytes, *, is_batch: bool) -> list[_Frame]:
    try:
        return _FRAMES.decode(body) if is_batch else [_FRAME.decode(body)]
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        # A text that a server cut in the middle of an emoji has half a surrogate pair.
        if b"\\u" not in body:
            raise
        body = _ESCAPES.sub(_whole, body)
        return _FRAMES.decode(body) if is_batch else [_FRAME.decode(body)]


_LONG_NUMBER = re.compile(rb"[\[:,\s]-?\d{19}")
_LONG = 32
_LARGEST = 2**63 - 1


def _has_long_number(body: bytes) -> bool:
    return any(
        _LONG_NUMBER.search(body, start, start + SLICE + _LONG) for start in range(0, len(body), SLICE)
    )


def _with_storable_numbers(message: Incoming) -> Incoming:
    """The message with integers of more than 64 bits, which nothing can store, as floats or texts."""
    error = message.error
    if error is not None:
        error = replace(error, data=_storable(error.data))
    return replace(message, params=_storable(message.params), result=_storable(message.result), error=error)


def _storable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _storable(each) for key, each in value.items()}
    if isinstance(value, list):
        return list(map(_storable, value))
    if isinstance(value, int) and abs(value) > _LARGEST:
        return float(value) if abs(value) < 10**300 else str(value)
    return value


_ESCAPES = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[dD][89a-fA-F][0-9a-fA-F]{2}|[^\r\n])"
)


def _whole(found: re.Match[bytes]) -> bytes:
    return b"\\ufffd" if len(found[0]) == 6 else found[0]


def _incoming(frame: _Frame) -> Incoming:
    method = None if isinstance(frame.method, UnsetType) else frame.method
    key = None if isinstance(frame.id, UnsetType) else frame.id
    error = None if isinstance(frame.error, UnsetType) else frame.error
    if method is None and error is None and not isinstance(frame.result, dict):
        raise Malformed("it is a response with neither a `result` object nor an `error`")
    params = frame.params if isinstance(frame.params, dict) else {}
    result = frame.result if method is None and error is None else None
    return Incoming(key, method, params, result, error)


def _check_depth(frame: _Frame) -> None:
    data = frame.error.data if isinstance(frame.error, RpcError) else None
    for value in (frame.params, frame.result, data):
        if isinstance(value, dict | list) and is_deep(value, MAX_DEPTH):
            raise Malformed(f"its values are nested more than {MAX_DEPTH} levels deep")


def check_costs(body: bytes) -> None:
    """Count what makes JSON costly to decode. Raises Malformed."""
    if len(body) <= _COUNTED:
        return
    values = body.count(b",") + body.count(b"[") + body.count(b"{")
    text = body.decode("utf-8", "replace")
    if values > MAX_VALUES:
        bare = without_strings(text)
        if bare.count(",") + bare.count("[") + bare.count("{") > MAX_VALUES:
            raise Malformed(f"it has more than {MAX_VALUES} values")
    if extremes_in(text, MAX_EXTREMES) > MAX_EXTREMES:
        raise Malformed(f"it has more than {MAX_EXTREMES} extreme numbers")


def encoded(value: JsonValue) -> bytes:
    """A server's value as JSON, always the same. Raises Malformed: it cannot be encoded."""
    try:
        return msgspec.json.encode(value, order="deterministic")
    except (ValueError, OverflowError, UnicodeEncodeError):  # an integer of more than 64 bits, for one
        raise Malformed("it has a number or a text that cannot be stored") from None


def request(key: RpcId, method: str, params: JsonObject | None) -> bytes:
    """Encode a request."""
    message: JsonObject = {"jsonrpc": "2.0", "id": key, "method": method}
    if params is not None:
        message["params"] = params
    return msgspec.json.encode(message)


def notification(method: str, params: JsonObject | None = None) -> bytes:
    """Encode a notification."""
    message: JsonObject = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        message["params"] = params
    return msgspec.json.encode(message)


def response(key: RpcId, result: JsonObject) -> bytes:
    """Encode the response to a server's request."""
    return msgspec.json.encode({"jsonrpc": "2.0", "id": key, "result": result})


def error_response(key: RpcId, code: int, message: str) -> bytes:
    """Encode an error as the response to a server's request."""
    return msgspec.json.encode({"jsonrpc": "2.0", "id": key, "error": {"code": code, "message": message}})


def client_info(version: str) -> JsonObject:
    """Who this client is."""
    return {"name": "perdure", "title": "Perdure", "version": version}


def text_in(value: JsonValue, limit: int) -> str:
    """A server's text, without hidden characters and cut to so many characters; empty for another value."""
    if not isinstance(value, str):
        return ""
    return without_hidden(value[: limit * 2])[:limit]


SESSION_ID = re.compile(r"[\x21-\x7e]{1,1024}")
"""What the id of a session may consist of."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_PLAIN = re.compile(r"[\x20-\x7e]*")
_ENCODED = re.compile(r"=\?base64\?.*\?=", re.DOTALL)
PARAM_HEADER = "Mcp-Param-"
_HEADER_KEY = "x-mcp-header"
_MAX_EXACT = 2**53 - 1
_MAX_HEADER = 8_000


def header_value(text: str) -> str:
    """Encode a text for a header: as it is, or in base64 if a header could not carry it exactly."""
    if _PLAIN.fullmatch(text) and text == text.strip() and not _ENCODED.fullmatch(text):
        return text
    return f"=?base64?{base64.b64encode(text.encode('utf-8', 'replace')).decode()}?="


def header_arguments(schema: JsonObject) -> tuple[tuple[str, str], ...]:
    """Return which arguments of a tool headers repeat: each one's JSON pointer, without its first `/`.

    Raises:
        Malformed: the schema marks an argument in a way that the protocol forbids.
    """
    if not _mentions(schema):
        return ()
    found: dict[str, str] = {}
    allowed = 0
    for pointer, prop in _properties(schema, ""):
        if _HEADER_KEY not in prop:
            continue
        allowed += 1
        name = prop[_HEADER_KEY]
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise Malformed(f"`{_HEADER_KEY}` of the argument {pointer!r} is not the name of a header")
        if prop.get("type") not in ("string", "integer", "boolean"):
            raise Malformed(f"`{_HEADER_KEY}` is on the argument {pointer!r}, whose type no header can carry")
        if name.lower() in (known.lower() for known in found.values()):
            raise Malformed(f"two arguments have the `{_HEADER_KEY}` {name!r}")
        found[pointer] = name
    if allowed != _mentions(schema):
        raise Malformed(f"`{_HEADER_KEY}` is at a place where the protocol does not allow it")
    return tuple((pointer, PARAM_HEADER + name) for pointer, name in found.items())


def _properties(schema: JsonObject, above: str) -> Iterator[tuple[str, JsonObject]]:
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return
    for name, prop in properties.items():
        if isinstance(prop, dict):
            pointer = above + name.replace("~", "~0").replace("/", "~1")
            yield pointer, prop
            yield from _properties(prop, pointer + "/")


def _mentions(value: JsonValue) -> int:
    """How many schemas of a value have the key; a property that is named like it is not one."""
    if isinstance(value, list):
        return sum(map(_mentions, value))
    if not isinstance(value, dict):
        return 0
    count = int(_HEADER_KEY in value)
    for key, each in value.items():
        if key == "properties" and isinstance(each, dict):
            count += sum(map(_mentions, each.values()))
        elif key not in ("const", "default", "enum", "examples", _HEADER_KEY):
            count += _mentions(each)
    return count


def argument_headers(
    marked: tuple[tuple[str, str], ...], arguments: Mapping[str, JsonValue]
) -> dict[str, str]:
    """The headers that repeat a call's arguments; an argument that is absent or null has none."""
    headers: dict[str, str] = {}
    for pointer, header in marked:
        value: JsonValue = dict(arguments)
        for step in pointer.split("/"):
            name = step.replace("~1", "/").replace("~0", "~")
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, bool):
            headers[header] = "true" if value else "false"
        elif isinstance(value, int) and abs(value) <= _MAX_EXACT:
            headers[header] = str(value)
        elif isinstance(value, str) and len(value) <= _MAX_HEADER:
            headers[header] = header_value(value)
    return headers
