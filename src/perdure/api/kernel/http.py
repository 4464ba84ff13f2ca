"""HTTP as the routes see it: a table of routes, requests decoded and bounded, answers encoded.

Written on bare ASGI: on the hot routes a web framework's layers cost more than all of ours together (see
docs/decisions), and one table gives routing, decoding, the OpenAPI document and its tests.
"""

from __future__ import annotations

import logging
import re
import urllib.parse
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

import msgspec
from msgspec import Struct

from perdure.api.kernel.decoding import (
    MAX_BODY,
    ClientLeft,
    QueryDecoder,
    Receive,
    decode,
    read_body,
    read_json,
    read_text,
)
from perdure.api.kernel.problems import INTERNAL, Problem, encode, problem_of, retry_seconds
from perdure.app.context import App
from perdure.app.etags import etag_of, parse_tags
from perdure.app.idempotency import Replayed, fingerprint, once
from perdure.domain.accounts import Caller
from perdure.domain.errors import InvalidInput, NotFound, PerdureError
from perdure.domain.ids import Prefix, check_id
from perdure.domain.paging import Page

log = logging.getLogger("perdure.api")

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


class Call:
    """One request, decoded: what a handler gets."""

    __slots__ = ("app", "body", "caller", "headers", "if_match", "params", "path", "query")

    def __init__(
        self, app: App, caller: Caller, path: str, params: dict[str, str], headers: dict[bytes, bytes]
    ) -> None:
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
        ids: for each path parameter the kind of id it must be; a parameter that is left out is taken as it
            is.
        query: a struct of the query parameters; tuple fields may be repeated.
        rest: the last path parameter, where it takes the rest of the path, slashes included.
        body_limit: bytes of the body; where it is 0, as many as for any other operation.
        text_limit: where it is not 0, the body is text of up to so many bytes instead of JSON.
        body, returns: the types of the bodies; `returns` None means no content.
        also: another type that the answer may have.
        status: of a successful answer.
        other: further statuses with the same body.
        example: of an answer that is not JSON.
        errors: statuses of errors beside those that every operation has.
        public: needs no credentials.
        anywhere: it is about the caller and not about an organization, so one who belongs to several need not
            choose.
        replayable: an Idempotency-Key gets the first answer again; not where the answer is a secret that is
            shown once.
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
    rest: str = ""
    body_limit: int = 0
    text_limit: int = 0
    returns: Any = None
    also: Any = None
    status: int = 200
    other: tuple[int, ...] = ()
    errors: tuple[int, ...] = ()
    public: bool = False
    anywhere: bool = False
    etag: bool = False
    replayable: bool = True
    content: str = "application/json"
    example: str | None = None
    description: str | None = None


class _Node:
    __slots__ = ("fixed", "rest", "routes", "variable")

    def __init__(self) -> None:
        self.fixed: dict[str, _Node] = {}
        self.variable: _Node | None = None
        self.rest: _Node | None = None
        self.routes: dict[str, _Compiled] = {}


class _Compiled:
    """A route with what is computed once."""

    __slots__ = ("decoder", "names", "query", "route")

    def __init__(self, route: Route) -> None:
        self.route = route
        self.names = tuple(re.findall(r"{(\w+)}", route.path))
        self.decoder = None if route.body is None else msgspec.json.Decoder(route.body)
        self.query = None if route.query is None else QueryDecoder(route.query)


class Router:
    """Finds the route of a path.

    A tree of segments, fixed ones before variables, and those before what takes the rest.
    """

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self.routes = routes
        self._root = _Node()
        for route in routes:
            node = self._root
            for segment in route.path.strip("/").split("/"):
                if route.rest and segment == f"{{{route.rest}}}":
                    if node.rest is None:
                        node.rest = _Node()
                    node = node.rest
                elif segment.startswith("{"):
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
        if node.rest is not None:
            found.append("/".join(segments[index:]))
            return node.rest
        return None


