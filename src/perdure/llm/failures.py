"""What vendors say when a call fails, as one `ModelError` each: code, whether to try again, and when.

The wordings come from the vendors' public error references and, for the servers that speak their protocols
(llama.cpp, vLLM, gateways), from what those send.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterable, Mapping

import msgspec

from perdure.domain.errors import ModelError
from perdure.domain.retry_after import retry_after

_QUOTA_WORDS = frozenset(
    {
        "insufficient_quota",
        "billing_error",
        "billing_hard_limit_reached",
        "billing_not_active",
        "insufficient_balance",
        "insufficient_credits",
    }
)
_CONTEXT_WORDS = frozenset({"context_length_exceeded", "exceed_context_size_error", "request_too_large"})
_FILTER_WORDS = frozenset(
    {"content_filter", "content_policy_violation", "content_blocked", "moderation_blocked"}
)
_NO_MODEL_WORDS = frozenset({"model_not_found", "not_found_error", "model_not_found_error"})
_AUTH_WORDS = frozenset({"authentication_error", "invalid_api_key", "permission_error", "permission_denied"})
_RATE_WORDS = frozenset(
    {"rate_limit_error", "rate_limit_exceeded", "too_many_requests", "resource_exhausted"}
)
_REQUEST_WORDS = frozenset({"invalid_request_error", "invalid_prompt", "badrequesterror", "validation_error"})

_QUOTA = re.compile(
    r"credit balance is too low|insufficient (balance|credits)|specified api usage limits", re.IGNORECASE
)
_CONTEXT = re.compile(
    r"prompt is too long|exceeds? (the )?context limit|exceed context limit"
    r"|(maximum|max|available) (context|prompt) (length|size|window)|exceeds the (available )?context"
    r"|(input|prompt) token count .{0,40}exceeds|too large for model with|input is too long"
    r"|context (length|window) exceeded|reduce the length of the messages|request entity too large",
    re.IGNORECASE,
)
_BEARER = re.compile(r"(?i)\b(bearer\s+|sk-|gsk_|xai-)[\w*.~+/=-]{8,}")
_NO_VENDOR_TEXT = "the provider answered HTTP {status}"


def redacted(text: str, secrets: Iterable[str]) -> str:
    """The text without these secrets and without anything that looks like a key, NUL characters replaced."""
    for secret in secrets:
        text = text.replace(secret, "[redacted]")
    return _BEARER.sub("[redacted]", text).replace("\x00", "\ufffd")


def refusal(status: int, headers: Mapping[str, str], body: bytes, secrets: Iterable[str]) -> ModelError:
    """The error for an answer that is not a success.

    Args:
        status: the HTTP status.
        headers: for `Retry-After`; names in any case when the mapping does not care, else in lower case.
        body: what came with it, at least its beginning.
        secrets: what must not appear in the message.
    """
    words, message = _explained(body)
    code, transient = _classified(status, words, message)
    text = redacted(message or _NO_VENDOR_TEXT.format(status=status), secrets)
    wait = retry_after(headers, time.time())
    return ModelError(text, code=code, transient=transient, retry_after=wait, status=status)


def in_stream(error: object, secrets: Iterable[str]) -> ModelError:
    """The error for an error object that came inside a stream."""
    words, message = _described(error)
    status = _status_in(error)
    code, transient = _classified(status, words, message)
    return ModelError(
        redacted(message or "the provider reported an error", secrets),
        code=code,
        transient=transient,
        status=status,
    )


def disguised(content_type: str, body: bytes, secrets: Iterable[str]) -> ModelError:
    """The error for a success that is not the stream asked for.

    An error object, a whole answer, a web page.
    """
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = msgspec.json.decode(body)
        if isinstance(value, dict) and value.get("error"):
            return in_stream(value["error"], secrets)
    text = redacted(_explained(body)[1], secrets)
    return bad_response(f"the provider answered with {content_type} instead of a stream. {text}".strip())


def bad_response(message: str, *, transient: bool = True) -> ModelError:
    """The error for an answer that is not what the protocol promises."""
    return ModelError(message, code="provider_bad_response", transient=transient)


def _classified(status: int | None, words: frozenset[str], message: str) -> tuple[str, bool]:
    """The code, and whether the same call may succeed later.

    What the vendor says in words outweighs the status.
    """
    if words & _QUOTA_WORDS or status == 402 or _QUOTA.search(message):
        return "quota_exceeded", False
    if words & _CONTEXT_WORDS or (status in {None, 400, 413, 422, 500} and _CONTEXT.search(message)):
        return "context_length_exceeded", False
    if words & _FILTER_WORDS:
        return "content_filtered", False
    if status is not None and status not in {200, 400}:
        return _by_status(status)
    for known, code in ((_AUTH_WORDS, "provider_auth"), (_NO_MODEL_WORDS, "model_not_found")):
        if words & known:
            return code, False
    if words & _RATE_WORDS:
        return "provider_rate_limited", True
    if status == 400 or words & _REQUEST_WORDS:
        return "invalid_model_request", False
    return "provider_unavailable", True


def _by_status(status: int) -> tuple[str, bool]:
    if status in {401, 403}:
        return "provider_auth", False
    if status == 404:
        return "model_not_found", False
    if status == 429:
        return "provider_rate_limited", True
    if status in {408, 409} or status >= 500:
        return "provider_unavailable", True
    if status < 400:
        # A redirect is not followed: it would carry the key to a place that nobody configured.
        return "provider_bad_response", False
    return "invalid_model_request", False


def _explained(body: bytes) -> tuple[frozenset[str], str]:
    """The machine-readable words and the readable message of an error body, whatever its shape."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = body.decode("utf-8", "replace").strip()
        return frozenset(), _without_markup(text) if text.startswith("<") else text
    if isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, dict):
        for key in ("error", "detail", "errors"):
            if value.get(key):
                words, message = _described(value[key])
                return words, message or _described(value)[1]
    return _described(value)


def _described(error: object) -> tuple[frozenset[str], str]:
    if isinstance(error, list) and error:
        error = error[0]
    if isinstance(error, str):
        return frozenset({error.lower()}), error
    if not isinstance(error, dict):
        return frozenset(), ""
    words = {
        str(error[key]).lower()
        for key in ("type", "code", "status", "reason")
        if isinstance(error.get(key), str)
    }
    for key in ("message", "msg", "detail", "error"):
        message = error.get(key)
        if isinstance(message, str) and message:
            return frozenset(words), message
    inner = error.get("error")
    if isinstance(inner, dict):
        more, message = _described(inner)
        return frozenset(words) | more, message
    return frozenset(words), ""


def _status_in(error: object) -> int | None:
    """Some servers put an HTTP status where others put a word."""
    if isinstance(error, dict):
        for key in ("code", "status", "http_code"):
            value = error.get(key)
            number = int(value) if isinstance(value, str) and value.isdecimal() and len(value) == 3 else value
            if isinstance(number, int) and not isinstance(number, bool) and 400 <= number <= 599:
                return number
    return None


def _without_markup(page: str) -> str:
    text = re.sub(r"(?s)<(script|style)\b.*?</\1>|<[^>]*>", " ", page[:20_000])
    return "a web page: " + " ".join(text.split())
