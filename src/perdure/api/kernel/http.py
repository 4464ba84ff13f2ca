"""The ASGI application: finds a request's route, authenticates, decodes, calls the handler, encodes.

It uses ASGI directly, because on the hot routes the layers of a web framework cost more than all of our code
(see docs/decisions). Routing, decoding, the OpenAPI document and its tests all come from one table of routes.
"""

from __future__ import annotations

import logging
import urllib.parse
from contextlib import closing

import msgspec

from perdure.api.kernel.access import Access, Visit
from perdure.api.kernel.asgi import NOT_STORED, Header, Headers, Receive, Scope, Send, headers_of
from perdure.api.kernel.audits import deny, watched_app
from perdure.api.kernel.authentication import Authenticate
from perdure.api.kernel.body_stream import BodyStream
from perdure.api.kernel.call import Answer, Call, Chunked, Encoded, Reply, Stream
from perdure.api.kernel.commands import (
    CONDITIONS,
    MAX_OUTPUT,
    Asked,
    Commands,
    command_reply,
    refuse_command,
    request_of,
)
from perdure.api.kernel.decoding import (
    MAX_BODY,
    ClientLeft,
    check_size,
    check_text,
    decode,
    is_json,
    parameters_of,
    read_body,
    read_json,
    read_text,
)
from perdure.api.kernel.entity_tags import etag_header, is_known, parse_tags, tag_of
from perdure.api.kernel.idempotency import fingerprint, once_of
from perdure.api.kernel.intake import Arrival, Intake
from perdure.api.kernel.paging import linked
from perdure.api.kernel.problems import (
    INTERNAL,
    Problem,
    encode,
    explain_outcome,
    problem_of,
    retry_seconds,
    shown_path,
)
from perdure.api.kernel.route import Route
from perdure.api.kernel.router import Ready, Router
from perdure.api.kernel.sending import Begun, begin, collect, is_unread, send_chunks, send_reply
from perdure.api.kernel.warnings import body_warnings, query_warnings, with_warnings
from perdure.app.confidential import check_reader
from perdure.app.context import App
from perdure.app.idempotency import Replayed
from perdure.domain.accounts import Caller
from perdure.domain.errors import (
    Forbidden,
    InvalidInput,
    NotFound,
    PerdureError,
    Unavailable,
    UnsatisfiableRange,
)
from perdure.domain.ids import OrgId, UserId
from perdure.domain.log_lines import fields
from perdure.domain.paging import Page
from perdure.domain.trace_context import TraceContext, parse_context, tracing
from perdure.domain.working_for import SOMEBODY, work_for
from perdure.domain.workspaces import session_of
from perdure.store.faults import system_fault

log = logging.getLogger("perdure.api")

ANONYMOUS = Caller(OrgId(""), UserId(""), "member")
"""The caller of a public route."""

REPLAYED = (b"idempotency-replayed", b"true")
"""The header of a response that an earlier request got first."""


