"""Reading requests: bodies and query strings, bounded, checked, and turned into structs.

What is let in can be stored on every database and given back as strict JSON.
"""

from __future__ import annotations

import asyncio
import re
from array import array
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Generic, TypeVar, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl

import msgspec
from msgspec import Struct

from perdure.api.kernel.asgi import Headers, Receive
from perdure.api.kernel.choices import words_at
from perdure.domain.errors import InvalidInput, TooLarge, UnsupportedMedia

T = TypeVar("T")
S = TypeVar("S", bound=Struct)

MAX_BODY = 10 * 1000 * 1000
"""Bytes of a request's body."""
MAX_DEPTH = 100
"""Nesting of JSON in a body: what lies deeper is refused, whether or not anybody would look at it."""
BODY_TIMEOUT = 30.0
"""Seconds that a body may take to arrive."""
MAX_QUERY = 16_384
"""Bytes of a query string."""
MAX_PARAMETERS = 500
"""Parameters in a query string."""


class ClientLeft(Exception):
    """The connection ended before the request was complete: there is nothing to do, and nobody to tell."""


async def read_body(headers: Headers, receive: Receive, limit: int = MAX_BODY) -> bytes:
    """The whole body.

    Args:
        limit: bytes; where it is over `MAX_BODY`, the body may take longer in proportion.

    Raises:
        TooLarge: over the limit, by its length header or by what arrives.
        InvalidInput: it did not arrive in time.
    """
    declared = headers.get(b"content-length", b"0")
    if not declared.isdigit():
        raise InvalidInput("the Content-Length header is not a number")
    # A number too long to be read is over the limit as well.
    if len(declared) > 18 or int(declared) > limit:
        raise TooLarge(f"the body may hold {limit} bytes")
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT * max(1, limit / MAX_BODY)):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                part = message.get("body", b"")
                size += len(part)
                if size > limit:
                    raise TooLarge(f"the body may hold {limit} bytes")
                parts.append(part)
                if not message.get("more_body"):
                    return parts[0] if len(parts) == 1 else b"".join(parts)
    except TimeoutError:
        raise InvalidInput("the body did not arrive in time", code="body_timeout") from None


async def read_json(headers: Headers, receive: Receive, limit: int = MAX_BODY) -> bytes:
    """The body of a request that must be JSON, of up to `limit` bytes."""
    media, _, parameters = headers.get(b"content-type", b"").lower().partition(b";")
    media = media.strip()
    body = await read_body(headers, receive, limit)
    if media != b"application/json" and not media.endswith(b"+json"):
        raise UnsupportedMedia("send JSON, with the content type application/json")
    charset = _CHARSET.search(parameters)
    if charset is not None and charset[1] not in (b"utf-8", b"utf8", b"us-ascii"):
        raise UnsupportedMedia("send JSON in UTF-8")
    if not body:
        raise InvalidInput("the body is missing", code="missing_body")
    return body


async def read_text(headers: Headers, receive: Receive, limit: int) -> str:
    """The body of a request that is text, of up to `limit` bytes.

    Raises:
        UnsupportedMedia: it says that it is something else.
        InvalidInput: it is not UTF-8, or holds NUL characters.
    """
    media, _, parameters = headers.get(b"content-type", b"text/plain").lower().partition(b";")
    charset = _CHARSET.search(parameters)
    body = await read_body(headers, receive, limit)
    if not media.strip().startswith(b"text/") or (
        charset is not None and charset[1] not in (b"utf-8", b"utf8", b"us-ascii")
    ):
        raise UnsupportedMedia("send text in UTF-8, with the content type text/plain")
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise InvalidInput("the body is not valid UTF-8", code="invalid_text") from None
    if "\x00" in text:
        raise InvalidInput("NUL characters are not allowed", code="invalid_text")
    return text


_CHARSET = re.compile(rb"charset\s*=\s*\"?([^\s;\"]*)")

# Possessive (`*+`), so that no body, however made, costs more than one pass and a fixed amount of memory.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*+\\u0000")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_BIG_NUMBER = re.compile(rb"[\[:,\s]-?(?:\d{19}|[\d.]++[eE]\+?\d{3})")