Authenticate = Callable[[dict[bytes, bytes], bool], Awaitable[Caller]]
"""Who sends these headers; and whether it does not matter in which organization."""
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
        except ClientLeft:
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
            raise NotFound("route; `/docs` lists those there are", code="route_not_found")
        methods, values = found
        compiled = methods.get(scope["method"])
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if compiled is None:
            return _wrong_method(path, methods)
        route = compiled.route
        caller = NOBODY if route.public else await self._authenticate(headers, route.anywhere)
        params = dict(zip(compiled.names, values, strict=True))
        if route.rest:
            _check_text(scope["raw_path"])
        for name, text in params.items():
            if name in route.ids:
                check_id(text, route.ids[name], name)
            elif "\x00" in text:
                raise InvalidInput(f"`{name}` must not hold NUL characters", field=name)
        call = Call(self._app, caller, path, params, headers)
        if compiled.query is not None:
            call.query = compiled.query.decode(scope["query_string"])
        raw = b""
        if compiled.decoder is not None:
            raw = await read_json(headers, receive, route.body_limit or MAX_BODY)
            call.body = decode(compiled.decoder, raw)
        elif route.text_limit:
            call.body = await read_text(headers, receive, route.text_limit)
            raw = call.body.encode()
        elif route.method in ("POST", "PUT", "PATCH"):
            raw = await read_body(headers, receive)
        key = headers.get(b"idempotency-key")
        if key is not None and route.status == 201 and route.method == "POST" and route.replayable:
            print_ = fingerprint(route.method, path, raw)
            call.app = once(self._app, caller, key.decode("latin-1"), print_, params.get("session_id"))
        if route.etag and (wanted := headers.get(b"if-match")) is not None:
            call.if_match = parse_tags(wanted.decode("latin-1"))
        result = await route.handler(call)
        if isinstance(result, Page):
            result = linked(result, path, scope["query_string"])
        return _reply(route, headers, result)


def linked(page: Page[Any], path: str, query: bytes) -> Page[Any]:
    """The page with the URLs of the slices beside it, which keep the conditions of its own query."""
    rest = [
        pair for pair in parse_qsl(query.decode("latin-1"), keep_blank_values=True) if pair[0] != "offset"
    ]

    def url(offset: int) -> str:
        return f"{path}?{urlencode([*rest, ('offset', offset)])}"

    following = page.offset + page.limit
    return msgspec.structs.replace(
        page,
        next_url=url(following) if following < page.total else None,
        prev_url=url(max(0, page.offset - page.limit)) if page.offset else None,
    )


def _check_text(raw_path: bytes) -> None:
    """Refuse a path that is not UTF-8 once it is decoded.

    The server would see marks in place of what was meant.
    """
    try:
        urllib.parse.unquote_to_bytes(raw_path).decode()
    except UnicodeDecodeError:
        raise InvalidInput("the path is not valid UTF-8", code="invalid_path", field="path") from None


def _reply(route: Route, headers: dict[bytes, bytes], result: Any) -> Reply | Stream:
    if isinstance(result, Reply | Stream):
        return result
    if route.returns is None:
        return Reply(b"", 204)
    body = encode(result)
    if not route.etag:
        return Reply(body, route.status)
    tag = etag_of(result, body)
    mark = ((b"etag", f'"{tag}"'.encode()),)
    known = headers.get(b"if-none-match")
    if known is not None and route.method == "GET" and {tag, "*"} & parse_tags(known.decode("latin-1")):
        return Reply(b"", 304, headers=mark)
    return Reply(body, route.status, headers=mark)


def _retry(error: PerdureError) -> tuple[tuple[bytes, bytes], ...]:
    seconds = retry_seconds(error)
    return () if seconds is None else ((b"retry-after", str(seconds).encode()),)


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
    headers += [
        (b"content-length", str(len(reply.body)).encode()),
        (b"x-content-type-options", b"nosniff"),
        *reply.headers,
    ]
    if reply.status in (204, 304):
        headers = [pair for pair in headers if pair[0] != b"content-length"]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
