"""Reads requests: bounds, checks and decodes bodies and query strings into structs.

Every accepted value can be stored in both databases and returned as strict JSON.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Generic, TypeVar, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl

import msgspec
from msgspec import Struct

from perdure.api.kernel.asgi import Headers, Receive
from perdure.api.kernel.choices import choices_at, example_at
from perdure.api.kernel.intake import Arrival
from perdure.api.kernel.json_bounds import check_bounds
from perdure.domain.errors import InvalidInput, TooLarge, UnsupportedMedia
from perdure.domain.texts import size_text

T = TypeVar("T")
S = TypeVar("S", bound=Struct)

MAX_BODY = 10 * 1000 * 1000
"""The maximum size of a request's body, in bytes."""
BODY_TIMEOUT = 30.0
"""The maximum time for a body to arrive, in seconds."""
MAX_QUERY = 16_384
"""The maximum size of a query string, in bytes."""
MAX_PARAMETERS = 500
"""The maximum number of parameters in a query string."""


class ClientLeft(Exception):
    """The client closed the connection before the request was complete, so no response can be sent."""


async def read_body(
    headers: Headers, receive: Receive, arrival: Arrival | None, limit: int = MAX_BODY
) -> bytes:
    """Read the whole body.

    Args:
        arrival: counts the bytes of a body that arrives in parts; None if it has arrived already.
        limit: the maximum size in bytes. Above `MAX_BODY`, the timeout grows in proportion.

    Raises:
        TooLarge: the declared or received size is over the limit.
        UnsupportedMedia: the body is compressed.
        InvalidInput: the body did not arrive in time, or its declared length is not a number.
        Unavailable: too many large bodies are arriving.
        ClientLeft: the client closed the connection.
    """
    declared_size(headers, limit)
    if arrival is not None:
        return await _read_parts(receive, arrival, limit)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientLeft
    body = message.get("body", b"")
    check_size(body, limit)
    return body


def declared_size(headers: Headers, limit: int) -> int:
    """Return the size in bytes that the headers declare, 0 without one, before anything is read.

    Raises:
        TooLarge: it is over the limit.
        UnsupportedMedia: the body is compressed.
        InvalidInput: it is not a number.
    """
    declared = headers.get(b"content-length", b"0")
    if not declared.isdigit():
        raise InvalidInput("the Content-Length header must be a number of bytes")
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding not in (b"", b"identity"):
        name = encoding[:40].decode("latin-1")
        raise UnsupportedMedia(f"bodies with Content-Encoding {name!r} are not read: send it uncompressed")
    # More than 18 digits are over any limit: do not parse them.
    if len(declared) > 18 or int(declared) > limit:
        raise TooLarge(f"the body may have at most {size_text(limit)}")
    return int(declared)


async def _read_parts(receive: Receive, arrival: Arrival, limit: int) -> bytes:
    """Read a body that is still arriving."""
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
                    raise TooLarge(f"the body may have at most {size_text(limit)}")
                parts.append(part)
                if not message.get("more_body"):
                    return parts[0] if len(parts) == 1 else b"".join(parts)
                arrival.add(len(part))
    except TimeoutError:
        raise InvalidInput("the body did not arrive in time: send it again", code="body_timeout") from None
    finally:
        arrival.close()


def is_json(headers: Headers) -> bool:
    """Whether the body is declared to be `application/json`."""
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower() == b"application/json"


async def read_json(
    headers: Headers, receive: Receive, arrival: Arrival | None, limit: int = MAX_BODY
) -> bytes:
    """Read a JSON body of up to `limit` bytes, without decoding it.

    Raises:
        UnsupportedMedia: the content type is not JSON in UTF-8.
        InvalidInput: the body is missing or did not arrive in time.
        TooLarge: the body is over the limit.
    """
    media, _, parameters = headers.get(b"content-type", b"").lower().partition(b";")
    media = media.strip()
    body = await read_body(headers, receive, arrival, limit)
    if media != b"application/json" and not media.endswith(b"+json"):
        raise UnsupportedMedia("send JSON with the header Content-Type: application/json")
    charset = _CHARSET.search(parameters) if parameters else None
    if charset is not None and charset[1] not in (b"utf-8", b"utf8", b"us-ascii"):
        raise UnsupportedMedia("send JSON in UTF-8")
    if not body:
        raise InvalidInput("the body is missing: send JSON, at least {}", code="missing_body")
    return body


