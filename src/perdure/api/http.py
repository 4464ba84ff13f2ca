"""HTTP as the routes see it: a table of routes, requests decoded and bounded, answers encoded.

Written on bare ASGI: on the hot routes a web framework's layers cost more than all of ours together (see
docs/decisions), and one table gives routing, decoding, the OpenAPI document and its tests.
"""

from __future__ import annotations

import asyncio
import logging
import re
from array import array
from collections.abc import Awaitable, Callable, MutableMapping
from itertools import accumulate
from typing import Any, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl

import msgspec
from msgspec import Struct

from perdure.api.problems import INTERNAL, Problem, encode, problem_of
from perdure.app.etags import etag_of, parse_tags
from perdure.app.idempotency import Replayed, fingerprint, once
from perdure.app.services import App
from perdure.domain.accounts import Caller
from perdure.domain.errors import InvalidInput, NotFound, PerdureError, TooLarge, UnsupportedMedia
from perdure.domain.ids import Prefix, check_id

log = logging.getLogger("perdure.api")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

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


class Call:
    """One request, decoded: what a handler gets."""

    __slots__ = ("app", "body", "caller", "headers", "if_match", "params", "path", "query")

    def __init__(self, app: App, caller: Caller, path: str, params: dict[str, str], headers: dict[bytes, bytes]) -> None:
        self.app = app
        self.caller = caller
        self.path = path
        self.params = params
        self.headers = headers
        self.query: Any = None
        self.body: Any = None
        self.if_match: frozenset[str] | None = None

    def header(self, name: bytes) -> str | None:
        """A header's text (names in lower case)."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")


class Reply(Struct, frozen=True):
    """An answer that is not simply a 200 with JSON."""

    body: bytes = b""
    status: int = 200
    content_type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Stream(Struct, frozen=True):
    """An answer that is sent by this ASGI application."""

    run: Asgi


Handler = Callable[[Call], Awaitable[Any]]


class Route(Struct, frozen=True):
    """One operation.

    Attributes:
        ids: for each path parameter the kind of id it must be; a parameter that is left out is taken as it is.
        query: a struct of the query parameters; tuple fields may be repeated.
        body, returns: the types of the bodies; `returns` None means no content.
        status: of a successful answer.
        errors: statuses of errors beside those that every operation has.
        public: needs no credentials.
        etag: answers carry an entity tag, and `If-None-Match` or `If-Match` are honoured.
    """

    method: str
    path: str
    operation_id: str
    summary: str
    tag: str
    handler: Handler
    ids: dict[str, Prefix] = {}
    query: type[Struct] | None = None
    body: Any = None
    body_example: Any = None
    returns: Any = None
    status: int = 200
    errors: tuple[int, ...] = ()
    public: bool = False
    etag: bool = False
    content: str = "application/json"
    description: str | None = None


class _Node:
    __slots__ = ("fixed", "name", "routes", "variable")

    def __init__(self) -> None:
        self.fixed: dict[str, _Node] = {}
        self.variable: _Node | None = None
        self.name = ""
        self.routes: dict[str, _Compiled] = {}


class _Compiled:
    """A route with what is computed once."""

    __slots__ = ("decoder", "known", "many", "names", "query", "route")

    def __init__(self, route: Route) -> None:
        self.route = route
        self.names = tuple(re.findall(r"{(\w+)}", route.path))
        self.decoder = None if route.body is None else msgspec.json.Decoder(route.body)
        self.query = route.query
        self.many: frozenset[str] = frozenset()
        self.known: frozenset[str] = frozenset()
        if route.query is not None:
            hints = get_type_hints(route.query)
            self.known = frozenset(hints)
            self.many = frozenset(name for name, hint in hints.items() if get_origin(hint) is tuple or _has_tuple(hint))


def _has_tuple(hint: Any) -> bool:
    return any(get_origin(part) is tuple for part in get_args(hint))


class Router:
    """Finds the route of a path: a tree of segments, fixed ones before variables."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self.routes = routes
        self._root = _Node()
        for route in routes:
            node = self._root
            for segment in route.path.strip("/").split("/"):
                if segment.startswith("{"):
                    if node.variable is None:
                        node.variable = _Node()
                    node = node.variable
                else:
                    node = node.fixed.setdefault(segment, _Node())
            node.routes[route.method] = _Compiled(route)

    def find(self, path: str) -> tuple[dict[str, _Compiled], list[str]] | None:
        """The routes at a path by method, and the values of its variables."""
        found: list[str] = []
        node = self._find(self._root, path.strip("/").split("/"), 0, found)
        return None if node is None or not node.routes else (node.routes, found)

    def _find(self, node: _Node, segments: list[str], index: int, found: list[str]) -> _Node | None:
        if index == len(segments):
            return node
        fixed = node.fixed.get(segments[index])
        if fixed is not None:
            deeper = self._find(fixed, segments, index + 1, found)
            if deeper is not None and deeper.routes:
                return deeper
        if node.variable is not None and segments[index]:
            found.append(segments[index])
            deeper = self._find(node.variable, segments, index + 1, found)
            if deeper is not None and deeper.routes:
                return deeper
            found.pop()
        return None


