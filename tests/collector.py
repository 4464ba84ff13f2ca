"""A collector of traces: it speaks OTLP over HTTP, and keeps the spans that it gets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web
from msgspec import Struct
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.conformance.places import soon
from tests.sites import listening


class GotSpan(Struct):
    """A span as it came."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: int
    start: int
    end: int
    state: str
    failed: bool
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind)


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


class Collector:
    """Keeps what comes.

    Attributes:
        spans: all spans, also repeated ones, in the order in which they came.
        resource: the attributes of the last sender.
        headers: of the last request.
        statuses: what the next requests are answered with; then 200.
        refuses: a name of a span; requests with such a span get 400.
        down: while it is set, requests get 503.
        open: while it is cleared, requests wait for their answers.
    """

    def __init__(self) -> None:
        self.spans: list[GotSpan] = []
        self.resource: dict[str, Any] = {}
        self.headers: dict[str, str] = {}
        self.requests = 0
        self.raw = b""
        self.refuses = ""
        self.down = False
        self.open = asyncio.Event()
        self.open.set()
        self.port = 0
        self._news = asyncio.Condition()

    @property
    def environment(self) -> dict[str, str]:
        """The variables that have a server export to it."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}"}

    async def until(self, check: Any) -> list[GotSpan]:
        """Wait until the spans, each once, satisfy the check; return those."""

        async def wait() -> None:
            async with self._news:
                await self._news.wait_for(lambda: check(self.unique()))

        await soon(wait())
        return self.unique()

    async def asked(self, times: int) -> None:
        """Wait until so many requests came."""

        async def wait() -> None:
            async with self._news:
                await self._news.wait_for(lambda: self.requests >= times)

        await soon(wait())

    def unique(self) -> list[GotSpan]:
        """Each span once; a repetition must be the same."""
        found: dict[tuple[str, str], GotSpan] = {}
        for span in self.spans:
            assert found.setdefault((span.trace_id, span.span_id), span) == span
        return list(found.values())

    async def __call__(self, request: web.BaseRequest) -> web.Response:
        body = await request.read()  # unpacked, if it is compressed
        self.headers = {name.lower(): value for name, value in request.headers.items()}
        assert (request.method, request.path) == ("POST", "/v1/traces")
        assert self.headers["content-type"] == "application/x-protobuf"
        message = ExportTraceServiceRequest.FromString(body)
        got = [
            self._got(span)
            for each in message.resource_spans
            for scope in each.scope_spans
            for span in scope.spans
        ]
        status = 503 if self.down else 400 if self.refuses in {span.name for span in got} else 200
        async with self._news:
            self.requests += 1
            if status == 200:
                self.raw += body
                self.spans += got
                self.resource = _attributes(message.resource_spans[0].resource.attributes)
            self._news.notify_all()
        await self.open.wait()
        return web.Response(status=status)

    @staticmethod
    def _got(span: Any) -> GotSpan:
        return GotSpan(
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            span.name,
            span.kind,
            span.start_time_unix_nano,
            span.end_time_unix_nano,
            span.trace_state,
            span.status.code == 2,
            _attributes(span.attributes),
            [(event.name, _attributes(event.attributes)) for event in span.events],
        )


@contextlib.asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    collector = Collector()
    async with listening(collector) as collector.port:
        try:
            yield collector
        finally:
            collector.open.set()


def root_of(spans: list[GotSpan], turn_id: str) -> GotSpan:
    """Return the span of a turn."""
    (found,) = [span for span in spans if span.attributes.get("perdure.turn.id") == turn_id]
    return found


def has_turn(turn_id: str) -> Any:
    """Return a check that a turn's own span, which is its last, has come."""
    return lambda spans: any(span.attributes.get("perdure.turn.id") == turn_id for span in spans)


def tree_of(spans: list[GotSpan], root: GotSpan, depth: int = 0) -> list[str]:
    """Return the names of a span and of all below it, indented, in the order of their starts."""
    below = sorted((each for each in spans if each.parent_id == root.span_id), key=lambda each: each.start)
    return ["  " * depth + root.name, *(name for each in below for name in tree_of(spans, each, depth + 1))]
