"""Errors of vendors: secrets are redacted, bodies of any shape are accepted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.errors import ModelError
from perdure.llm.failures import in_stream, redacted, refusal
from perdure.llm.http import Endpoint


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
