"""Every class of error response, in the form of each vendor."""

from __future__ import annotations

import email.utils
import socket
import time

import pytest

from perdure.domain.errors import ModelError
from perdure.llm.driver import ProviderConfig
from perdure.llm.http import Http
from perdure.llm.registry import make_driver
from tests.conformance.drivers.conftest import API_KEY, Connect
from tests.conformance.drivers.protocols import Wire, refused
from tests.conformance.drivers.vendor import JSON, Reply, Vendor
from tests.unit.llm.talk import Heard, ask, user


async def failed(connect: Connect, provider_type: str) -> ModelError:
    with pytest.raises(ModelError) as caught:
        await connect(provider_type).generate(ask(user("Hi")), Heard())
    return caught.value


@pytest.mark.parametrize(
    ("status", "kind", "code", "transient"),
    [
        (400, "other", "invalid_model_request", False),
        (400, "context", "context_length_exceeded", False),
        (401, "other", "provider_auth", False),
        (402, "other", "quota_exceeded", False),
        (403, "other", "provider_auth", False),
        (404, "other", "provider_misconfigured", False),
        (405, "other", "provider_misconfigured", False),
        (408, "other", "provider_unavailable", True),
        (409, "other", "provider_unavailable", True),
        (413, "other", "invalid_model_request", False),
        (413, "context", "context_length_exceeded", False),
        (422, "other", "invalid_model_request", False),
        (424, "other", "provider_unavailable", True),
        (425, "other", "provider_unavailable", True),
        (499, "other", "provider_unavailable", True),
        (429, "rate_limit", "provider_rate_limited", True),
        (429, "quota", "quota_exceeded", False),
        (500, "overloaded", "provider_unavailable", True),
        (502, "other", "provider_unavailable", True),
        (503, "overloaded", "provider_unavailable", True),
        (529, "overloaded", "provider_unavailable", True),
    ],
)
async def test_statuses_become_codes(
    vendor: Vendor, connect: Connect, wire: Wire, status: int, kind: str, code: str, transient: bool
) -> None:
    vendor.will(refused(wire, status, kind, "this is why"))
    error = await failed(connect, wire.provider_type)
    assert (error.code, error.transient, error.status) == (code, transient, status)
    assert "this is why" in error.message
    assert len(vendor.asked) == 1


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, '{"error":{"message":"Your credit balance is too low to access the API."}}', "quota_exceeded"),
        (
            400,
            '{"error":{"code":400,"message":"too big","type":"exceed_context_size_error"}}',
            "context_length_exceeded",
        ),
        (
            400,
            '{"object":"error","message":"This model\'s maximum context length is 4096 tokens."}',
            "context_length_exceeded",
        ),
        (
            400,
            '{"error":{"message":"Your input exceeds the context window of this model."}}',
            "context_length_exceeded",
        ),
        (
            400,
            '{"error":{"message":"input length and `max_tokens` exceed context limit: 3 + 4 > 5"}}',
            "context_length_exceeded",
        ),
        (413, '{"error":{"type":"request_too_large","message":"too many bytes"}}', "context_length_exceeded"),
        (413, "<html><title>413 Request Entity Too Large</title></html>", "context_length_exceeded"),
        (400, '{"error":{"code":"model_not_found","message":"no such model"}}', "model_not_found"),
        (400, '{"error":{"code":"content_filter","message":"no"}}', "content_filtered"),
        (
            400,
            '[{"error":{"code":400,"status":"INVALID_ARGUMENT","message":"from a list"}}]',
            "invalid_model_request",
        ),
        (422, '{"detail":[{"type":"missing","msg":"Field required"}]}', "invalid_model_request"),
        (400, '{"error":"just words"}', "invalid_model_request"),
        (400, "plain words", "invalid_model_request"),
        (400, "", "invalid_model_request"),
        (500, "\xff\x00", "provider_unavailable"),
    ],
)
async def test_errors_of_many_servers_are_recognized(
    vendor: Vendor, connect: Connect, status: int, body: str, code: str
) -> None:
    vendor.will(Reply([body.encode("latin-1")], status, JSON))
    error = await failed(connect, "openai_completions")
    assert error.code == code
    assert error.message
    assert "\x00" not in error.message


