"""Classify vendors' errors into a `ModelError`: its code, whether to retry, and when.

The codes and phrases come from the vendors' public error references and from the errors that compatible
servers (llama.cpp, vLLM, gateways) send.
"""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

import msgspec

from perdure.domain.errors import ModelError
from perdure.domain.messages import storable
from perdure.domain.redaction import forms_of
from perdure.domain.retry_after import MAX_WAIT, retry_after
from perdure.domain.words import Words
from perdure.llm.no_tools import accepts_no_tools, with_advice
from perdure.llm.transient import STATUSES, passing

_QUOTA_CODES = frozenset(
    {
        "insufficient_quota",
        "billing_error",
        "billing_hard_limit_reached",
        "billing_not_active",
        "insufficient_balance",
        "insufficient_credits",
        "billing_disabled",
        "budget_exceeded",
        "servicequotaexceededexception",
        "exceeded_current_quota_error",
    }
)
_FILTER_CODES = frozenset(
    {"content_filter", "content_policy_violation", "content_blocked", "moderation_blocked"}
)
_NO_MODEL_CODES = frozenset({"model_not_found", "not_found_error", "model_not_found_error"})
_AUTH_CODES = frozenset(
    {
        "authentication_error",
        "invalid_api_key",
        "api_key_invalid",
        "permission_error",
        "permission_denied",
        "accessdeniedexception",
        "unrecognizedclientexception",
        "expiredtokenexception",
        "invalidsignatureexception",
    }
)
# Google and xAI refuse a wrong key with 400.
_AUTH = Words(
    r"(incorrect|invalid|wrong) api.?key|api.?key (is )?(incorrect|invalid|not valid)", re.IGNORECASE
)
_MODERATED = Words(
    r"(requires|by|failed|did not pass) moderation|(was|were|been) flagged|content policy", re.IGNORECASE
)
"""OpenRouter refuses contents with 403, like a key."""
_LONGEST_AUTH = 300
"""Characters of such a refusal. A longer message may quote the request."""
_NO_MODEL = Words(r"provided model identifier is invalid", re.IGNORECASE)
_GARBLED_CODES = frozenset({"tool_use_failed"})
"""Groq: the model wrote a tool call that is none, so the next one may be better."""
_REQUEST_CODES = frozenset(
    {"invalid_request_error", "invalid_prompt", "badrequesterror", "validation_error", "validationexception"}
)
_QUOTA = Words(
    r"credit balance is too low|insufficient (balance|credits)|specified api usage limits|余额不足|欠费"
    r"|余额.{0,6}不足|额度.{0,6}(用尽|不足|用完)|请.{0,4}充值",
    re.IGNORECASE,
)
# A model that does not exist, as opposed to an address that does not.
_PATH = Words(r"/\S*")
_ABOUT_MODEL = Words(
    r"\b(models?|deployments?|engines?)\b|no endpoints|no (allowed )?providers|\bimages?\b|vision|tool use",
    re.IGNORECASE,
)
_NO_ADDRESS = Words(
    r"unexpected endpoint|unknown (request )?url|invalid url \(|(endpoint|route|path|page) not found"
    r"|no (such )?(route|endpoint|path)\b|cannot (post|get) /",
    re.IGNORECASE,
)
_ERROR_KIND = Words(r"error|exception|^fail", re.IGNORECASE)
_ERROR_WORDS = Words(
    r"error|fail|exception|unavailable|time(d )?.?out|limit|overload|exceed|denied|unauthori|forbidden"
    r"|invalid|abort|cancel|quota|busy|retry|try again|not found|refused|bad gateway",
    re.IGNORECASE,
)
# What may be broken JSON; `[ERROR] ...` is not.
_JSON = Words(r"\{|\[(?![A-Za-z])")
_BEARER = Words(r"(?i)\b(bearer\s+|sk-|gsk_|xai-)[\w*.~+/=-]{8,}")
_SECONDS = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")
_NO_VENDOR_TEXT = "the provider answered HTTP {status}"


def redacted(text: str, secrets: Iterable[str]) -> str:
    """Redact these secrets and everything that looks like a key, and replace what cannot be stored.

    Secrets are also found escaped and encoded, and at the end of a text that was cut in the middle of one.
    """
    for secret in secrets:
        for form in sorted({secret, *forms_of(secret)}, key=len, reverse=True):
            text = text.replace(form, "[redacted]")
            sizes = range(len(form) - 1, _SHORTEST_BEGINNING - 1, -1)
            cut = next((size for size in sizes if text.endswith(form[:size])), 0)
            text = f"{text[:-cut]}[redacted]" if cut else text
    return storable(_BEARER.sub("[redacted]", text))


