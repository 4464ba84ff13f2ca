"""The wire protocols as their vendors speak them: streams and error bodies for scripted exchanges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from tests.conformance.drivers.vendor import JSON, Reply

Call = tuple[str, str, Sequence[str]]
"""A tool call: id, name, and its arguments in the pieces in which they arrive."""


@dataclass(frozen=True)
class Counts:
    """Token counts as a vendor would report them; `read` is the cached part of `given`."""

    given: int = 100
    made: int = 7
    read: int = 60


class Wire(Protocol):
    """What the shared suite needs of a protocol."""

    provider_type: str
    path: str

    def answer(
        self,
        text: Sequence[str] = (),
        calls: Sequence[Call] = (),
        thinking: Sequence[str] = (),
        counts: Counts = Counts(),
        finish: str = "stop",
    ) -> list[bytes]:
        """Return the SSE events of a whole answer. `finish`: `stop`, `length` or `content_filter`."""
        ...

    def whole(self, text: str, call: tuple[str, str, dict[str, Any]]) -> bytes:
        """Return a whole answer with text, a call and a usage of 5 and 2 tokens, as one JSON body."""
        ...

    def failure(self, kind: str, message: str) -> bytes:
        """Return an SSE event that reports an error. `kind`: `overloaded`, `rate_limit` or `context`."""
        ...

    def refusal(self, kind: str, message: str) -> bytes:
        """Return the JSON body of an error response."""
        ...


def sse(value: Any, name: str | None = None) -> bytes:
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + msgspec.json.encode(value) + b"\n\n"


class ChatWire:
    provider_type = "openai_completions"
    path = "/v1/chat/completions"

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return sse(
            {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "model-1", "choices": [choice]}
        )

    def answer(
        self,
        text: Sequence[str] = (),
        calls: Sequence[Call] = (),
        thinking: Sequence[str] = (),
        counts: Counts = Counts(),
        finish: str = "stop",
    ) -> list[bytes]:
        events = [self._chunk({"role": "assistant", "content": None})]
        events += [self._chunk({"reasoning_content": piece}) for piece in thinking]
        events += [self._chunk({"content": piece}) for piece in text]
        for index, (call_id, name, pieces) in enumerate(calls):
            head = {
                "index": index,
                "id": call_id,
                "type": "function",
                "function": {"name": name, "arguments": ""},
            }
            events.append(self._chunk({"tool_calls": [head]}))
            events += [
                self._chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
                for piece in pieces
            ]
        events.append(self._chunk({}, "tool_calls" if calls else finish))
        usage = {
            "prompt_tokens": counts.given,
            "completion_tokens": counts.made,
            "prompt_tokens_details": {"cached_tokens": counts.read},
        }
        return [*events, sse({"id": "chatcmpl-1", "choices": [], "usage": usage}), b"data: [DONE]\n\n"]

    def whole(self, text: str, call: tuple[str, str, dict[str, Any]]) -> bytes:
        function = {"name": call[1], "arguments": msgspec.json.encode(call[2]).decode()}
        calls = [{"id": call[0], "type": "function", "function": function}]
        message = {"role": "assistant", "content": text, "tool_calls": calls}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        usage = {"prompt_tokens": 5, "completion_tokens": 2}
        value = {"id": "1", "object": "chat.completion", "error": None, "choices": [choice], "usage": usage}
        return msgspec.json.encode(value)

    def failure(self, kind: str, message: str) -> bytes:
        return sse({"error": self._error(kind, message)})

    def refusal(self, kind: str, message: str) -> bytes:
        return msgspec.json.encode({"error": self._error(kind, message)})

    def _error(self, kind: str, message: str) -> dict[str, Any]:
        words = {
            "overloaded": ("server_error", None),
            "rate_limit": ("requests", "rate_limit_exceeded"),
            "context": ("invalid_request_error", "context_length_exceeded"),
            "quota": ("insufficient_quota", "insufficient_quota"),
            "other": ("invalid_request_error", None),
        }
        sort, code = words[kind]
        return {"message": message, "type": sort, "code": code, "param": None}


class ResponsesWire(ChatWire):
    provider_type = "openai"
    path = "/v1/responses"

    def _event(self, kind: str, **fields: Any) -> bytes:
        return sse({"type": kind, "sequence_number": 1, **fields}, kind)

    def answer(
        self,
        text: Sequence[str] = (),
        calls: Sequence[Call] = (),
        thinking: Sequence[str] = (),
        counts: Counts = Counts(),
        finish: str = "stop",
    ) -> list[bytes]:
        base = {
            "id": "resp-1",
            "object": "response",
            "model": "model-1",
            "status": "in_progress",
            "output": [],
        }
        events = [self._event("response.created", response=base)]
        index = 0
        if thinking:
            events += self.reasoning(index, thinking)
            index += 1
        if text:
            events += self.message(index, text)
            index += 1
        for call in calls:
            events += self.call(index, call)
            index += 1
        usage = {
            "input_tokens": counts.given,
            "output_tokens": counts.made,
            "input_tokens_details": {"cached_tokens": counts.read},
        }
        if finish == "stop":
            done = {**base, "status": "completed", "usage": usage}
            return [*events, self._event("response.completed", response=done)]
        reason = "max_output_tokens" if finish == "length" else finish
        done = {**base, "status": "incomplete", "usage": usage, "incomplete_details": {"reason": reason}}
        return [*events, self._event("response.incomplete", response=done)]

    def message(self, index: int, pieces: Sequence[str]) -> list[bytes]:
        item = {"id": f"msg-{index}", "type": "message", "role": "assistant", "content": []}
        whole = [{"type": "output_text", "text": "".join(pieces), "annotations": []}]
        return [
            self._event("response.output_item.added", output_index=index, item=item),
            *(
                self._event("response.output_text.delta", item_id=item["id"], output_index=index, delta=piece)
                for piece in pieces
            ),
            self._event(
                "response.output_text.done", item_id=item["id"], output_index=index, text="".join(pieces)
            ),
            self._event("response.output_item.done", output_index=index, item={**item, "content": whole}),
        ]

    def reasoning(self, index: int, pieces: Sequence[str], encrypted: str = "c2VjcmV0") -> list[bytes]:
        item = {"id": f"rs-{index}", "type": "reasoning", "summary": []}
        whole = {
            **item,
            "summary": [{"type": "summary_text", "text": "".join(pieces)}],
            "encrypted_content": encrypted,
        }
        return [
            self._event("response.output_item.added", output_index=index, item=item),
            *(
                self._event(
                    "response.reasoning_summary_text.delta",
                    item_id=item["id"],
                    output_index=index,
                    summary_index=0,
                    delta=piece,
                )
                for piece in pieces
            ),
            self._event("response.output_item.done", output_index=index, item=whole),
        ]

    def call(self, index: int, call: Call) -> list[bytes]:
        call_id, name, pieces = call
        item = {
            "id": f"fc-{index}",
            "type": "function_call",
            "call_id": call_id,
            "name": name,
            "arguments": "",
        }
        return [
            self._event("response.output_item.added", output_index=index, item=item),
            *(
                self._event(
                    "response.function_call_arguments.delta",
                    item_id=item["id"],
                    output_index=index,
                    delta=piece,
                )
                for piece in pieces
            ),
            self._event(
                "response.output_item.done", output_index=index, item={**item, "arguments": "".join(pieces)}
            ),
        ]

    def whole(self, text: str, call: tuple[str, str, dict[str, Any]]) -> bytes:
        parts = [{"type": "output_text", "text": text}]
        arguments = msgspec.json.encode(call[2]).decode()
        output = [
            {"type": "message", "id": "m", "role": "assistant", "content": parts},
            {"type": "function_call", "id": "f", "call_id": call[0], "name": call[1], "arguments": arguments},
        ]
        value = {"id": "r", "object": "response", "status": "completed", "error": None, "output": output}
        return msgspec.json.encode({**value, "usage": {"input_tokens": 5, "output_tokens": 2}})

    def failure(self, kind: str, message: str) -> bytes:
        words = {
            "overloaded": "server_error",
            "rate_limit": "rate_limit_exceeded",
            "context": "context_length_exceeded",
        }
        error = {"code": words[kind], "message": message}
        return self._event("response.failed", response={"id": "resp-1", "status": "failed", "error": error})


class MessagesWire:
    provider_type = "anthropic"
    path = "/v1/messages"

    def _event(self, kind: str, **fields: Any) -> bytes:
        return sse({"type": kind, **fields}, kind)

    def block(self, index: int, start: dict[str, Any], deltas: Sequence[dict[str, Any]]) -> list[bytes]:
        return [
            self._event("content_block_start", index=index, content_block=start),
            *(self._event("content_block_delta", index=index, delta=delta) for delta in deltas),
            self._event("content_block_stop", index=index),
        ]

    def thought(self, index: int, pieces: Sequence[str], signature: str = "signed") -> list[bytes]:
        deltas: list[dict[str, Any]] = [{"type": "thinking_delta", "thinking": piece} for piece in pieces]
        deltas.append({"type": "signature_delta", "signature": signature})
        return self.block(index, {"type": "thinking", "thinking": "", "signature": ""}, deltas)

    def words(self, index: int, pieces: Sequence[str]) -> list[bytes]:
        return self.block(
            index, {"type": "text", "text": ""}, [{"type": "text_delta", "text": piece} for piece in pieces]
        )

    def call(self, index: int, call: Call) -> list[bytes]:
        call_id, name, pieces = call
        start = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
        return self.block(
            index, start, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
        )

    def framed(self, blocks: Sequence[bytes], counts: Counts, stop: str) -> list[bytes]:
        usage = {
            "input_tokens": counts.given - counts.read - 10,
            "cache_read_input_tokens": counts.read,
            "cache_creation_input_tokens": 10,
            "output_tokens": 1,
        }
        start = {"id": "msg-1", "type": "message", "role": "assistant", "model": "model-1", "usage": usage}
        return [
            self._event("message_start", message=start),
            self._event("ping"),
            *blocks,
            self._event("message_delta", delta={"stop_reason": stop}, usage={"output_tokens": counts.made}),
            self._event("message_stop"),
        ]

    def answer(
        self,
        text: Sequence[str] = (),
        calls: Sequence[Call] = (),
        thinking: Sequence[str] = (),
        counts: Counts = Counts(),
        finish: str = "stop",
    ) -> list[bytes]:
        blocks: list[bytes] = []
        index = 0
        if thinking:
            blocks += self.thought(index, thinking)
            index += 1
        if text:
            blocks += self.words(index, text)
            index += 1
        for call in calls:
            blocks += self.call(index, call)
            index += 1
        stops = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}
        return self.framed(blocks, counts, "tool_use" if calls else stops[finish])

    def whole(self, text: str, call: tuple[str, str, dict[str, Any]]) -> bytes:
        use = {"type": "tool_use", "id": call[0], "name": call[1], "input": call[2]}
        value = {"id": "m", "type": "message", "role": "assistant", "stop_reason": "tool_use"}
        usage = {"input_tokens": 5, "output_tokens": 2}
        return msgspec.json.encode(
            {**value, "content": [{"type": "text", "text": text}, use], "usage": usage}
        )

    def failure(self, kind: str, message: str) -> bytes:
        return self._event("error", error=self._error(kind, message))

    def refusal(self, kind: str, message: str) -> bytes:
        return msgspec.json.encode(
            {"type": "error", "error": self._error(kind, message), "request_id": "req-1"}
        )

    def _error(self, kind: str, message: str) -> dict[str, Any]:
        words = {
            "overloaded": "overloaded_error",
            "rate_limit": "rate_limit_error",
            "context": "invalid_request_error",
            "quota": "billing_error",
            "other": "invalid_request_error",
        }
        if kind == "context":
            message = f"prompt is too long: 210000 tokens > 200000 maximum. {message}"
        return {"type": words[kind], "message": message}


class GeminiWire:
    provider_type = "gemini"
    path = "/v1/models/model-1:streamGenerateContent"

    def _chunk(self, *parts: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
        if finish is not None:
            candidate["finishReason"] = finish
        return sse({"candidates": [candidate], "modelVersion": "model-1", "responseId": "r-1", **more})

    def answer(
        self,
        text: Sequence[str] = (),
        calls: Sequence[Call] = (),
        thinking: Sequence[str] = (),
        counts: Counts = Counts(),
        finish: str = "stop",
    ) -> list[bytes]:
        so_far = {"promptTokenCount": counts.given, "totalTokenCount": counts.given}
        events = [self._chunk({"text": ""}, usageMetadata=so_far)]
        events += [self._chunk({"text": piece, "thought": True}, usageMetadata=so_far) for piece in thinking]
        events += [self._chunk({"text": piece}, usageMetadata=so_far) for piece in text]
        for number, (call_id, name, pieces) in enumerate(calls):
            part: dict[str, Any] = {"functionCall": {"name": name, "args": _value("".join(pieces))}}
            if call_id:
                part["functionCall"]["id"] = call_id
            if thinking and number == 0:
                part["thoughtSignature"] = "c2lnbmVk"
            events.append(self._chunk(part))
        reason = {"stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}[finish]
        thoughts = 3 if thinking else 0
        usage = {
            **so_far,
            "candidatesTokenCount": counts.made - thoughts,
            "thoughtsTokenCount": thoughts,
            "cachedContentTokenCount": counts.read,
        }
        return [*events, self._chunk({"text": ""}, finish=reason, usageMetadata=usage)]

    def whole(self, text: str, call: tuple[str, str, dict[str, Any]]) -> bytes:
        parts = [{"text": text}, {"functionCall": {"id": call[0], "name": call[1], "args": call[2]}}]
        candidate = {"content": {"role": "model", "parts": parts}, "finishReason": "STOP", "index": 0}
        usage = {"promptTokenCount": 5, "candidatesTokenCount": 2}
        return msgspec.json.encode({"candidates": [candidate], "usageMetadata": usage})

    def failure(self, kind: str, message: str) -> bytes:
        return sse(self._error(kind, message))

    def refusal(self, kind: str, message: str) -> bytes:
        return msgspec.json.encode(self._error(kind, message))

    def _error(self, kind: str, message: str) -> dict[str, Any]:
        code, status, reason = {
            "overloaded": (503, "UNAVAILABLE", None),
            "rate_limit": (429, "RESOURCE_EXHAUSTED", "RATE_LIMIT_EXCEEDED"),
            "context": (400, "INVALID_ARGUMENT", None),
            "quota": (403, "PERMISSION_DENIED", "BILLING_DISABLED"),
            "other": (400, "INVALID_ARGUMENT", None),
        }[kind]
        if kind == "context":
            message = (
                "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576). "
                + message
            )
        error: dict[str, Any] = {"code": code, "message": message, "status": status}
        if reason is not None:
            info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason}
            error["details"] = [{**info, "domain": "googleapis.com"}]
        return {"error": error}


def _value(text: str) -> Any:
    """The arguments as a value; what is no JSON, which this vendor would not send, as text."""
    try:
        return msgspec.json.decode(text or "{}")
    except ValueError:
        return text


WIRES: tuple[Wire, ...] = (ChatWire(), ResponsesWire(), MessagesWire())
"""The protocols that the journeys are made with."""

ALL_WIRES: tuple[Wire, ...] = (*WIRES, GeminiWire())
"""The protocols of the drivers' suite that stream server-sent events."""


def refused(wire: Wire, status: int, kind: str = "other", message: str = "no", **headers: str) -> Reply:
    """Build an error response as the vendor would send it. Header names have `_` for `-`."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply([wire.refusal(kind, message)], status, {**JSON, **more})