Authenticate = Callable[[dict[bytes, bytes]], Awaitable[Caller]]
NOBODY = Caller("", "", "member")


class Api:
    """The ASGI application."""

    def __init__(self, app: App, routes: tuple[Route, ...], authenticate: Authenticate) -> None:
        self._app = app
        self._router = Router(routes)
        self._authenticate = authenticate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"only HTTP is spoken here, not {scope['type']}")
        path: str = scope["path"]
        try:
            answer = await self._answer(scope, path, receive)
        except PerdureError as error:
            answer = problem_reply(problem_of(error, path), _retry(error))
        except Replayed as before:
            answer = Reply(before.body, before.status, headers=((b"idempotency-replayed", b"true"),))
        except _ClientLeft:
            return
        except Exception:
            log.exception("%s %r failed", scope["method"], path)
            answer = problem_reply(msgspec.structs.replace(INTERNAL, instance=path[:200]))
        if isinstance(answer, Stream):
            await answer.run(scope, receive, send)
            return
        await _send(send, answer)

    async def _answer(self, scope: Scope, path: str, receive: Receive) -> Reply | Stream:
        if path.startswith("/api/"):
            path = path[4:]
        found = self._router.find(path)
        if found is None:
            raise NotFound("route")
        methods, values = found
        compiled = methods.get(scope["method"])
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if compiled is None:
            return _wrong_method(path, methods)
        route = compiled.route
        caller = NOBODY if route.public else await self._authenticate(headers)
        params = dict(zip(compiled.names, values, strict=True))
        for name, prefix in route.ids.items():
            check_id(params[name], prefix, name)
        call = Call(self._app, caller, path, params, headers)
        if compiled.query is not None:
            call.query = _query(scope["query_string"], compiled)
        raw = b""
        if compiled.decoder is not None:
            raw = await read_json(headers, receive)
            call.body = decode(compiled.decoder, raw)
        elif route.method in ("POST", "PUT", "PATCH"):
            raw = await read_body(headers, receive)
        key = headers.get(b"idempotency-key")
        if key is not None and route.status == 201 and route.method == "POST":
            call.app = once(self._app, caller, key.decode("latin-1"), fingerprint(route.method, path, raw))
        if route.etag and (wanted := headers.get(b"if-match")) is not None:
            call.if_match = parse_tags(wanted.decode("latin-1"))
        return _reply(route, headers, await route.handler(call))


def _reply(route: Route, headers: dict[bytes, bytes], result: Any) -> Reply | Stream:
    if isinstance(result, Reply | Stream):
        return result
    if route.returns is None:
        return Reply(b"", 204)
    body = encode(result)
    if not route.etag:
        return Reply(body, route.status)
    tag = etag_of(body)
    mark = ((b"etag", f'"{tag}"'.encode()),)
    known = headers.get(b"if-none-match")
    if known is not None and route.method == "GET" and {tag, "*"} & parse_tags(known.decode("latin-1")):
        return Reply(b"", 304, headers=mark)
    return Reply(body, route.status, headers=mark)


def _retry(error: PerdureError) -> tuple[tuple[bytes, bytes], ...]:
    if error.retry_after is None:
        return ()
    return ((b"retry-after", str(max(1, round(error.retry_after))).encode()),)


