"""Classify vendors' errors into a `ModelError`: its code, whether to retry, and when.

The codes and phrases come from the vendors' public error references and from the errors that compatible
servers (llama.cpp, vLLM, gateways) send.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterable, Mapping

import msgspec

from perdure.domain.errors import ModelError
from perdure.domain.retry_after import retry_after

_QUOTA_CODES = frozenset(
    {
        "insufficient_quota",
        "billing_error",
        "billing_hard_limit_reached",
        "billing_not_active",
        "insufficient_balance",
        "insufficient_credits",
    }
)
_CONTEXT_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error", "request_too_large"})
_FILTER_CODES = frozenset(
    {"content_filter", "content_policy_violation", "content_blocked", "moderation_blocked"}
)
_NO_MODEL_CODES = frozenset({"model_not_found", "not_found_error", "model_not_found_error"})
_AUTH_CODES = frozenset({"authentication_error", "invalid_api_key", "permission_error", "permission_denied"})
_RATE_CODES = frozenset(
    {"rate_limit_error", "rate_limit_exceeded", "too_many_requests", "resource_exhausted"}
)
_REQUEST_CODES = frozenset({"invalid_request_error", "invalid_prompt", "badrequesterror", "validation_error"})

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
    """Redact these secrets and everything that looks like a key, and replace NUL characters."""
    for secret in secrets:
        text = text.replace(secret, "[redacted]")
    return _BEARER.sub("[redacted]", text).replace("\x00", "\ufffd")


def refusal(status: int, headers: Mapping[str, str], body: bytes, secrets: Iterable[str]) -> ModelError:
    """Build the error for an HTTP status that is not a success.

    Args:
        status: the HTTP status.
        headers: the response headers, for `Retry-After`; a case-sensitive mapping must use lower-case names.
        body: the response body, or at least its beginning.
        secrets: values that must not appear in the message.
    """
    codes, message = _explained(body)
    code, transient = _classified(status, codes, message)
    text = redacted(message or _NO_VENDOR_TEXT.format(status=status), secrets)
    wait = retry_after(headers, time.time())
    return ModelError(text, code=code, transient=transient, retry_after=wait, status=status)


def in_stream(error: object, secrets: Iterable[str]) -> ModelError:
    """Build the error for an error object that arrived inside a stream."""
    codes, message = _described(error)
    status = _status_in(error)
    code, transient = _classified(status, codes, message)
    return ModelError(
        redacted(message or "the provider reported an error", secrets),
        code=code,
        transient=transient,
        status=status,
    )


def disguised(content_type: str, body: bytes, secrets: Iterable[str]) -> ModelError:
    """Build the error for a 2xx response that is no stream: an error object, a whole answer, a web page."""
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = msgspec.json.decode(body)
        if isinstance(value, dict) and value.get("error"):
            return in_stream(value["error"], secrets)
    text = redacted(_explained(body)[1], secrets)
    return bad_response(f"the provider answered with {content_type} instead of a stream. {text}".strip())


def bad_response(message: str, *, transient: bool = True) -> ModelError:
    """Build the error for an answer that violates the protocol."""
    return ModelError(message, code="provider_bad_response", transient=transient)


def _classified(status: int | None, codes: frozenset[str], message: str) -> tuple[str, bool]:
    """Return the code, and whether a retry may succeed.

    The vendor's error code and message take precedence over the status.
    """
    if codes & _QUOTA_CODES or status == 402 or _QUOTA.search(message):
        return "quota_exceeded", False
    if codes & _CONTEXT_CODES or (status in {None, 400, 413, 422, 500} and _CONTEXT.search(message)):
        return "context_length_exceeded", False
    if codes & _FILTER_CODES:
        return "content_filtered", False
    if status is not None and status not in {200, 400}:
        return _by_status(status)
    for known, code in ((_AUTH_CODES, "provider_auth"), (_NO_MODEL_CODES, "model_not_found")):
        if codes & known:
            return code, False
    if codes & _RATE_CODES:
        return "provider_rate_limited", True
    if status == 400 or codes & _REQUEST_CODES:
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
        # Redirects are not followed: they would send the key to a host that is not configured.
        return "provider_bad_response", False
    return "invalid_model_request", False


def _explained(body: bytes) -> tuple[frozenset[str], str]:
    """Extract the machine-readable codes and the message from an error body of any shape."""
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
                codes, message = _described(value[key])
                return codes, message or _described(value)[1]
    return _described(value)


def _described(error: object) -> tuple[frozenset[str], str]:
    if isinstance(error, list) and error:
        error = error[0]
    if isinstance(error, str):
        return frozenset({error.lower()}), error
    if not isinstance(error, dict):
        return frozenset(), ""
    codes = {
        str(error[key]).lower()
        for key in ("type", "code", "status", "reason")
        if isinstance(error.get(key), str)
    }
    for key in ("message", "msg", "detail", "error"):
        message = error.get(key)
        if isinstance(message, str) and message:
            return frozenset(codes), message
    inner = error.get("error")
    if isinstance(inner, dict):
        more, message = _described(inner)
        return frozenset(codes) | more, message
    return frozenset(codes), ""


def _status_in(error: object) -> int | None:
    """Return an HTTP status from the error object: some servers put one where others put an error code."""
    if isinstance(error, dict):
        for key in ("code", "status", "http_code"):
            value = error.get(key)
            number = int(value) if isinstance(value, str) and value.isdecimal() and len(value) == 3 else value
            if isinstance(number, int) and not isinstance(number, bool) and 400 <= number <= 599:
                return number
    return None


MARKUP = 8_000
"""Characters of a web page that are searched for text: each `<script` may search the rest for its end."""
_MARKUP = re.compile(r"(?s)<(script|style)\b.*?</\1>|<[^<>]*>")


def _without_markup(page: str) -> str:
    return "a web page: " + " ".join(_MARKUP.sub(" ", page[:MARKUP]).split())
