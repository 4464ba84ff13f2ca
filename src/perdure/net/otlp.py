"""Spans in OpenTelemetry's protocol (OTLP over HTTP, as protobuf), and the requests that carry them.

The messages are those of `opentelemetry-proto`, which is imported by the first export.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar

from perdure import __version__
from perdure.domain.errors import PerdureError, ToolError, Unavailable
from perdure.domain.retry_after import retry_after
from perdure.domain.span_names import ERROR_TYPE
from perdure.domain.trace_settings import TraceSettings
from perdure.domain.turn_spans import Span, SpanValue
from perdure.net.web_client import read_body, reason_of

if TYPE_CHECKING:
    from opentelemetry.proto.common.v1.common_pb2 import KeyValue

log = logging.getLogger("perdure.traces")

MAX_ANSWER = 64 * 1024
"""Bytes of an answer that are read."""
_REFUSED = (400, 413, 422)
"""Statuses with which a collector says that it does not take this content; all others may pass."""


class Undelivered(PerdureError):
    """The collector did not take spans, which are sent again later, after `retry_after` if it says so."""


class Rejected(PerdureError):
    """The collector will not take these spans, however often they are sent."""


def check_library() -> None:
    """Check that spans can be encoded. Raises Unavailable."""
    try:
        import opentelemetry.proto.collector.trace.v1.trace_service_pb2  # noqa: F401
    except ImportError as error:
        raise Unavailable(
            "traces need more packages: pip install 'perdure[otel]', or unset OTEL_EXPORTER_OTLP_ENDPOINT"
        ) from error


def encode_spans(spans: Iterable[Span], resource: Mapping[str, str]) -> bytes:
    """Encode a request to export spans."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource
    from opentelemetry.proto.trace.v1 import trace_pb2 as wire

    def value_of(value: SpanValue) -> AnyValue:
        match value:
            case bool():
                return AnyValue(bool_value=value)
            case int():
                return AnyValue(int_value=value)
            case float():
                return AnyValue(double_value=value)
            case str():
                return AnyValue(string_value=_storable(value))
            case _:
                texts = [AnyValue(string_value=_storable(each)) for each in value]
                return AnyValue(array_value=ArrayValue(values=texts))

    def pairs(attributes: Mapping[str, Any]) -> list[KeyValue]:
        return [KeyValue(key=name, value=value_of(value)) for name, value in attributes.items()]

    def span_of(span: Span) -> wire.Span:
        attributes = dict(span.attributes)
        status = wire.Status()
        if span.error is not None:
            attributes[ERROR_TYPE] = span.error
            status = wire.Status(code=wire.Status.STATUS_CODE_ERROR, message=_storable(span.error))
        kind = wire.Span.SPAN_KIND_CLIENT if span.outgoing else wire.Span.SPAN_KIND_INTERNAL
        return wire.Span(
            trace_id=bytes.fromhex(span.trace_id),
            span_id=bytes.fromhex(span.span_id),
            parent_span_id=b"" if span.parent_id is None else bytes.fromhex(span.parent_id),
            trace_state=span.tracestate or "",
            flags=0x01,
            name=_storable(span.name),
            kind=kind,
            start_time_unix_nano=max(span.start, 0) * 1000,
            end_time_unix_nano=max(span.end, span.start, 0) * 1000,
            attributes=pairs(attributes),
            events=[
                wire.Span.Event(
                    time_unix_nano=max(each.at, 0) * 1000, name=each.name, attributes=pairs(each.attributes)
                )
                for each in span.events
            ],
            dropped_events_count=span.dropped_events,
            status=status,
        )

    scope = wire.ScopeSpans(
        scope=InstrumentationScope(name="perdure", version=__version__),
        spans=[span_of(each) for each in spans],
    )
    resource_spans = wire.ResourceSpans(resource=Resource(attributes=pairs(resource)), scope_spans=[scope])
    encoded: bytes = ExportTraceServiceRequest(resource_spans=[resource_spans]).SerializeToString()
    return encoded


def _storable(text: str) -> str:
    """The text without lone surrogates, which protobuf refuses."""
    return text.encode("utf-8", "replace").decode()


class Collector:
    """The collector of traces that the settings name; its connection is kept.

    The address is the operator's, so it may be in any network. Redirects are not followed, because the
    headers may hold a credential.
    """

    def __init__(self, settings: TraceSettings) -> None:
        self._settings = settings
        self._session: ClientSession | None = None

    async def export(self, spans: Sequence[Span]) -> None:
        """Send spans.

        Raises:
            Undelivered: they have to be sent again.
            Rejected: the collector does not take them.
        """
        body = await asyncio.to_thread(self._encoded, spans)
        try:
            async with asyncio.timeout(self._settings.timeout):
                await self._post(body)
        except TimeoutError:
            raise Undelivered(f"no answer within {self._settings.timeout:g} seconds") from None
        except ToolError:  # it took the spans, and its answer cannot be read
            return
        except (ClientError, OSError) as error:
            said = reason_of(error) if isinstance(error, ClientError) else type(error).__name__
            raise Undelivered(said[:300]) from None

    def _encoded(self, spans: Sequence[Span]) -> bytes:
        body = encode_spans(spans, self._settings.resource)
        return gzip.compress(body, 6) if self._settings.compress else body

    async def _post(self, body: bytes) -> None:
        settings = self._settings
        if self._session is None:
            self._session = ClientSession(
                cookie_jar=DummyCookieJar(), auto_decompress=False, timeout=ClientTimeout(total=None)
            )
        headers = {"User-Agent": f"perdure/{__version__}", **settings.headers}
        headers["Content-Type"] = "application/x-protobuf"
        if settings.compress:
            headers["Content-Encoding"] = "gzip"
        async with self._session.post(
            settings.url, data=body, headers=headers, allow_redirects=False
        ) as answer:
            if 200 <= answer.status < 300:
                _check_answer(*await read_body(answer, MAX_ANSWER))
                return
            said = f"the collector answered {answer.status}"
            if answer.status in _REFUSED:
                raise Rejected(said)
            raise Undelivered(said, retry_after=retry_after(answer.headers, time.time()))

    async def close(self) -> None:
        """Close the connection."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


def _check_answer(body: bytes, longer: bool) -> None:
    """Log how many spans the collector has left out, if it says so. What it is sent again does not help."""
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    with contextlib.suppress(DecodeError):
        left_out = 0 if longer else ExportTraceServiceResponse.FromString(body).partial_success.rejected_spans
        if left_out:
            log.warning("the collector of traces has left out %d spans", left_out)
