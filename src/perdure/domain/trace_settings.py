"""OpenTelemetry's own variables for the export of traces, as far as this server follows them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from perdure.domain.errors import InvalidInput
from perdure.domain.trace_context import Sampler

TIMEOUT = 10.0
"""Seconds for a request to the collector, by the specification."""

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~/-]{1,255}")
"""The name of a header, or of a resource's attribute."""
_SAMPLERS: Mapping[str, Sampler | None] = MappingProxyType(
    {
        "always_on": Sampler(1.0, follows=False),
        "always_off": None,
        "traceidratio": Sampler(1.0, follows=False),
        "parentbased_always_on": Sampler(1.0),
        "parentbased_always_off": Sampler(0.0),
        "parentbased_traceidratio": Sampler(1.0),
    }
)


class TraceSettings(Struct, frozen=True):
    """Where spans go, and which.

    Attributes:
        url: the collector's address for traces.
        headers: sent with each request; they may hold a credential.
        timeout: seconds for a request.
        compress: whether requests are compressed.
        resource: attributes of this server.
        sampler: decides which traces are exported.
        content: whether spans have messages, arguments and results.
    """

    url: str
    headers: Mapping[str, str]
    timeout: float
    compress: bool
    resource: Mapping[str, str]
    sampler: Sampler
    content: bool


def read_trace_settings(environment: Mapping[str, str]) -> TraceSettings | None:
    """Read the variables; None if no endpoint is set, or tracing is off.

    Raises:
        InvalidInput: `invalid_setting`: a value is not valid. Without an endpoint, nothing is checked.
    """

    def of(name: str, default: str = "") -> str:
        """The value for traces, or else the one for all signals."""
        found = environment.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or ""
        return found.strip() or (environment.get(f"OTEL_EXPORTER_OTLP_{name}") or "").strip() or default

    general = (environment.get("OTEL_EXPORTER_OTLP_ENDPOINT") or "").strip()
    own = (environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or "").strip()
    exporters = [each.strip() for each in (environment.get("OTEL_TRACES_EXPORTER") or "otlp").split(",")]
    if not (general or own) or _is_true(environment.get("OTEL_SDK_DISABLED")) or "otlp" not in exporters:
        return None
    sampler = _sampler(environment)
    if sampler is None:
        return None
    if (protocol := of("PROTOCOL", "http/protobuf")) != "http/protobuf":
        raise _invalid("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf, which every collector takes", protocol)
    if (compression := of("COMPRESSION", "none")) not in ("none", "gzip"):
        raise _invalid("OTEL_EXPORTER_OTLP_COMPRESSION", "none or gzip", compression)
    resource = _pairs("OTEL_RESOURCE_ATTRIBUTES", environment.get("OTEL_RESOURCE_ATTRIBUTES") or "")
    name = (environment.get("OTEL_SERVICE_NAME") or "").strip() or resource.get("service.name") or "perdure"
    return TraceSettings(
        url=_checked(own or f"{general.rstrip('/')}/v1/traces"),
        headers=_pairs("OTEL_EXPORTER_OTLP_HEADERS", of("HEADERS"), shown=False),
        timeout=_milliseconds(of("TIMEOUT")),
        compress=compression == "gzip",
        resource={**resource, "service.name": name},
        sampler=sampler,
        content=_wants_content(environment.get("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT")),
    )


def _sampler(environment: Mapping[str, str]) -> Sampler | None:
    name = (environment.get("OTEL_TRACES_SAMPLER") or "").strip().lower() or "parentbased_always_on"
    if name not in _SAMPLERS:
        raise _invalid("OTEL_TRACES_SAMPLER", f"one of {', '.join(_SAMPLERS)}", name)
    sampler = _SAMPLERS[name]
    argument = (environment.get("OTEL_TRACES_SAMPLER_ARG") or "").strip()
    if sampler is None or not name.endswith("ratio") or not argument:
        return sampler
    try:
        share = float(argument)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise _invalid("OTEL_TRACES_SAMPLER_ARG", "a number from 0 to 1", argument)
    return Sampler(share, sampler.follows)


def _checked(url: str) -> str:
    """The address as it is. Raises InvalidInput."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.fragment
        _ = parts.port
    except ValueError:
        valid = False
    if not valid or any(not 0x21 <= ord(char) <= 0x7E for char in url):
        raise _invalid("OTEL_EXPORTER_OTLP_ENDPOINT", "an http or https URL", None)
    return url


def _milliseconds(text: str) -> float:
    if not text:
        return TIMEOUT
    if not text.isdecimal() or not 1 <= int(text) <= 3_600_000:
        raise _invalid("OTEL_EXPORTER_OTLP_TIMEOUT", "milliseconds, from 1 to 3600000", text)
    return int(text) / 1000


def _pairs(variable: str, text: str, *, shown: bool = True) -> dict[str, str]:
    """Read `name=value,name=value` with percent-encoded values. Raises InvalidInput."""
    found: dict[str, str] = {}
    for each in text.split(","):
        name, equals, value = each.partition("=")
        name, value = unquote(name.strip()), unquote(value.strip())
        if not each.strip():
            continue
        if not equals or not _NAME.fullmatch(name) or not value.isprintable():
            raise _invalid(variable, "name=value, separated by commas", each if shown else None)
        found[name] = value
    return found


def _is_true(text: str | None) -> bool:
    return (text or "").strip().lower() == "true"


def _wants_content(text: str | None) -> bool:
    """Whether spans have content: `true`, or a mode of the newer conventions that includes spans."""
    return (text or "").strip().lower() in ("true", "span_only", "span_and_event")


def _invalid(variable: str, expected: str, text: str | None) -> InvalidInput:
    """The error for a value. `text`: the value, unless it may hold a credential."""
    found = "" if text is None else f", not {text[:40]!r}"
    return InvalidInput(f"the variable {variable} must be {expected}{found}", code="invalid_setting")