_SHORTEST_BEGINNING = 6
"""Characters of a secret's beginning that are redacted at the end of a text."""


WRONG_ADDRESS = "provider_misconfigured"
"""The code of the error for an address that the provider does not serve."""


def refusal(
    status: int, headers: Mapping[str, str], body: bytes, secrets: Iterable[str], address: str = "the address"
) -> ModelError:
    """Build the error for an HTTP status that is not a success.

    Args:
        address: the URL that was called, without credentials and query.
        status: the HTTP status.
        headers: the response headers, for `Retry-After`; a case-sensitive mapping must use lower-case names.
        body: the response body, or at least its beginning.
        secrets: values that must not appear in the message.
    """
    codes, message = _explained(body)
    kind = headers.get("x-amzn-errortype", "").partition(":")[0].lower()  # AWS says it nowhere else
    codes |= {kind} if kind else frozenset()
    code, transient = _classified(status, codes, message)
    text = redacted(message or _NO_VENDOR_TEXT.format(status=status), secrets)
    if 300 <= status < 400:
        place = redacted(_place(headers), secrets)
        text = redacted(f"the provider redirects {address} to {place} (HTTP {status})", secrets)
        text += ". Redirects are not followed. Correct the provider's `base_url`."
    if status in {404, 405} and code == "model_not_found" and not _names_model(codes, message):
        code = WRONG_ADDRESS
        text = f"the provider has no such address: it answered {status} for {address} ({text[:200]})"
        text = redacted(text, secrets) + ". Check the provider's `base_url`."
    if code == "invalid_model_request" and accepts_no_tools(message):
        text = with_advice(text)
    wait = retry_after(headers, time.time())
    if wait is None and transient:
        wait = _wait_in(body)
    return ModelError(text, code=code, transient=transient, retry_after=wait, status=status)


def _wait_in(body: bytes) -> float | None:
    try:
        return _wait_of(msgspec.json.decode(body))
    except (ValueError, RecursionError):
        return None


def _wait_of(error: object) -> float | None:
    """Return the seconds that an error's details ask to wait, as Google's `RetryInfo` does."""
    error = error[0] if isinstance(error, list) and error else error
    inner = error.get("error") if isinstance(error, dict) else None
    error = inner if isinstance(inner, dict) else error
    details = error.get("details") if isinstance(error, dict) else None
    for detail in details[:_MAX_DETAILS] if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        match = _SECONDS.fullmatch(delay) if isinstance(delay, str) else None
        if match:
            return min(float(match[1]), MAX_WAIT)
    return None


def _place(headers: Mapping[str, str]) -> str:
    """Where a redirect leads, without what may be secret."""
    return headers.get("location", "another address").partition("?")[0].partition("#")[0][:200]


def no_such_address(error: ModelError) -> bool:
    """Whether an error object with a status of success says that the server has no such address."""
    return error.status is None and len(error.message) < 300 and bool(_NO_ADDRESS.search(error.message))


def _names_model(codes: frozenset[str], message: str) -> bool:
    return (
        bool(codes & (_NO_MODEL_CODES - {"not_found_error"}))
        or _ABOUT_MODEL.search(_PATH.sub("", message)) is not None
    )


def is_blank(error: object) -> bool:
    """Whether an error's field says that there is none: some servers send it with every event."""
    return not error or (isinstance(error, dict) and not any(error.values()))


def error_in(event: object, name: str) -> object | None:
    """Return the error that an unknown stream event reports, wherever its server puts it; None if none.

    Args:
        event: the decoded event.
        name: the event's name in the stream.
    """
    if not isinstance(event, dict):
        return event if name == "error" else None
    for key in ("error", "errors"):
        if not is_blank(event.get(key)):
            inner = event[key]
            return inner if inner and not isinstance(inner, str) and _described(inner)[1] else event
    kinds = (name, event.get("type"), event.get("object"), event.get("status"))
    if any(isinstance(kind, str) and _ERROR_KIND.search(kind) for kind in kinds):
        return event
    if event.get("type") is None and any(_is_text(event.get(key)) for key in _ERROR_TEXTS):
        return event
    base = event.get("base_resp")
    if isinstance(base, dict) and base.get("status_code"):
        return base
    return None


