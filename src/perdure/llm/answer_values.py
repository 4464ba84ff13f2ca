"""Read values of answers, in whatever type a server sends them."""

from __future__ import annotations

import re

import msgspec

from perdure.domain.messages import Usage
from perdure.llm.wire import dumps

MAX_COUNT = 1 << 40
"""Token counts above this are mistakes."""

_MAX_DEPTH = 5
_TEXT_KEYS = ("text", "content", "summary", "thinking", "value")
_HALF = re.compile("[\ud800-\udfff]")

_REASONS = {
    "stop": "stop end_turn stop_sequence eos eos_token eos_found endoftext end complete completed finish"
    " finished done normal",
    "tool_calls": "tool_calls tool_call tool_use tool function_call function_calls",
    "length": "length max_tokens max_output_tokens max_completion_tokens max_new_tokens max_length"
    " token_limit error_limit truncated incomplete too_long limit repetition",
    "context_length": "model_length model_context_window_exceeded context_length context_window",
    "content_filter": "content_filter content_filtered content_policy content_policy_violation refusal"
    " refused safety recitation prohibited prohibited_content blocklist blocked spii moderation sensitive"
    " guardrail guardrail_intervened image_safety image_recitation image_prohibited_content language",
    "error": "error failed failure exception network_error insufficient_system_resource abort aborted"
    " cancelled canceled timeout internal_error server_error unknown_error malformed_function_call"
    " malformed_tool_call unexpected_tool_call",
    "": "null none undefined unspecified in_progress",
}
_FINISH = {word: reason for reason, words in _REASONS.items() for word in words.split()}
# Bridges write the names of another vendor's constants: `FinishReason.SAFETY`, `FINISH_REASON_SAFETY`.
_PREFIX = re.compile(r"^(finish_?reason|stop_?reason)[_.:]+")
# Gateways in JavaScript write `toolUse` and `maxTokens`.
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
# Other words mean what they contain: a filtered or truncated answer must not pass for a whole one.
_MEANINGS = (
    (
        "content_filter",
        re.compile(r"filter|safety|moderat|risk|polic|prohibit|blocked|sensitive|refus|toxic"),
    ),
    ("context_length", re.compile(r"context.*(exceed|length|window|limit|full)")),
    ("length", re.compile(r"length|truncat|max.*token|token.*(limit|max)|(limit|max).*reached")),
    ("error", re.compile(r"error|fail|exception|malformed|abort|cancel|time_?out|unavailable")),
)


def finish_of(value: object) -> str | None:
    """Return why the model stopped, in our words.

    They are `stop`, `tool_calls`, `length`, `context_length`, `content_filter` and `error`.
    A word that is not known stays as it is. None if the value says nothing.
    """
    if isinstance(value, dict):
        value = value.get("type") or value.get("reason")
    if not isinstance(value, str):
        return None
    if (known := _FINISH.get(value)) is not None:
        return known or None  # nearly always
    word = _HUMP.sub("_", sound(value[:100]).strip()).lower().replace("-", "_").replace(" ", "_")
    word = _PREFIX.sub("", word)
    known = _FINISH.get(word)
    if known is None:
        known = next((reason for reason, meaning in _MEANINGS if meaning.search(word)), word)
    return known or None


def has_half(text: str) -> bool:
    """Whether the text has a half of a surrogate pair."""
    return _HALF.search(text) is not None


def paired(text: str) -> str:
    """Join the halves of surrogate pairs, and replace lone halves by U+FFFD."""
    if text.isascii() or not has_half(text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def sound(text: str) -> str:
    """Replace what cannot be stored by U+FFFD: NUL, and halves of surrogate pairs that have no other half."""
    if not text.isascii():
        text = paired(text)
    return text.replace("\x00", "\ufffd") if "\x00" in text else text


def text_in(value: object, depth: int = 0) -> str:
    """Return the text of a value that should be a text: also of a number, a list of parts, or a part."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and depth < _MAX_DEPTH:
        return "".join(text_in(part, depth + 1) for part in value)
    if isinstance(value, dict) and depth < _MAX_DEPTH:
        inner = next((value[key] for key in _TEXT_KEYS if value.get(key)), None)
        return text_in(inner, depth + 1) if isinstance(inner, str | list | dict) else ""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def name_in(value: object) -> str:
    """Return an id or a name: some servers number their ids."""
    return sound(value) if isinstance(value, str) else str(value) if type(value) is int else ""


def number_in(value: object) -> int | None:
    """Return an index, which some servers quote or write as a float."""
    if type(value) is int or value is None:
        return value
    if isinstance(value, str):
        value = int(value) if value.isdecimal() and len(value) < 10 else None
    if isinstance(value, float):
        value = int(value) if value.is_integer() else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def count(value: object) -> int | None:
    """Return the value if it is a valid token count, else None."""
    number = number_in(value)
    return number if number is not None and 0 <= number <= MAX_COUNT else None


def first_count(*values: object) -> int | None:
    """Return the first of the values that is a token count."""
    for value in values:
        if value is not None and (tokens := count(value)) is not None:
            return tokens
    return None


def merged(before: Usage | None, after: Usage | None) -> Usage | None:
    """Combine the usage so far with a later report. Reports are running totals; a zero means nothing."""
    if before is None or after is None:
        return after or before
    return Usage(
        after.input_tokens or before.input_tokens,
        after.output_tokens or before.output_tokens,
        after.cache_read_tokens or before.cache_read_tokens,
        after.cache_creation_tokens or before.cache_creation_tokens,
    )


def decoded(value: object) -> object:
    """Return an object or a list that a server encoded once too often; any other value as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in {"{", "["}:
        try:
            return msgspec.json.decode(value)
        except (ValueError, RecursionError):
            return value
    return value


def written(arguments: object) -> str:
    """Return arguments as JSON text, whether they came as text or as a value."""
    return arguments if isinstance(arguments, str) else "" if arguments is None else dumps(arguments).decode()
