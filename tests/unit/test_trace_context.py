"""Trace context, sampling and the variables of OpenTelemetry."""

from __future__ import annotations

import pytest

from perdure.domain.errors import InvalidInput
from perdure.domain.ids import TurnId, new_id
from perdure.domain.trace_context import Sampler, TraceContext, parse_context, trace_of_turn
from perdure.domain.trace_settings import read_trace_settings

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
AT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318/"}


@pytest.mark.parametrize(
    ("parent", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-02", False),
        (f"cc-{TRACE}-{SPAN}-03-what-comes", True),
    ],
)
def test_a_valid_parent_is_read(parent: str, sampled: bool) -> None:
    assert parse_context(parent) == TraceContext(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "parent",
    [
        "", TRACE, f"00-{TRACE}-{SPAN}", f"00-{TRACE}-{SPAN}-01-more", f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01", f"00-{'0' * 32}-{SPAN}-01", f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
    ],
)  # fmt: skip
def test_a_parent_that_is_not_valid_is_nobodys(parent: str) -> None:
    assert parse_context(parent, "a=b") is None


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        ("a=b", "a=b"),
        (" a=b ,, c@d=e ", "a=b,c@d=e"),
        ("a", None),
        ("A=b", None),
        ("a=b\r\nx: y", None),
        ("a=" + "b" * 600, None),
        (",".join(f"k{number}=v" for number in range(33)), None),
        ("a=\u00e9", None),
    ],
)
def test_a_state_that_is_not_valid_is_dropped(state: str, kept: str | None) -> None:
    found = parse_context(f"00-{TRACE}-{SPAN}-01", state)
    assert found is not None
    assert found.tracestate == kept
    assert found.headers() == {
        "traceparent": f"00-{TRACE}-{SPAN}-01",
        **({} if kept is None else {"tracestate": kept}),
    }


def test_a_state_that_was_redacted_is_not_sent() -> None:
    context = TraceContext(TRACE, SPAN, sampled=False, tracestate="a=[secret:\n")
    assert context.headers() == {"traceparent": f"00-{TRACE}-{SPAN}-00"}


def test_about_the_share_of_traces_is_sampled_and_all_of_a_trace() -> None:
    turns = [TurnId(new_id("turn")) for _ in range(2000)]
    half = Sampler(0.5)
    taken = sum(half.samples(turn, None) for turn in turns)
    assert 850 < taken < 1150
    parent = TraceContext(TRACE, SPAN, sampled=False)
    assert not Sampler(1.0).samples(turns[0], parent)
    assert Sampler(1.0, follows=False).samples(turns[0], parent)
    assert trace_of_turn(turns[0], parent) == TRACE
    assert not any(Sampler(0.0).samples(turn, None) for turn in turns)
    assert len(trace_of_turn(TurnId("odd"), None)) == 32


def test_traces_are_off_without_an_endpoint_or_if_they_are_disabled() -> None:
    assert read_trace_settings({"OTEL_TRACES_SAMPLER": "nonsense"}) is None
    for name, value in (
        ("OTEL_SDK_DISABLED", "TRUE"),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_TRACES_SAMPLER", "always_off"),
    ):
        assert read_trace_settings({**AT, name: value}) is None


def test_the_variables_for_traces_come_before_those_for_all_signals() -> None:
    found = read_trace_settings(
        {
            **AT,
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://t.example.com/own?x=1",
            "OTEL_EXPORTER_OTLP_HEADERS": "a=1",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "Authorization=Bearer%20x=y , b=2",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "500",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.25",
            "OTEL_RESOURCE_ATTRIBUTES": "service.name=ignored,a.b=c",
            "OTEL_SERVICE_NAME": "desk",
        }
    )
    assert found is not None
    assert found.url == "https://t.example.com/own?x=1"
    assert found.headers == {"Authorization": "Bearer x=y", "b": "2"}
    assert (found.timeout, found.compress, found.content) == (0.5, False, False)
    assert found.sampler == Sampler(0.25)
    assert found.resource == {"service.name": "desk", "a.b": "c"}
    plain = read_trace_settings(AT)
    assert plain is not None
    assert (plain.url, plain.resource) == ("http://127.0.0.1:4318/v1/traces", {"service.name": "perdure"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[::1"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "t0ken"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=t0ken%0d%0ab"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
    ],
)
def test_a_value_that_is_not_valid_is_refused_without_showing_credentials(name: str, value: str) -> None:
    with pytest.raises(InvalidInput, match=name) as refused:
        read_trace_settings({**AT, name: value})
    assert "t0ken" not in refused.value.message


@pytest.mark.parametrize("share", ["2", "-1", "half", "nan"])
def test_a_share_is_a_number_from_0_to_1(share: str) -> None:
    with pytest.raises(InvalidInput, match="SAMPLER_ARG"):
        read_trace_settings({**AT, "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": share})
