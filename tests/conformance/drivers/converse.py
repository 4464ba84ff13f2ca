"""Amazon Bedrock's ConverseStream for scripted exchanges: events in AWS's binary framing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32

import msgspec

from tests.conformance.drivers.protocols import ALL_WIRES, Call, Counts, Wire

EXCEPTIONS = {
    "overloaded": "serviceUnavailableException",
    "rate_limit": "throttlingException",
    "context": "validationException",
}


def message(headers: dict[str, str], payload: bytes) -> bytes:
    """Build a message with headers that are texts."""
    encoded = b""
    for name, value in headers.items():
        text = value.encode()
        encoded += bytes([len(name)]) + name.encode() + b"\x07" + len(text).to_bytes(2) + text
    prelude = (16 + len(encoded) + len(payload)).to_bytes(4) + len(encoded).to_bytes(4)
    whole = prelude + crc32(prelude).to_bytes(4) + encoded + payload
    return whole + crc32(whole).to_bytes(4)


def event(name: str, value: Any) -> bytes:
    """Build an event. The vendor pads its payloads in the field `p`."""
    headers = {":event-type": name, ":content-type": "application/json", ":message-type": "event"}
    return message(headers, msgspec.json.encode({**value, "p": "abcdefgh"}))


def exception(kind: str, text: str) -> bytes:
    """Build an exception in the stream."""
    headers = {":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"}
    return message(headers, msgspec.json.encode({"message": text}))


def delta(index: int, value: Any) -> bytes:
    return event("contentBlockDelta", {"contentBlockIndex": index, "delta": value})


class ConverseWire:
    provider_type = "bedrock"
    path = "/v1/model/model-1/converse-stream"

    def answer(
        self,
        text: Sequence[str] = (),
        calls: Sequence[Call] = (),
        thinking: Sequence[str] = (),
        counts: Counts = Counts(),  # noqa: B008
        finish: str = "stop",
    ) -> list[bytes]:
        events = [event("messageStart", {"role": "assistant"})]
        index = 0
        if thinking:
            events += [delta(index, {"reasoningContent": {"text": piece}}) for piece in thinking]
            events.append(delta(index, {"reasoningContent": {"signature": "signed"}}))
            events.append(event("contentBlockStop", {"contentBlockIndex": index}))
            index += 1
        if text:
            events += [delta(index, {"text": piece}) for piece in text]
            events.append(event("contentBlockStop", {"contentBlockIndex": index}))
            index += 1
        for call_id, name, pieces in calls:
            start = {"toolUse": {"toolUseId": call_id, "name": name}}
            events.append(event("contentBlockStart", {"contentBlockIndex": index, "start": start}))
            events += [delta(index, {"toolUse": {"input": piece}}) for piece in pieces]
            events.append(event("contentBlockStop", {"contentBlockIndex": index}))
            index += 1
        stops = {"stop": "end_turn", "length": "max_tokens", "content_filter": "content_filtered"}
        events.append(event("messageStop", {"stopReason": "tool_use" if calls else stops[finish]}))
        usage = {
            "inputTokens": counts.given - counts.read - 10,
            "outputTokens": counts.made,
            "totalTokens": counts.given + counts.made,
            "cacheReadInputTokens": counts.read,
            "cacheWriteInputTokens": 10,
        }
        return [*events, event("metadata", {"usage": usage, "metrics": {"latencyMs": 9}})]

    def whole(self, text: str, call: tuple[str, str, dict[str, Any]]) -> bytes:
        use = {"toolUse": {"toolUseId": call[0], "name": call[1], "input": call[2]}}
        said = {"role": "assistant", "content": [{"text": text}, use]}
        usage = {"inputTokens": 5, "outputTokens": 2, "totalTokens": 7}
        return msgspec.json.encode({"output": {"message": said}, "stopReason": "tool_use", "usage": usage})

    def failure(self, kind: str, message: str) -> bytes:
        text = f"Input is too long for requested model. {message}" if kind == "context" else message
        return exception(EXCEPTIONS[kind], text)

    def refusal(self, kind: str, message: str) -> bytes:
        kinds = {**EXCEPTIONS, "quota": "ServiceQuotaExceededException", "other": "ValidationException"}
        text = f"Input is too long for requested model. {message}" if kind == "context" else message
        return msgspec.json.encode({"__type": kinds[kind], "message": text})


EVERY_WIRE: tuple[Wire, ...] = (*ALL_WIRES, ConverseWire())
"""The protocols of the drivers' suite, whatever their framing."""