def _is_text(value: object) -> bool:
    """Whether a field that may explain an error does: it is a text, or a list of objects."""
    return bool(value) and isinstance(value, str | list)


def spoken(text: str, name: str, secrets: Iterable[str]) -> ModelError:
    """Build the error for words, or broken JSON, in place of a stream event."""
    if name == "error" or (not _JSON.match(text) and _ERROR_WORDS.search(text[:2_000])):
        return in_stream(text[:2_000], secrets)
    quoted = redacted(text[:200], secrets)
    return bad_response(f"the provider sent an event that violates its protocol: {quoted}", transient=False)


def in_stream(error: object, secrets: Iterable[str]) -> ModelError:
    """Build the error for an error object that arrived inside a stream."""
    from perdure.llm.parameters import with_names  # rarely needed

    codes, message = _with_details(*_described(error), error)
    message = with_names(message, error)
    status = _status_in(error)
    code, transient = _classified(status, codes, message)
    text = message or f"the provider reported an error: {json.dumps(error, default=str)[:300]}"
    return ModelError(
        redacted(text, secrets),
        code=code,
        transient=transient,
        retry_after=_wait_of(error) if transient else None,
        status=status,
    )


def disguised(content_type: str, body: bytes, secrets: Iterable[str], address: str) -> ModelError:
    """Build the error for a 2xx response that is no answer: an error object, a web page, other JSON.

    Args:
        address: the URL that was called, without credentials and query.
    """
    codes, message = _explained(body)
    text = message or body[:200].decode("utf-8", "replace")
    said = f"the provider answered {address} with {content_type} instead of a stream. {text}".strip()
    return bad_response(redacted(said, secrets), transient=passing(codes, message) is not None)


def bad_response(message: str, *, transient: bool) -> ModelError:
    """Build the error for an answer that violates the protocol."""
    return ModelError(message, code="provider_bad_response", transient=transient)


def _classified(status: int | None, codes: frozenset[str], message: str) -> tuple[str, bool]:
    """Return the code, and whether a retry may succeed.

    The vendor's error code and message take precedence over the status.
    """
    if codes & _QUOTA_CODES or status == 402 or _QUOTA.search(message):
        return "quota_exceeded", False
    from perdure.llm.overflow import overflow  # has many patterns, and is rarely needed

    if overflow(status, codes, message) is not None:
        return "context_length_exceeded", False
    if codes & _FILTER_CODES:
        return "content_filtered", False
    if codes & _GARBLED_CODES:
        return "provider_bad_response", True
    if (status in {None, 400, 422} or (status or 0) >= 500) and accepts_no_tools(message):
        return "invalid_model_request", False  # some servers answer 500
    if _NO_MODEL.search(message):
        return "model_not_found", False
    if status is not None and status not in {200, 400}:
        return _by_status(status, codes, message)
    for known, code in ((_AUTH_CODES, "provider_auth"), (_NO_MODEL_CODES, "model_not_found")):
        if codes & known:
            return code, False
    if len(message) < _LONGEST_AUTH and _AUTH.search(message):
        return "provider_auth", False
    later = passing(codes, message)
    if later is not None:
        return later, True
    if status == 400 or codes & _REQUEST_CODES:
        return "invalid_model_request", False
    return "provider_unavailable", True


def _by_status(status: int, codes: frozenset[str], message: str) -> tuple[str, bool]:
    if status == 429:
        return "provider_rate_limited", True
    if status in STATUSES or status >= 500:
        return "provider_unavailable", True
    later = passing(codes, message)
    if later is not None and status >= 400:
        return later, True
    if status == 403 and _MODERATED.search(message):
        return "content_filtered", False
    if status in {401, 403}:
        return "provider_auth", False
    if status in {404, 405}:
        return "model_not_found", False
    if status < 400:
        # Redirects are not followed: they would send the key to a host that is not configured.
        return "provider_bad_response", False
    return "invalid_model_request", False


def _explained(body: bytes) -> tuple[frozenset[str], str]:
    """Extract the machine-readable codes and the message from an error body of any shape.

    The message names the parameters that the error's other fields name.
    """
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = body.decode("utf-8", "replace").strip()
        return frozenset(), _without_markup(text) if text.startswith("<") else text
    from perdure.llm.parameters import with_names  # rarely needed

    codes, message = _explanation(value[0] if isinstance(value, list) and value else value)
    return codes, with_names(message, value)


