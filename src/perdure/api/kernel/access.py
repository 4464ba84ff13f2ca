"""One line of the log, and the metrics, for each request; and the id by which both sides can name it."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager

from perdure.api.kernel.asgi import Header, Message, Scope, Send
from perdure.domain.accounts import Caller
from perdure.domain.ids import new_request_id
from perdure.domain.log_lines import CLEAN, FIELDS, Field, LogSecrets
from perdure.domain.metrics import Metrics

log = logging.getLogger("perdure.access")

REQUEST_ID = b"x-request-id"
"""The header with the request's id: accepted from the client, or made, and sent with every answer."""

LEFT = 499
"""The status in the log and the metrics of a request whose client left before the answer."""

NO_ROUTE = "-"
"""The route of a request for a path that no route has: paths can hold tokens, so none is logged."""

_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}")
_SECRETS = LogSecrets()
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_LINE = "%(method)s %(route)s %(status)d"
_QUIET = frozenset({"/health", "/metrics"})
"""Routes that monitoring asks every few seconds: answers with 200 are logged at the level debug only."""


class Visit:
    """One request, from its headers to the end of its answer.

    Attributes:
        request_id: the client's `X-Request-Id`, or one that was made here.
        route: the template of the route's path.
        caller: who asks; None before that is known.
        status: the status that was sent; 499 until then.
        is_stream: whether the answer goes on for as long as the client likes.
    """

    __slots__ = (
        "_header",
        "_send",
        "began",
        "caller",
        "is_stream",
        "method",
        "request_id",
        "route",
        "status",
    )

    def __init__(self, method: str, request_id: str, send: Send) -> None:
        self.method = method if method in _METHODS else "OTHER"
        self.request_id = request_id
        self.route = NO_ROUTE
        self.caller: Caller | None = None
        self.status = LEFT
        self.is_stream = False
        self.began = time.perf_counter()
        self._send = send
        self._header: Header = (REQUEST_ID, request_id.encode())

    def send(self, message: Message) -> Awaitable[None]:
        """Send a part of the answer, the first one with the request's id."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], self._header]
        return self._send(message)


class Access:
    """Notes the requests of one process."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def begin(self, scope: Scope, send: Send) -> Visit:
        """Note that a request has come."""
        given = b""
        for name, value in scope["headers"]:
            if name == REQUEST_ID:
                given = value
        usable = _ID.fullmatch(given) is not None and not _SECRETS.are_in(given.decode())
        request_id = given.decode() if usable else new_request_id()
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s begins", scope["method"], extra={FIELDS: {"request_id": request_id}})
        return Visit(scope["method"], request_id, send)

    def end(self, visit: Visit) -> None:
        """Note that a request was answered, or that its client has left."""
        seconds = time.perf_counter() - visit.began
        self._metrics.requests.add(visit.method, visit.route, str(visit.status))
        if not visit.is_stream:
            self._metrics.request_seconds.observe(seconds, visit.method, visit.route)
        level = logging.INFO
        if visit.status >= 500:
            level = logging.WARNING
        elif visit.status == 200 and visit.route in _QUIET:
            level = logging.DEBUG
        if not log.isEnabledFor(level):
            return
        caller = visit.caller
        named: dict[str, Field] = {
            "method": visit.method,
            "route": visit.route,
            "status": visit.status,
        }
        found: dict[str, Field] = {"ms": round(seconds * 1000, 1)}
        if caller is not None and caller.user_id:
            found["caller"], found["org"] = caller.user_id, caller.organization_id
            if caller.token_id is not None:
                found["token"] = caller.token_id
        found["request_id"] = visit.request_id
        # Made here: to look up which line of the code logs takes as long as everything else.
        record = logging.LogRecord(log.name, level, "", 0, _LINE, (named,), None)
        record.__dict__ |= {FIELDS: found, CLEAN: True}
        log.handle(record)

    def stranger(self, status: int) -> Visit:
        """Note what is refused before it was a request, with this status: it has no valid head."""
        visit = Visit("", new_request_id(), _nowhere)
        visit.status = status
        self.end(visit)
        return visit

    @contextmanager
    def visit(self, scope: Scope, send: Send) -> Iterator[Visit]:
        """Note a request that the block answers."""
        visit = self.begin(scope, send)
        try:
            yield visit
        finally:
            self.end(visit)


async def _nowhere(message: Message) -> None:
    """Send nothing: there is no request."""