class Api:
    """The ASGI application."""

    def __init__(
        self, app: App, routes: tuple[Route, ...], authenticate: Authenticate, access: Access
    ) -> None:
        self._app = app
        self._access = access
        self._router = Router(routes)
        self._commands = Commands(self._router.ready)
        self._authenticate = authenticate
        self._intake = Intake()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"this application serves HTTP only, not {scope['type']}")
        visit = self._access.begin(scope, send)
        try:
            await self._serve(scope, receive, visit)
        finally:
            self._access.end(visit)

    async def _serve(self, scope: Scope, receive: Receive, visit: Visit) -> None:
        """Answer one request, whatever happens."""
        path = scope["path"]
        try:
            answer = await self._answer(scope, path, receive, visit)
        except PerdureError as error:
            answer = _refusal(scope, error, visit)
        except Replayed as before:
            answer = Reply(before.body, before.status, headers=(REPLAYED,))
        except ClientLeft:
            return
        except Exception as error:
            fault = system_fault(error)
            named = fields(request_id=visit.request_id)
            if fault is None:
                log.exception("%s %r failed", scope["method"], shown_path(path), extra=named)
                answer = problem_reply(msgspec.structs.replace(INTERNAL, instance=shown_path(path)), visit)
            else:
                log.warning("%s %r failed: %s", scope["method"], shown_path(path), fault.message, extra=named)
                answer = _refusal(scope, fault, visit)
        match answer:
            case Reply():
                await send_reply(scope, visit.send, answer)
            case Begun():
                await send_chunks(scope, visit.send, answer)
            case Stream(run=run):
                visit.is_stream = True
                await run(scope, receive, visit.send)

    async def _answer(
        self, scope: Scope, path: str, receive: Receive, visit: Visit
    ) -> Reply | Stream | Begun:
        headers = headers_of(scope)
        if (parent := headers.get(b"traceparent")) is None:
            return await self._answered(scope, path, headers, receive, visit)
        with tracing(_trace_of(parent, headers.get(b"tracestate", b""))):
            return await self._answered(scope, path, headers, receive, visit)

    async def _answered(
        self, scope: Scope, path: str, headers: Headers, receive: Receive, visit: Visit
    ) -> Reply | Stream | Begun:
        if path.startswith("/api/"):
            path = path[4:]
        match = self._router.find(path)
        if match is None:
            raise NotFound("route; see /docs", code="route_not_found")
        methods, values = match
        ready = _ready_for(scope["method"], methods)
        if ready is None:
            visit.route = next(iter(methods.values())).route.path
            return _wrong_method(path, methods, visit)
        route = ready.route
        visit.route = route.path
        anywhere = self._commands.anywhere(values[0]) if route.command else route.anywhere
        if not route.public:
            work_for(SOMEBODY)
        caller = ANONYMOUS if route.public else await self._authenticate(headers, anywhere)
        visit.caller = caller
        work_for(caller.organization_id or None)
        if ready.rest:
            _check_utf8(scope["raw_path"])
        arguments: list[object] = [check(text) for check, text in zip(ready.checks, values, strict=True)]
        if route.admit is not None:
            route.admit(self._app, *arguments)
        query = scope["query_string"]
        client = scope.get("client")
        address = client[0] if client else None
        call = Call(self._app, caller, headers, self._run_command, receive, address, visit.request_id)
        parameters = parameters_of(query)
        ignored = query_warnings(ready, headers, parameters)
        if ready.query is not None:
            arguments.append(ready.query.decode(parameters))
        is_raw = ready.query is not None and getattr(arguments[-1], "raw", False)
        asked = Asked(path, query, tuple(values), b"")
        if route.stream_limit and (ready.decoder is None or is_raw or not is_json(headers)):
            arrival = self._arrival(scope, caller)
            with closing(BodyStream(headers, receive, arrival, route.stream_limit)) as stream:
                answer = await self._run(ready, call, [*arguments, stream], asked)
        else:
            raw = await self._read(ready, call, arguments, self._arrival(scope, caller))
            answer = await self._run(ready, call, arguments, msgspec.structs.replace(asked, body=raw))
        if (call.warnings or ignored) and not isinstance(answer, Stream):
            return with_warnings(answer, call.warnings, ignored, has_field=ready.has_warnings)
        return answer

    async def _read(
        self, ready: Ready, call: Call, arguments: list[object], arrival: Arrival | None
    ) -> bytes:
        """Read the body, and add the handler's argument for it, if it has one, to `arguments`."""
        route, headers, receive = ready.route, call.headers, call.receive
        raw = b""
        if ready.decoder is not None:
            raw = await read_json(headers, receive, arrival, route.body_limit or MAX_BODY)
            arguments.append(decode(ready.decoder, raw))
            call.warnings = body_warnings(ready, headers, raw)
        elif route.text_limit:
            text = await read_text(headers, receive, arrival, route.text_limit)
            raw = text.encode()
            arguments.append(text)
        elif route.raw_limit:
            raw = await read_body(headers, receive, arrival, route.raw_limit)
            arguments.append(raw)
        elif route.method in ("POST", "PUT", "PATCH"):
            raw = await read_body(headers, receive, arrival)
        return raw

    def _arrival(self, scope: Scope, caller: Caller) -> Arrival | None:
        """Return the count for a body that is still arriving; None if all of it is here."""
        return self._intake.open(caller.organization_id) if is_unread(scope, unknown=True) else None

    async def _run(
        self, ready: Ready, call: Call, arguments: list[object], asked: Asked
    ) -> Reply | Stream | Begun:
        """Run a route's handler, and build the response."""
        route, headers = ready.route, call.headers
        if ready.of_session is not None and not route.public:
            of = session_of(asked.values[ready.of_session])
            await check_reader(self._app, call.caller, of, writes=not route.reads)
        if route.takes_key and (key := headers.get(b"idempotency-key")) is not None:
            session_id = None if ready.session_at is None else asked.values[ready.session_at]
            call.once = once_of(
                key, fingerprint(route.method, asked.path, asked.body), call.caller, session_id
            )
        if route.etag and (if_match := headers.get(b"if-match")) is not None:
            call.if_match = parse_tags(if_match)
        result = await _handled(ready, call, arguments, asked)
        if call.once is not None and not call.once.used:
            raise RuntimeError(f"{route.operation_id} did not store its response under the Idempotency-Key")
        if isinstance(result, Page):
            result = linked(result, asked.path, asked.query)
        reply = _reply(route, headers, result)
        return await begin(reply, route.status) if isinstance(reply, Chunked) else reply

    async def _run_command(self, outer: Call, name: str, params: dict[str, msgspec.Raw]) -> Reply:
        """Run the route of a command for the caller of another request.

        The route's checks, limits and errors are its own; what differs is only where the values come from.
        """
        ready, names = self._commands.find(name)
        request = request_of(ready, names, params)
        headers = {each: value for each, value in outer.headers.items() if each not in CONDITIONS}
        more = (refuse_command, outer.receive, outer.address, outer.request_id)
        call = Call(self._app, outer.caller, headers, *more)
        call.reason = outer.reason
        arguments: list[object] = [
            check(text) for check, text in zip(ready.checks, request.values, strict=True)
        ]
        if ready.route.admit is not None:
            ready.route.admit(self._app, *arguments)
        parameters = parameters_of(request.query)
        warnings = query_warnings(ready, headers, parameters)
        if ready.query is not None:
            arguments.append(ready.query.decode(parameters))
        if ready.decoder is not None:
            check_size(request.body, ready.route.body_limit or MAX_BODY)
            arguments.append(decode(ready.decoder, request.body))
            warnings += body_warnings(ready, headers, request.body)
        elif ready.route.text_limit:
            arguments.append(check_text(request.body.decode()))
        try:
            answer = await self._run(ready, call, arguments, request)
        except Replayed as before:
            answer = Reply(before.body, before.status, headers=(REPLAYED,))
        if isinstance(answer, Begun):
            answer = await collect(answer, MAX_OUTPUT)
        outer.warnings += warnings
        return command_reply(name, answer)