async def read_text(headers: Headers, receive: Receive, arrival: Arrival | None, limit: int) -> str:
    """Read a text body of up to `limit` bytes: Markdown, or with an access token also plain text.

    Any web page can make a browser send plain text here, but no other type and no Authorization header.

    Raises:
        UnsupportedMedia: the content type is missing or another one, or the text is not in UTF-8.
        InvalidInput: the body is not valid UTF-8, or contains NUL characters.
        TooLarge: the body is over the limit.
    """
    media, _, parameters = headers.get(b"content-type", b"").lower().partition(b";")
    charset = _CHARSET.search(parameters)
    body = await read_body(headers, receive, arrival, limit)
    kinds = (b"text/markdown", b"text/plain") if b"authorization" in headers else (b"text/markdown",)
    if media.strip() not in kinds or (
        charset is not None and charset[1] not in (b"utf-8", b"utf8", b"us-ascii")
    ):
        raise UnsupportedMedia("send text in UTF-8 with the header Content-Type: text/markdown")
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise InvalidInput("the body is not valid UTF-8", code="invalid_text") from None
    return check_text(text)


def check_size(body: bytes, limit: int) -> None:
    """Check that a body has at most `limit` bytes. Raises TooLarge."""
    if len(body) > limit:
        raise TooLarge(f"the body may have at most {size_text(limit)}")


def check_text(text: str) -> str:
    """Return a body's text unchanged. Raises InvalidInput if it contains NUL characters."""
    if "\x00" in text:
        raise InvalidInput("NUL characters are not allowed", code="invalid_text")
    return text


_CHARSET = re.compile(rb"charset\s*=\s*\"?([^\s;\"]*)")

# Possessive (`*+`): no body, however crafted, costs more than one pass and a fixed amount of memory.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*+\\u0000")