_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""What a bracket does to the depth, as signed bytes."""
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ANYTHING: msgspec.json.Decoder[object] = msgspec.json.Decoder()


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """The body as its type.

    All of the body is looked at, also what the type does not know and would skip.

    Raises:
        InvalidInput: not JSON, not of the type, or holding what cannot be stored and given back: NUL
            characters, whole numbers beyond 64 bits, others beyond a double, nesting beyond 99.
    """
    if body.count(b"[") + body.count(b"{") >= MAX_DEPTH:
        _check_depth(body)
    if b"\\u0000" in body and _NUL.search(body):
        raise InvalidInput("NUL characters are not allowed", code="invalid_json")
    try:
        if not body.isascii():
            body.decode()
        value = decoder.decode(body)
        if _BIG_NUMBER.search(body):
            _check_numbers(_ANYTHING.decode(body))
    except msgspec.ValidationError as error:
        raise _refusal(error, decoder.type) from None
    except UnicodeDecodeError:
        raise InvalidInput("the body is not valid UTF-8", code="invalid_json") from None
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        words = str(error).removeprefix("JSON is malformed: ")[:200]
        raise InvalidInput(f"the body is not valid JSON: {words}", code="invalid_json") from None
    return value


_WHOLE = re.compile(r"-?[0-9]{1,18}")
_PLACE = re.compile(r" - at `(key` in `)?\$\.?([^`]*)`$")


def _refusal(error: msgspec.ValidationError, kind: object) -> InvalidInput:
    """The decoder's complaint about something that should be of this kind.

    The place comes first, and is the error's field.
    """
    text = str(error)
    code = "number_out_of_range" if "out of range" in text else None
    place = _PLACE.search(text)
    if place is None or place[2] in ("", "[...]"):
        return InvalidInput(_lower(_PLACE.sub("", text)), code=code)
    field = place[2][:200]
    if text.startswith(("Invalid enum value", "Invalid value")) and (choices := words_at(kind, place[2])):
        return InvalidInput(f"`{field}` must be one of {', '.join(choices)}", field=field)
    words = _lower(text[: place.start()])
    return InvalidInput(f"`{field}`{' has a key:' if place[1] else ':'} {words}", code=code, field=field)


def _lower(text: str) -> str:
    return (text[:1].lower() + text[1:])[:300]


def _check_depth(body: bytes) -> None:
    steps = array("b", _STRING.sub(b"", body).translate(_STEPS, _NO_BRACKETS))
    if max(accumulate(steps), default=0) >= MAX_DEPTH:
        raise InvalidInput(f"JSON may be nested {MAX_DEPTH - 1} deep", code="nesting_too_deep")


def _check_numbers(value: object) -> None:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, int) and not -(1 << 63) <= item < 1 << 63:
            raise InvalidInput("a whole number must fit in 64 bits", code="number_out_of_range")


class QueryDecoder(Generic[S]):
    """Query strings as a struct. Unknown parameters are ignored; tuple fields may be repeated."""

    def __init__(self, kind: type[S]) -> None:
        self._kind = kind
        self._many: set[str] = set()
        self._readers: dict[str, Callable[[str], object]] = {}
        on_wire = {each.name: each.encode_name for each in msgspec.structs.fields(kind)}
        for own_name, hint in get_type_hints(kind).items():
            name = on_wire[own_name]
            kinds = set(_kinds_in(hint))
            if tuple in kinds:
                self._many.add(name)
            self._readers[name] = _boolean if bool in kinds else _whole if int in kinds else str

    def decode(self, raw: bytes) -> S:
        """The parameters, checked. Raises InvalidInput."""
        given: dict[str, object] = {}
        lists: dict[str, list[str]] = {}
        for name, text in _pairs(raw) if raw else ():
            reader = self._readers.get(name)
            if reader is None:
                continue
            if "\x00" in text:
                raise InvalidInput(f"`{name}` must not hold NUL characters", field=name)
            if name in self._many:
                lists.setdefault(name, []).append(text)
            elif name in given:
                raise InvalidInput(f"`{name}` is given twice", field=name)
            else:
                given[name] = reader(text)
        try:
            return msgspec.convert(given | lists, self._kind)
        except msgspec.ValidationError as error:
            raise _refusal(error, self._kind) from None


def _kinds_in(hint: object) -> Iterator[object]:
    """The plain types in a hint: `Annotated[int, ...] | None` holds int and NoneType."""
    origin = get_origin(hint)
    if origin is tuple:
        yield tuple
    elif origin is None:
        yield hint
    else:
        for part in get_args(hint):
            yield from _kinds_in(part)


def _whole(text: str) -> int | str:
    """The number, or the text as it is: whatever is no number is refused where the types are checked."""
    return int(text) if _WHOLE.fullmatch(text) else text


def _boolean(text: str) -> bool | str:
    return {"true": True, "false": False, "1": True, "0": False}.get(text.lower(), text)


def _pairs(raw: bytes) -> list[tuple[str, str]]:
    if len(raw) > MAX_QUERY or raw.count(b"&") >= MAX_PARAMETERS:
        raise InvalidInput(f"the query string may hold {MAX_QUERY} bytes and {MAX_PARAMETERS} parameters")
    try:
        return parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError:
        raise InvalidInput("the query string is not valid UTF-8") from None