async def test_the_wait_that_the_vendor_requests_is_passed_on(
    vendor: Vendor, connect: Connect, wire: Wire
) -> None:
    vendor.will(refused(wire, 429, "rate_limit", retry_after="7"))
    assert (await failed(connect, wire.provider_type)).retry_after == 7.0
    vendor.will(refused(wire, 529, "overloaded", retry_after_ms="1500", retry_after="9"))
    assert (await failed(connect, wire.provider_type)).retry_after == 1.5
    date = email.utils.formatdate(time.time() + 60, usegmt=True)
    vendor.will(refused(wire, 503, "overloaded", retry_after=date))
    wait = (await failed(connect, wire.provider_type)).retry_after
    assert wait is not None
    assert 50 < wait <= 60
    vendor.will(refused(wire, 429, "rate_limit"))
    assert (await failed(connect, wire.provider_type)).retry_after is None


async def test_a_key_that_the_vendor_repeats_is_redacted(
    vendor: Vendor, connect: Connect, wire: Wire
) -> None:
    said = f"Incorrect API key provided: {API_KEY}. Header was Bearer {API_KEY}" + " and more" * 200
    vendor.will(refused(wire, 401, "other", said))
    error = await failed(connect, wire.provider_type)
    assert API_KEY not in error.message
    assert API_KEY[:12] not in error.message
    assert "[redacted]" in error.message
    assert len(error.message) == 500


async def test_a_key_where_the_message_is_truncated_is_redacted_completely(
    vendor: Vendor, connect: Connect
) -> None:
    vendor.will(Reply([b'{"error":{"message":"' + b"x" * 490 + API_KEY.encode() + b'"}}'], 401, JSON))
    error = await failed(connect, "openai")
    assert API_KEY[:6] not in error.message


async def test_a_refused_connection_is_a_transient_error(http: Http, wire: Wire) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        driver = make_driver(ProviderConfig(wire.provider_type, url, API_KEY), http)
        for call in (driver.generate(ask(user("Hi")), Heard()), driver.list_models()):
            with pytest.raises(ModelError) as caught:
                await call
            assert (caught.value.code, caught.value.transient) == ("provider_unavailable", True)


async def test_a_name_that_does_not_resolve_is_a_transient_error(http: Http, wire: Wire) -> None:
    driver = make_driver(ProviderConfig(wire.provider_type, "http://no-such-host.invalid", API_KEY), http)
    with pytest.raises(ModelError) as caught:
        await driver.generate(ask(user("Hi")), Heard())
    assert caught.value.transient
    assert caught.value.code in {"provider_unavailable", "provider_timeout"}


async def test_a_server_without_tls_behind_https_is_not_a_transient_error(
    vendor: Vendor, http: Http, wire: Wire
) -> None:
    url = vendor.url.replace("http:", "https:")
    driver = make_driver(ProviderConfig(wire.provider_type, url, API_KEY), http)
    with pytest.raises(ModelError) as caught:
        await driver.generate(ask(user("Hi")), Heard())
    assert caught.value.code == "provider_unavailable"


async def test_listing_models_fails_like_any_call(vendor: Vendor, connect: Connect, wire: Wire) -> None:
    vendor.will(refused(wire, 401, "other", f"bad key {API_KEY}"))
    with pytest.raises(ModelError) as caught:
        await connect(wire.provider_type).list_models()
    assert caught.value.code == "provider_auth"
    assert API_KEY not in caught.value.message
    for body in (b"not json", b'{"data": 7}'):
        vendor.will(Reply([body], headers=JSON))
        with pytest.raises(ModelError) as caught:
            await connect(wire.provider_type).list_models()
        assert caught.value.code == "provider_bad_response"
    vendor.will(Reply([b"{"], headers=JSON, then="cut"))
    with pytest.raises(ModelError) as caught:
        await connect(wire.provider_type).list_models()
    assert caught.value.transient