async def _handled(ready: Ready, call: Call, arguments: list[object], asked: Asked) -> object:
    """Run a handler. What an audited operation changes leaves entries in the audit log."""
    if ready.audited is None:
        return await ready.handler(call, *arguments)
    plain = call.app
    call.app, origin = watched_app(call, ready.route.operation_id, ready.audited)
    try:
        return await ready.handler(call, *arguments)
    except Forbidden:
        body = None if ready.decoder is None else arguments[-1]
        await deny(plain, origin, ready.route, asked.values, body)
        raise


def _trace_of(parent: bytes, state: bytes) -> TraceContext | None:
    """The span that sends a request; None if its header is not valid: that is no reason to refuse it."""
    return parse_context(parent.decode("latin-1"), state.decode("latin-1"))


def _check_utf8(raw_path: bytes) -> None:
    """Refuse a path whose percent-decoded bytes are not UTF-8.

    ASGI's decoded `path` has replacement characters instead: it could name another file.
    """
    try:
        urllib.parse.unquote_to_bytes(raw_path).decode()
    except UnicodeDecodeError:
        raise InvalidInput(
            "the path is not valid UTF-8: percent-encode UTF-8 bytes", code="invalid_path", field="path"
        ) from None


_WRAPPED = (Reply, Stream, Encoded, Answer, Chunked)