_ANYTHING: msgspec.json.Decoder[object] = msgspec.json.Decoder()


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode a JSON body into the decoder's type.

    The whole body is checked, including fields that the type does not have.

    Raises:
        InvalidInput: the body is not JSON, does not fit the type, or contains something that cannot be stored
            and returned: NUL characters, integers beyond 64 bits, other numbers beyond a double, or nesting
            beyond 99.
    """
    extreme = check_bounds(body)
    if b"\\u0000" in body and _NUL.search(body):
        raise InvalidInput("NUL characters are not allowed", code="invalid_json")
    try:
        if not body.isascii():
            body.decode()
        value = decoder.decode(body)
        if extreme:
            _ANYTHING.decode(body)  # also fields that the type does not have
    except msgspec.ValidationError as error:
        raise _refusal(error, decoder.type) from None
    except UnicodeDecodeError:
        raise InvalidInput("the body is not valid UTF-8", code="invalid_json") from None
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        reason = str(error).removeprefix("JSON is malformed: ")[:200]
        raise InvalidInput(f"the body is not valid JSON: {reason}", code="invalid_json") from None
    return value


_MAP_ENTRY = re.compile(r"([a-z_]+)\[([^\[\]]+)\]")
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_PATH = re.compile(r" - at `(key` in `)?\$\.?([^`]*)`$")


def _refusal(error: msgspec.ValidationError, kind: object) -> InvalidInput:
    """Convert msgspec's error into ours, with the path of the invalid field first.

    Args:
        kind: the type that the value should have.
    """
    text = str(error)
    code = "number_out_of_range" if "out of range" in text else None
    path = _PATH.search(text)
    if path is None or path[2] in ("", "[...]"):
        return InvalidInput(_lower(_PATH.sub("", text)), code=code)
    field = path[2][:200]
    if text.startswith(("Invalid enum value", "Invalid value")) and (choices := choices_at(kind, path[2])):
        return InvalidInput(f"`{field}` must be one of {', '.join(choices)}", field=field)
    reason = _lower(text[: path.start()].replace(_NO_NEWLINE, ""))
    if " matching regex " in reason and (example := example_at(kind, path[2])) is not None:
        reason += f", such as {example!r}"
    return InvalidInput(f"`{field}`{' has a key:' if path[1] else ':'} {reason}", code=code, field=field)


_NO_NEWLINE = r"(?!\\n)"
"""The end of our patterns, as errors quote them: it says nothing to people."""


def _lower(text: str) -> str:
    return (text[:1].lower() + text[1:])[:300]


class QueryDecoder(Generic[S]):
    """Decodes query strings into a struct. Ignores unknown parameters; tuple fields may be repeated.

    A dict field has an entry for each parameter such as `metadata[customer]`.
    """

    def __init__(self, kind: type[S]) -> None:
        self._kind = kind
        self._repeatable: set[str] = set()
        self._maps: set[str] = set()
        self._parsers: dict[str, Callable[[str], object]] = {}
        wire_names = {each.name: each.encode_name for each in msgspec.structs.fields(kind)}
        for field, hint in get_type_hints(kind).items():
            name = wire_names[field]
            kinds = set(_plain_types(hint))
            if tuple in kinds:
                self._repeatable.add(name)
            if dict in kinds:
                self._maps.add(name)
            self._parsers[name] = _boolean if bool in kinds else _integer if int in kinds else str

    @property
    def names(self) -> Container[str]:
        """The names of the parameters."""
        return self._parsers.keys()

    def decode(self, pairs: Sequence[tuple[str, str]]) -> S:
        """Decode and check the parameters of `parameters_of`. Raises InvalidInput."""
        single: dict[str, object] = {}
        lists: dict[str, list[str]] = {}
        maps: dict[str, dict[str, str]] = {}
        for name, text in pairs:
            parse = self._parsers.get(name)
            if "[" in name and (entry := _MAP_ENTRY.fullmatch(name)) and entry[1] in self._maps:
                parse = str
                if entry[2] in maps.setdefault(entry[1], {}):
                    raise InvalidInput(f"`{name[:200]}` is given twice: send it once", field=entry[1])
                maps[entry[1]][entry[2]] = text
            if parse is None:
                continue
            if name in self._maps:
                raise InvalidInput(f"`{name}` needs a name in brackets: {name}[...]=...", field=name)
            if "\x00" in text or "\x00" in name:
                raise InvalidInput(f"`{name}` must not contain NUL characters", field=name)
            if name in self._repeatable:
                lists.setdefault(name, []).append(text)
            elif "[" in name:
                continue
            elif name in single:
                raise InvalidInput(f"`{name}` is given twice: send it once", field=name)
            else:
                single[name] = parse(text)
        try:
            return msgspec.convert(single | lists | maps, self._kind)
        except msgspec.ValidationError as error:
            raise _refusal(error, self._kind) from None


def _plain_types(hint: object) -> Iterator[object]:
    """Yield the plain types in a hint: int and NoneType for `Annotated[int, ...] | None`."""
    origin = get_origin(hint)
    if origin in (tuple, dict):
        yield origin
    elif origin is None:
        yield hint
    else:
        for part in get_args(hint):
            yield from _plain_types(part)


def _integer(text: str) -> int | str:
    """Parse an integer. Other text is returned unchanged: the type check refuses it."""
    return int(text) if _INTEGER.fullmatch(text) else text


def _boolean(text: str) -> bool | str:
    return {"true": True, "false": False, "1": True, "0": False}.get(text.lower(), text)


def parameters_of(raw: bytes) -> list[tuple[str, str]]:
    """Parse a query string into names and values. Raises InvalidInput."""
    if not raw:
        return []
    if len(raw) > MAX_QUERY or raw.count(b"&") >= MAX_PARAMETERS:
        raise InvalidInput(
            f"the query string may have at most {MAX_QUERY} bytes and {MAX_PARAMETERS} parameters"
        )
    try:
        return parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError:
        raise InvalidInput("the query string is not valid UTF-8") from None