def problem_reply(problem: Problem, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Reply:
    """An error as an answer."""
    if problem.status == 401:
        headers = (*headers, (b"www-authenticate", b"Bearer"))
    return Reply(encode(problem), problem.status, b"application/problem+json", headers)


def _wrong_method(path: str, methods: dict[str, _Compiled]) -> Reply:
    allowed = ", ".join(sorted(methods))
    error = PerdureError(f"this path takes {allowed}", code="method_not_allowed")
    problem = msgspec.structs.replace(problem_of(error, path), status=405, title="Method not allowed")
    return problem_reply(problem, ((b"allow", allowed.encode()),))


async def _send(send: Send, reply: Reply) -> None:
    headers = [(b"content-type", reply.content_type)] if reply.body or reply.status != 204 else []
    headers += [(b"content-length", str(len(reply.body)).encode()), (b"x-content-type-options", b"nosniff"), *reply.headers]
    if reply.status in (204, 304):
        headers = [pair for pair in headers if pair[0] != b"content-length"]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


class _ClientLeft(Exception):
    """The connection ended before the request was complete: there is nothing to do, and nobody to tell."""


async def read_body(headers: dict[bytes, bytes], receive: Receive, limit: int = MAX_BODY) -> bytes:
    """The whole body.

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
        async with asyncio.timeout(BODY_TIMEOUT):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _ClientLeft
                part: bytes = message.get("body", b"")
                size += len(part)
                if size > limit:
                    raise TooLarge(f"the body may hold {limit} bytes")
                parts.append(part)
                if not message.get("more_body"):
                    return parts[0] if len(parts) == 1 else b"".join(parts)
    except TimeoutError:
        raise InvalidInput("the body did not arrive in time", code="body_timeout") from None


async def read_json(headers: dict[bytes, bytes], receive: Receive) -> bytes:
    """The body of a request that must be JSON."""
    media, _, parameters = headers.get(b"content-type", b"").lower().partition(b";")
    media = media.strip()
    body = await read_body(headers, receive)
    if media != b"application/json" and not media.endswith(b"+json"):
        raise UnsupportedMedia("send JSON, with the content type application/json")
    charset = _CHARSET.search(parameters)
    if charset is not None and charset[1] not in (b"utf-8", b"utf8", b"us-ascii"):
        raise UnsupportedMedia("send JSON in UTF-8")
    if not body:
        raise InvalidInput("the body is missing", code="missing_body")
    return body


_CHARSET = re.compile(rb"charset\s*=\s*\"?([^\s;\"]*)")

# Possessive (`*+`), so that no body, however made, costs more than one pass and a fixed amount of memory.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*+\\u0000")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_BIG_NUMBER = re.compile(rb"[\[:,\s]-?(?:\d{19}|[\d.]++[eE]\+?\d{3})")

_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""What a bracket does to the depth, as signed bytes."""
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ANYTHING = msgspec.json.Decoder()


def decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    """The body as its type.

    All of the body is looked at, also what the type does not know and would skip.

    Raises:
        InvalidInput: not JSON, not of the type, or holding what cannot be stored and given back: NUL characters, whole
            numbers beyond 64 bits, others beyond a double, nesting beyond 99.
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
        raise _refusal(error) from None
    except UnicodeDecodeError:
        raise InvalidInput("the body is not valid UTF-8", code="invalid_json") from None
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise InvalidInput(f"the body is not valid JSON: {str(error)[:200]}", code="invalid_json") from None
    return value


_PLACE = re.compile(r" - at `(key` in `)?\$\.?([^`]*)`$")


def _refusal(error: msgspec.ValidationError) -> InvalidInput:
    """The decoder's complaint, with the place first and as the error's field."""
    text = str(error)
    code = "number_out_of_range" if "out of range" in text else None
    place = _PLACE.search(text)
    if place is None or not place[2]:
        return InvalidInput(_lower(_PLACE.sub("", text)), code=code)
    words = _lower(text[: place.start()])
    return InvalidInput(f"`{place[2][:200]}`{' has a key:' if place[1] else ':'} {words}", code=code, field=place[2][:200])


def _lower(text: str) -> str:
    return (text[:1].lower() + text[1:])[:300]


def _check_depth(body: bytes) -> None:
    steps = array("b", _STRING.sub(b"", body).translate(_STEPS, _NO_BRACKETS))
    if max(accumulate(steps), default=0) >= MAX_DEPTH:
        raise InvalidInput(f"JSON may be nested {MAX_DEPTH - 1} deep", code="nesting_too_deep")


def _check_numbers(value: Any) -> None:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, int) and not -(1 << 63) <= item < 1 << 63:
            raise InvalidInput("a whole number must fit in 64 bits", code="number_out_of_range")


def _query(raw: bytes, compiled: _Compiled) -> Any:
    """The query parameters as their struct; unknown ones are ignored."""
    given: dict[str, Any] = {}
    for name, value in _pairs(raw) if raw else ():
        if "\x00" in value:
            raise InvalidInput(f"`{name[:100]}` must not hold NUL characters", field=name[:100])
        if name in compiled.many:
            given.setdefault(name, []).append(value)
        elif name in given and name in compiled.known:
            raise InvalidInput(f"`{name}` is given twice", field=name)
        else:
            given[name] = value
    try:
        return msgspec.convert(given, compiled.query, strict=False)
    except msgspec.ValidationError as error:
        raise _refusal(error) from None


def _pairs(raw: bytes) -> list[tuple[str, str]]:
    if len(raw) > MAX_QUERY or raw.count(b"&") >= MAX_PARAMETERS:
        raise InvalidInput(f"the query string may hold {MAX_QUERY} bytes and {MAX_PARAMETERS} parameters")
    try:
        return parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError:
        raise InvalidInput("the query string is not valid UTF-8") from None