def _explanation(value: object) -> tuple[frozenset[str], str]:
    if isinstance(value, dict):
        for key in ("error", "detail", "errors"):
            if value.get(key):
                codes, message = _described(value[key])
                return _with_details(codes, message or _described(value)[1], value)
    return _with_details(*_described(value), value)


_MAX_DEPTH = 5
_LONGEST_CODE = 60
_SAYS_LITTLE = 60
"""Characters of a message that may explain nothing, such as `Bad request` or `Provider returned error`."""
_MAX_DETAILS = 100
"""Values of an error that are looked at: an answer that is none may have millions."""
_CODE_KEYS = ("type", "code", "status", "reason", "error_code", "__type")
_DETAIL = Words(r"message|msg|detail|descr|err|fault|raw|cause|explanation|title", re.IGNORECASE)
_OF_REQUEST = frozenset({"input", "request", "body", "messages", "headers", "url", "loc"})
_ERROR_TEXTS = ("message", "msg", "detail", "error_message", "error_msg", "errorMessage", "status_msg")


def _described(error: object, depth: int = 0) -> tuple[frozenset[str], str]:
    """Return the codes and the message of an error object of any shape."""
    if isinstance(error, list) and error:
        error = error[0]
    if isinstance(error, str):
        return frozenset({error.lower()}), error
    if not isinstance(error, dict):
        return frozenset(), ""
    codes = frozenset(
        str(error[key]).lower().rpartition("#")[2]  # AWS puts a name space in front
        for key in _CODE_KEYS
        if isinstance(error.get(key), str | int)
    )
    for key in (*_ERROR_TEXTS, "error"):
        message = error.get(key)
        if isinstance(message, str) and message:
            known = error.get("error")
            short = isinstance(known, str) and len(known) <= _LONGEST_CODE
            return codes | {str(known).lower()} if short else codes, message
    for key in ("error", "errors", "detail"):
        if isinstance(error.get(key), dict | list) and error[key] and depth < _MAX_DEPTH:
            more, message = _described(error[key], depth + 1)
            return codes | more, message
    return codes, ""


def _with_details(codes: frozenset[str], message: str, error: object) -> tuple[frozenset[str], str]:
    """Add what an error says elsewhere, if its message says little.

    Gateways pass on what the server behind them said, in `details`, `metadata`, `innererror` and others.
    """
    if len(message) > _SAYS_LITTLE:
        return codes, message
    found = list(_details(error))
    more = {text.lower() for key, text in found if key.lower() in _CODE_KEYS}
    texts = (text for key, text in found if " " in text or not text.isascii())
    detail = max((text for text in texts if text not in message), key=len, default="")
    return codes | more, f"{message}: {detail}" if message and detail else message or detail


def _details(error: object) -> Iterator[tuple[str, str]]:
    """Give an error's codes and texts with their keys, except what it repeats of the request."""
    left: deque[tuple[str, object, int]] = deque([("", error, 0)])
    for _ in range(_MAX_DETAILS):
        if not left:
            return
        key, value, depth = left.popleft()
        if isinstance(value, str | int) and (key.lower() in _CODE_KEYS or _DETAIL.search(key)):
            yield key, str(value)
        elif isinstance(value, list) and depth < _MAX_DEPTH:
            left.extend((key, item, depth + 1) for item in value[:_MAX_DETAILS])
        elif isinstance(value, dict) and depth < _MAX_DEPTH:
            items = islice(value.items(), _MAX_DETAILS)
            left.extend((str(name), item, depth + 1) for name, item in items if name not in _OF_REQUEST)


def _status_in(error: object) -> int | None:
    """Return an HTTP status from the error object: some servers put one where others put an error code."""
    if isinstance(error, dict):
        inner = error.get("error")
        error = {**error, **inner} if isinstance(inner, dict) else error
        for key in ("code", "status", "http_code", "status_code", "error_code"):
            value = error.get(key)
            number = int(value) if isinstance(value, str) and value.isdecimal() and len(value) == 3 else value
            if isinstance(number, int) and not isinstance(number, bool) and 400 <= number <= 599:
                return number
    return None


MARKUP = 8_000
"""Characters of a web page that are searched for text: each `<script` may search the rest for its end."""
_MARKUP = Words(r"(?s)<(script|style)\b.*?</\1>|<[^<>]*>")


def _without_markup(page: str) -> str:
    return "a web page: " + " ".join(_MARKUP.sub(" ", page[:MARKUP]).split())
