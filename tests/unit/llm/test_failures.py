"""Errors of vendors: secrets are redacted, bodies of any shape are accepted."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.errors import ModelError
from perdure.llm.endpoint import Endpoint
from perdure.llm.failures import disguised, in_stream, redacted, refusal, spoken


def test_a_key_is_redacted_in_every_encoding_and_if_the_text_ends_in_it() -> None:
    key = "b1c2/d3+e4=f5g6h7i8"
    encoded = base64.b64encode(key.encode()).decode()
    basic = base64.b64encode(f"user:{key}".encode()).decode()
    for form in (key, quote(key, safe=""), encoded, json.dumps(f'"{key}')[3:-1], json.dumps(json.dumps(key))):
        assert form.strip('\\"') not in redacted(f"you sent {form} to us", [key]), form
    assert encoded[4:-6] not in redacted(basic, [key])
    for size in range(6, len(key)):
        assert redacted(f"you sent {key[:size]}", [key]) == "you sent [redacted]"
    for failure in (
        in_stream({"detail": {"sent": "x" * 275 + key}}, [key]),
        spoken("{" + "x" * 190 + key, "message", [key]),
        disguised("text/html", b"x" * 190 + key.encode(), [key], f"https://host/{key}"),
        refusal(302, {"location": "/" + "x" * 190 + key}, b"", [key]),
        refusal(400, {}, b'{"error": {"message": "' + b"x" * 100 + encoded.encode() + b'"}}', [key]),
    ):
        assert key[:6] not in failure.message, failure.message
        assert encoded[:6] not in failure.message, failure.message


def test_anything_that_looks_like_a_key_is_redacted() -> None:
    text = redacted("key sk-proj-abcdefgh12345 or Bearer abc.def.ghi123 or mine: hunter22", ["hunter22"])
    assert text == "key [redacted] or [redacted] or mine: [redacted]"


def test_credentials_in_the_url_count_as_secrets() -> None:
    endpoint = Endpoint(
        "https://user:pass-word@example.com/v1?code=query-secret", {"x-api-key": "key-secret"}
    )
    error = endpoint.clean(ModelError("pass-word query-secret key-secret", code="provider_auth"))
    assert error.message == "[redacted] [redacted] [redacted]"
    assert str(endpoint.url("/models", {"limit": "1"})) == (
        "https://user:pass-word@example.com/v1/models?code=query-secret&limit=1"
    )


@given(status=st.integers(300, 599), body=st.binary(max_size=200))
def test_any_error_answer_becomes_a_model_error(status: int, body: bytes) -> None:
    error = refusal(status, {}, body, ["secret-key"])
    assert error.message
    assert error.status == status
    assert len(error.message) <= 500


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "type", "code", "status", "detail"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@given(JSON)
def test_any_error_object_in_a_stream_becomes_a_model_error(error: object) -> None:
    assert in_stream(error, []).message


PASSING = [
    "Overloaded, please try again later",
    "The engine is currently overloaded",
    "Model is loading, retry in 20 s",
    "The model is currently being loaded",
    "Loading model",
    "Model meta/llama is not ready for inference yet",
    "Please try again.",
    "The service is temporarily unavailable",
    "We are experiencing high demand",
    "No capacity available for this model",
    "The server is busy",
    "upstream connect error or disconnect/reset before headers",
    "Too many requests",
    "Rate limit reached for requests",
    "ThrottlingException",
    "connection reset by peer",
    "no healthy upstream",
    "Internal server error",
    "context deadline exceeded",
    "Überlastet, bitte später erneut versuchen",
    "Le serveur est surchargé, réessayez plus tard",
    "El servidor está sobrecargado",
    "サーバーが混雑しています",
    "서버가 혼잡합니다",
    "Сервер перегружен",
]
WRONG = [
    "Invalid image. Please try again with another one",
    "`max_tokens` exceeds the model's capacity",
    "Unknown field `x`",
    "The temperature must be lower",
    "Connection refused while fetching the image",
    "Timed out downloading https://example.com/a.png, the URL of an image",
    "Overloaded functions are unsupported: please retry with one function",
]


@pytest.mark.parametrize("words", PASSING)
@pytest.mark.parametrize("status", [400, 404, 413, 422, 503])
def test_words_that_mean_later_are_retried_under_any_status(words: str, status: int) -> None:
    for body in ({"error": {"message": words}}, {"message": words}, {"detail": words}):
        error = refusal(status, {}, json.dumps(body).encode(), [])
        assert error.transient, (error.code, words)
    assert in_stream({"message": words, "type": "invalid_request_error"}, []).transient


WHY = "prompt is too long: 9000 tokens > 8192"
ELSEWHERE: list[object] = [
    {"error": {"message": "Bad request", "details": WHY}},
    {"error": {"message": "Bad request", "details": [{"message": WHY}]}},
    {"error": {"message": "Error from provider", "metadata": {"error": {"message": WHY}}}},
    {"error": {"message": "Bad request"}, "cause": WHY},
    {"error": {"message": [WHY]}},
    {"title": "Bad Request", "description": WHY},
    {"fault": {"faultstring": WHY}},
    {"response": {"error": {"message": WHY}}},
    {"Message": WHY},
    {"err": WHY},
]


@pytest.mark.parametrize("body", ELSEWHERE)
def test_what_an_error_says_is_found_wherever_it_says_it(body: object) -> None:
    for error in (refusal(400, {}, json.dumps(body).encode(), []), in_stream(body, [])):
        assert error.code == "context_length_exceeded"
        assert WHY in error.message


def test_a_code_inside_an_error_counts_and_the_request_that_it_repeats_does_not() -> None:
    inner = {"error": {"message": "oops", "code": "bad", "innererror": {"code": "context_length_exceeded"}}}
    assert refusal(400, {}, json.dumps(inner).encode(), []).code == "context_length_exceeded"
    repeated = {"detail": [{"msg": "Field required", "input": {"message": WHY}}]}
    error = refusal(422, {}, json.dumps(repeated).encode(), [])
    assert (error.code, error.message) == ("invalid_model_request", "Field required")


def test_only_the_beginning_of_a_huge_error_is_examined() -> None:
    seen = 0

    class Noticed(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            nonlocal seen
            for each in super().__iter__():
                seen += 1
                yield each

    huge = Noticed([Noticed([Noticed([{"x": 1}] * 1000)] * 1000)] * 100)
    assert in_stream({"error": {"message": "no", "details": huge}}, []).message == "no"
    assert seen < 10_000


@pytest.mark.parametrize("words", WRONG)
def test_requests_that_are_wrong_are_not_retried(words: str) -> None:
    assert not refusal(400, {}, json.dumps({"error": {"message": words}}).encode(), []).transient


@pytest.mark.parametrize("status", [408, 409, 424, 425, 429, 499, 500, 502, 503, 504, 520, 524, 529, 599])
def test_statuses_that_pass_are_retried_whatever_the_body(status: int) -> None:
    for body in (b"", b"{}", b"<html>no</html>", b'{"message": "model is loading"}'):
        assert refusal(status, {}, body, []).transient


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ('{"detail":"Not Found"}', "provider_misconfigured"),
        ("404 page not found", "provider_misconfigured"),
        ("", "provider_misconfigured"),
        ("<html><title>404 Not Found</title></html>", "provider_misconfigured"),
        ('{"error":{"message":"Invalid URL (POST /models/v2)"}}', "provider_misconfigured"),
        ('{"error":{"type":"not_found_error","message":"Not found"}}', "provider_misconfigured"),
        ('{"error":{"type":"not_found_error","message":"model: claude-x"}}', "model_not_found"),
        ('{"error":{"code":"model_not_found","message":"nothing here"}}', "model_not_found"),
        ('{"error":{"code":"DeploymentNotFound","message":"This deployment is unknown"}}', "model_not_found"),
        ('{"error":"model \'x\' not found, try pulling it first"}', "model_not_found"),
    ],
)
def test_a_404_tells_a_wrong_address_from_an_unknown_model(body: str, code: str) -> None:
    error = refusal(404, {}, body.encode(), ["secret-1"], "https://h/secret-1/chat")
    assert (error.code, error.transient) == (code, False)
    assert ("https://h/[redacted]/chat" in error.message) is (code == "provider_misconfigured")


@pytest.mark.parametrize(
    "body",
    [
        '{"error":{"message":"API key not valid. Please pass a valid API key."}}',
        '{"error":{"message":"Bad Request","details":[{"reason":"API_KEY_INVALID"}]}}',
        '{"code":"Client specified an invalid argument","error":"Incorrect API key provided: x"}',
        '{"error":{"message":"Invalid API key","type":"invalid_request_error"}}',
    ],
)
def test_a_key_that_is_refused_with_400_is_recognized(body: str) -> None:
    assert refusal(400, {}, body.encode(), []).code == "provider_auth"


@pytest.mark.parametrize(
    "words", ["invalid type for `api_key_name`", f"messages[3] is too odd: {'x' * 300} invalid api key"]
)
def test_a_request_that_mentions_keys_is_not_refused_for_its_own(words: str) -> None:
    body = json.dumps({"error": {"message": words}}).encode()
    assert refusal(400, {}, body, []).code == "invalid_model_request"
