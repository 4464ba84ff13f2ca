"""Cut what a model wrote to what can be stored, shown and sent back. This is the only place where it is cut.

A model may write without end, and vendors bound neither ids nor names. Whatever passes here can be read back
by all readers of the log.
"""

from __future__ import annotations

import json

import msgspec
from msgspec.structs import replace

from perdure.domain.ids import ToolCallId, digest_call_id
from perdure.domain.messages import MAX_TEXT, JsonValue, ToolCallPart, Usage, storable
from perdure.domain.redaction import Redactor
from perdure.domain.tool_arguments import arguments_left_out
from perdure.domain.tools import APPROVAL_PREFIX
from perdure.llm.driver import ModelResponse

MAX_ARGUMENTS = 1_000_000
"""Characters of the arguments of all calls of an answer, as JSON."""
MAX_REASONING = 4_000_000
"""Bytes of a vendor's own reasoning blocks, as JSON. Longer ones are dropped: they must not change."""
MAX_SIGNATURE = 200_000
MAX_ID = 128
MAX_NAME = 128
MAX_LABEL = 200
"""Characters of the finish reason, the response's id and the model's name."""
MAX_COUNT = (1 << 53) - 1
"""The largest number of tokens: JSON readers represent greater numbers inexactly."""


def storable_response(response: ModelResponse, redactor: Redactor) -> ModelResponse:
    """The response without what the database cannot store, and within the limits.

    A text is cut, with a mark at its end. A call with arguments that are too long is not cut, because half of
    them could do harm: they are left out, and the call fails with an explanation for the model.
    """
    thinking = None if response.thinking is None else cut_text(storable(response.thinking), redactor)
    signed = response.thinking_signature is None or len(response.thinking_signature) <= MAX_SIGNATURE
    items = response.reasoning_items
    if items and len(msgspec.json.encode(items)) > MAX_REASONING:
        items = ()
    return replace(
        response,
        text=cut_text(storable(response.text), redactor),
        thinking=thinking,
        thinking_signature=response.thinking_signature if signed else None,
        reasoning_items=items,
        tool_calls=_limited_calls(response.tool_calls),
        usage=None if response.usage is None else _limited_usage(response.usage),
        finish_reason=storable(response.finish_reason[:MAX_LABEL]),
        response_id=_label(response.response_id),
        model=_label(response.model),
    )


def cut_text(text: str, redactor: Redactor, limit: int = MAX_TEXT) -> str:
    """The text with at most `limit` characters, and a mark at its end if it was longer."""
    if len(text) <= limit:
        return text
    # Redact before cutting: a secret that is cut in half would not be recognized later.
    clean = redactor.text(text)
    mark = f"\n[... cut after {limit} characters]"
    return clean if len(clean) <= limit else f"{clean[: limit - len(mark)]}{mark}"


def _limited_calls(calls: tuple[ToolCallPart, ...]) -> tuple[ToolCallPart, ...]:
    limited, left = [], MAX_ARGUMENTS
    for call in calls:
        arguments, size = _measured(call.arguments)
        if size > left:
            arguments = arguments_left_out(size, MAX_ARGUMENTS)
        else:
            left -= size
        limited.append(ToolCallPart(_limited_id(call.id), storable(call.name[:MAX_NAME]), arguments))
    return tuple(limited)


def _measured(arguments: JsonValue) -> tuple[JsonValue, int]:
    """The arguments, as text if JSON cannot represent them, and their characters."""
    if not isinstance(arguments, str):
        try:
            return arguments, len(msgspec.json.encode(arguments))
        except (OverflowError, UnicodeEncodeError, ValueError):
            arguments = json.dumps(arguments)
    return storable(arguments), len(arguments)


def _limited_id(call_id: ToolCallId) -> ToolCallId:
    plain = storable(call_id)
    # A call that is named like the question about another one could pass for it: whoever allows the one would
    # allow the other.
    if len(plain) <= MAX_ID and not plain.startswith(APPROVAL_PREFIX):
        return ToolCallId(plain)
    return digest_call_id(plain)


def _limited_usage(usage: Usage) -> Usage:
    counts = (
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_tokens or 0,
        usage.cache_creation_tokens or 0,
    )
    if max(counts) <= MAX_COUNT:
        return usage
    read, written = usage.cache_read_tokens, usage.cache_creation_tokens
    return replace(
        usage,
        input_tokens=min(usage.input_tokens, MAX_COUNT),
        output_tokens=min(usage.output_tokens, MAX_COUNT),
        cache_read_tokens=None if read is None else min(read, MAX_COUNT),
        cache_creation_tokens=None if written is None else min(written, MAX_COUNT),
    )


def _label(text: str | None) -> str | None:
    return None if text is None else storable(text[:MAX_LABEL])