def _reply(route: Route, headers: Headers, result: object) -> Reply | Stream | Chunked[object]:
    if isinstance(result, _WRAPPED):
        return _unwrapped(route, headers, result)
    if result is None:
        return Reply(b"", 204)
    body = encode(result)
    if not route.etag:
        return Reply(body, route.status)
    tag = tag_of(result, body)
    if route.method == "GET" and is_known(headers, tag):
        return Reply(b"", 304, headers=etag_header(tag))
    return Reply(body, route.status, headers=etag_header(tag))


def _unwrapped(
    route: Route,
    headers: Headers,
    result: Reply | Stream | Encoded[object] | Answer[object] | Chunked[object],
) -> Reply | Stream | Chunked[object]:
    """Build the response of a handler that returned a wrapper instead of a plain value."""
    match result:
        case Encoded(body=body):
            return Reply(body, route.status)
        case Answer(value=value, status=status, etag=tag, headers=more):
            if tag is not None and route.method == "GET" and is_known(headers, tag):
                return Reply(b"", 304, headers=etag_header(tag))
            return Reply(encode(value), status or route.status, headers=(*more, *etag_header(tag)))
        case Chunked(etag=str(tag), headers=more):
            if is_known(headers, tag):
                return Reply(b"", 304, headers=etag_header(tag))
            return msgspec.structs.replace(result, headers=(*more, *etag_header(tag)))
    return result


def _refusal(scope: Scope, error: PerdureError, visit: Visit) -> Reply:
    """Build the response to a request that failed with this error."""
    problem = problem_of(error, scope["path"])
    if isinstance(error, Unavailable):
        keyed = any(name == b"idempotency-key" for name, _ in scope["headers"])
        problem = explain_outcome(problem, scope["method"], keyed=keyed)
    if isinstance(error, UnsatisfiableRange):
        return problem_reply(problem, visit, ((b"content-range", b"bytes */%d" % error.total),))
    return problem_reply(problem, visit, _retry(error))


def _retry(error: PerdureError) -> tuple[Header, ...]:
    seconds = retry_seconds(error)
    return () if seconds is None else ((b"retry-after", str(seconds).encode()),)


def error_reply(error: PerdureError, path: str, visit: Visit) -> Reply:
    """Build the response of an error, for a request with this path."""
    return problem_reply(problem_of(error, path), visit, _retry(error))


def problem_reply(problem: Problem, visit: Visit, headers: tuple[Header, ...] = ()) -> Reply:
    """Build an error's response. Nothing keeps it: a cache may keep a 404, a 405 or a 410 otherwise."""
    headers = (*headers, NOT_STORED)
    problem = msgspec.structs.replace(problem, request_id=visit.request_id)
    if problem.status == 401:
        headers = (*headers, (b"www-authenticate", b"Bearer"))
    return Reply(encode(problem), problem.status, b"application/problem+json", headers)


def _ready_for(method: str, methods: dict[str, Ready]) -> Ready | None:
    """Return the route of a method. HEAD is a GET of bytes, of which only the headers are sent."""
    if method != "HEAD":
        return methods.get(method)
    ready = methods.get("GET")
    return ready if ready is not None and ready.route.content == "application/octet-stream" else None


def _wrong_method(path: str, methods: dict[str, Ready], visit: Visit) -> Reply:
    allowed = ", ".join(sorted(methods))
    error = PerdureError(f"this path accepts only {allowed}", code="method_not_allowed")
    problem = msgspec.structs.replace(problem_of(error, path), status=405, title="Method not allowed")
    return problem_reply(problem, visit, ((b"allow", allowed.encode()),))
