"""OpenAI Responses (`openai`), stateless.

The vendor stores nothing: every call sends the encrypted reasoning with the history.

The provider's options:

    headers             additional HTTP headers
    reasoning_summary   `auto`, `concise` or `detailed`: ask for readable reasoning; off by default, because
                        OpenAI offers it to verified organizations only
    reasoning           whether the model reasons; by default, its name decides
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from perdure.domain.errors import ModelError
from perdure.domain.ids import ToolCallId
from perdure.domain.messages import (
    ContentPart,
    ImagePart,
    JsonObject,
    Message,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    Usage,
)
from perdure.llm.answers import Answer, CallInProgress, count, cut_off, decoded
from perdure.llm.driver import ListedModel, ModelRequest, ModelResponse, OnDelta, ProviderConfig, ToolSpec
from perdure.llm.failures import in_stream
from perdure.llm.http import Endpoint, Http
from perdure.llm.openai_common import cache_key, endpoint_of, knows_phases, listed_models, thinks
from perdure.llm.replay import Replay
from perdure.llm.wire import (
    CONTINUE,
    NO_RESULT,
    Fragment,
    FragmentCache,
    ToolCache,
    argument_object,
    arranged,
    dumps,
    image_url,
    parameters_of,
    plain_id,
    plain_name,
    refuse_files,
    result_content,
    result_fragment,
    unpacked,
    woven,
)

PROVIDER_TYPE = "openai"


class _Event(Struct, gc=False):
    type: str = ""
    delta: Any = None
    item: Any = None
    item_id: str | None = None
    output_index: int | None = None
    summary_index: int | None = None
    response: Any = None
    error: Any = None
    code: Any = None
    message: str | None = None


_EVENT = msgspec.json.Decoder(_Event)
_INCOMPLETE = {"max_output_tokens": "length", "content_filter": "content_filter"}


class OpenAiResponsesDriver:
    """A driver for OpenAI, or for a server that speaks its Responses protocol.

    Args:
        config: base URL, key and options; the module docstring lists the options.
        http: the process's connection pool.
        cache: the process's cache of encoded messages.
    """

    provider_type = PROVIDER_TYPE

    def __init__(self, config: ProviderConfig, http: Http, cache: FragmentCache) -> None:
        self._http = http
        self._cache = cache
        self._endpoint: Endpoint = endpoint_of(config)
        self._url = self._endpoint.url("/responses")
        self._summary = config.options.get("reasoning_summary")
        self._reasoning = config.options.get("reasoning")
        self._tools = ToolCache(_encoded_tools)
        self._replay = Replay()

    async def generate(self, request: ModelRequest, on_delta: OnDelta) -> ModelResponse:
        """Make one streamed call. Raises: ModelError."""
        bare = self._replay.bare(request)
        try:
            return await self._call(request, on_delta, bare)
        except ModelError as error:
            if not self._replay.refused(request, error, bare):
                raise
        return await self._call(request, on_delta, len(request.messages))

    async def _call(self, request: ModelRequest, on_delta: OnDelta, bare: int) -> ModelResponse:
        answer = ResponsesAnswer(on_delta, self._endpoint.secrets)
        await self._http.stream(self._endpoint, self._url, self.encoded(request, bare), answer.feed)
        return answer.finished(request)

    async def list_models(self) -> list[ListedModel]:
        """List the models of `GET /models`. Raises: ModelError."""
        return listed_models(await self._http.get_json(self._endpoint, self._endpoint.url("/models")))

    def encoded(self, request: ModelRequest, bare: int = 0) -> bytes:
        """Encode the request's body.

        Args:
            request: the call.
            bare: how many messages, counted from the first, are sent without their reasoning.
        """
        model = request.model
        phased = knows_phases(model)
        fragments: list[Fragment] = []
        if bare:
            head = request.messages[:bare]
            fragments = self._cache.fragments(
                f"responses-bare/{phased:d}", head, lambda message: _fragment(message, None, phased)
            )
        rest = request.messages[bare:] if bare else request.messages
        fragments += self._cache.fragments(
            f"responses/{model}", rest, lambda message: _fragment(message, model, phased)
        )
        items = [fragment.data for fragment in arranged(fragments, _missing) if fragment.data]
        body = [b'{"input":[', b",".join(items) or dumps(_user([_input_text(CONTINUE)])), b"]"]
        if request.tools:
            body += (b',"tools":', self._tools.encoded(request.tools))
        body += (b",", dumps(self._settings(request))[1:])
        return b"".join(body)

    def _settings(self, request: ModelRequest) -> JsonObject:
        settings: JsonObject = {"model": request.model, "stream": True, "store": False}
        if request.system:
            settings["instructions"] = request.system
        if request.tools and request.parallel_tool_calls is not None:
            settings["parallel_tool_calls"] = request.parallel_tool_calls
        if request.max_output_tokens is not None:
            settings["max_output_tokens"] = request.max_output_tokens
        if request.cache_key:
            settings["prompt_cache_key"] = cache_key(request.cache_key)
        reasons = thinks(request.model) if self._reasoning is None else bool(self._reasoning)
        reasoning: JsonObject = {}
        if request.reasoning_effort is not None:
            reasoning["effort"] = request.reasoning_effort
        if self._summary and (reasons or reasoning):
            reasoning["summary"] = self._summary
        if reasoning:
            settings["reasoning"] = reasoning
        if reasons or reasoning:
            settings["include"] = ["reasoning.encrypted_content"]
        if request.temperature is not None and not reasons:
            settings["temperature"] = request.temperature
        return settings


def _fragment(message: Message, model: str | None, phased: bool) -> Fragment:
    refuse_files(message.content)
    if message.role == "agent":
        return _assistant(message, model, phased=phased)
    results = [part for part in message.content if isinstance(part, ToolResultPart)]
    if message.role == "tool_result" and results:
        return _results(message, results)
    if message.role == "system":
        return Fragment(
            "system", dumps({"type": "message", "role": "system", "content": _content(message.content)})
        )
    return Fragment("user", dumps(_user(_content(message.content))))


def _assistant(message: Message, model: str | None, *, phased: bool) -> Fragment:
    blocks = [] if model is None else unpacked(message, PROVIDER_TYPE, model)
    values: list[bytes] = []
    calls: list[ToolCallId] = []
    for piece in woven(message, blocks):
        if isinstance(piece, str):
            text: JsonObject = {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": piece}],
            }
            if phased and message.phase is not None:
                text["phase"] = message.phase
            values.append(dumps(text))
        elif isinstance(piece, ToolCallPart):
            calls.append(piece.id)
            call = {
                "type": "function_call",
                "call_id": plain_id(piece.id),
                "name": plain_name(piece.name),
                "arguments": dumps(argument_object(piece.arguments)).decode(),
            }
            values.append(dumps(call))
        else:
            values.append(dumps(piece))
    return Fragment("assistant", b",".join(values), calls=tuple(calls))


def _results(message: Message, results: list[ToolResultPart]) -> Fragment:
    extra: list[ContentPart] = [part for part in message.content if isinstance(part, TextPart | ImagePart)]
    values: list[tuple[ToolCallId, bytes]] = []
    for part in results:
        output: Any
        output, images = result_content(part)
        # Content besides the results is sent with the first result.
        if images or extra:
            output = ([_input_text(output)] if output else []) + _content([*images, *extra])
            extra = []
        values.append((part.tool_call_id, dumps(_output(part.tool_call_id, output))))
    return result_fragment(values)


def _user(content: list[JsonObject]) -> JsonObject:
    return {"type": "message", "role": "user", "content": content}


def _input_text(text: str) -> JsonObject:
    return {"type": "input_text", "text": text}


def _content(parts: Sequence[ContentPart]) -> list[JsonObject]:
    content = [
        _input_text(part.text)
        if isinstance(part, TextPart)
        else {"type": "input_image", "image_url": image_url(part), "detail": "auto"}
        for part in parts
        if isinstance(part, TextPart | ImagePart)
    ]
    return content or [_input_text("")]


def _missing(call_id: ToolCallId) -> Fragment:
    return Fragment("user", dumps(_output(call_id, f"Error: {NO_RESULT}")))


def _output(call_id: ToolCallId, output: object) -> JsonObject:
    return {"type": "function_call_output", "call_id": plain_id(call_id), "output": output}


def _encoded_tools(tools: Sequence[ToolSpec]) -> bytes:
    return dumps(
        [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": parameters_of(tool),
                # The vendor's default is strict, which allows only schemas whose fields are all required.
                "strict": False,
            }
            for tool in tools
        ]
    )


class ResponsesAnswer(Answer):
    """An answer that arrives in Responses events."""

    __slots__ = ("_by_item", "_done", "_parts", "_secrets", "_text_came")

    def __init__(self, on_delta: OnDelta, secrets: tuple[str, ...] = ()) -> None:
        super().__init__(on_delta)
        self._secrets = secrets
        self._by_item: dict[str | int, CallInProgress] = {}
        self._parts: set[tuple[str | int | None, int | None]] = set()
        self._text_came = False
        self._done = False

    def feed(self, payload: bytes) -> bool:
        """Parse one payload; return True after the event that ends the response."""
        if len(payload) < 12 and payload.strip() == b"[DONE]":
            return True
        event = decoded(_EVENT, payload)
        kind = event.type
        if kind in {"response.output_text.delta", "response.refusal.delta"}:
            if event.delta and isinstance(event.delta, str):
                self.add_text(event.delta)
                self._text_came = True
        elif kind == "response.function_call_arguments.delta":
            call = self._call_of(event.item_id, event.output_index)
            if call is not None and isinstance(event.delta, str):
                call.arguments.append(event.delta)
        elif kind in {"response.reasoning_summary_text.delta", "response.reasoning_text.delta"}:
            if event.delta and isinstance(event.delta, str):
                self._add_thinking(event)
        elif kind == "response.output_item.added":
            self._begin(event)
        elif kind == "response.output_item.done":
            self._end(event)
        elif kind in {"response.completed", "response.incomplete", "response.failed"}:
            return self._finish(event)
        elif kind == "response.created":
            self._describe(event.response)
        elif kind == "error" or event.error:
            raise in_stream(event.error or {"code": event.code, "message": event.message}, self._secrets)
        return self._done

    def _add_thinking(self, event: _Event) -> None:
        part = (event.item_id or event.output_index, event.summary_index)
        if self.thinking_started and part not in self._parts:
            self.add_thinking("\n\n")
        self._parts.add(part)
        self.add_thinking(str(event.delta))

    def _call_of(self, *keys: object) -> CallInProgress | None:
        return next(
            (self._by_item[key] for key in keys if isinstance(key, str | int) and key in self._by_item), None
        )

    def _begin(self, event: _Event) -> None:
        item = event.item
        if isinstance(item, dict) and item.get("type") == "function_call":
            self._begin_call(event, item)
        self._text_came = False

    def _begin_call(self, event: _Event, item: JsonObject) -> CallInProgress:
        call = CallInProgress(_text(item.get("call_id") or item.get("id")), _text(item.get("name")))
        self.calls.append(call)
        for key in (item.get("id"), item.get("call_id"), event.output_index):
            if isinstance(key, str | int):
                self._by_item[key] = call
        return call

    def _end(self, event: _Event) -> None:
        """Take from a finished item what its deltas did not bring: the item repeats its whole content."""
        item = event.item
        if not isinstance(item, dict):
            return
        kind = item.get("type")
        if kind == "reasoning":
            # Without one of these, the item only refers to the vendor's store, which holds nothing of ours.
            if item.get("encrypted_content") or item.get("content"):
                self.add_reasoning(item)
        elif kind == "function_call":
            call = self._call_of(item.get("id"), item.get("call_id"), event.output_index) or self._begin_call(
                event, item
            )
            if isinstance(item.get("arguments"), str):
                call.arguments = [item["arguments"]]
        elif kind == "message" and not self._text_came:
            parts = item.get("content")
            for part in parts if isinstance(parts, list) else []:
                text = part.get("text") or part.get("refusal") if isinstance(part, dict) else None
                if text and isinstance(text, str):
                    self.add_text(text)

    def _describe(self, response: object) -> None:
        if isinstance(response, dict):
            self.response_id = _text(response.get("id")) or self.response_id
            self.model = _text(response.get("model")) or self.model

    def _finish(self, event: _Event) -> bool:
        response = event.response if isinstance(event.response, dict) else {}
        self._describe(response)
        self.usage = _usage(response.get("usage"))
        if event.type == "response.failed" or response.get("status") == "failed":
            raise in_stream(response.get("error") or {"code": "server_error"}, self._secrets)
        details = response.get("incomplete_details")
        if event.type == "response.incomplete" or isinstance(details, dict):
            reason = str(details.get("reason") or "") if isinstance(details, dict) else ""
            self.finish_reason = _INCOMPLETE.get(reason, reason or "length")
        else:
            self.finish_reason = "stop"
        self._done = True
        return True

    def finished(self, request: ModelRequest) -> ModelResponse:
        """Return the response. Raises: ModelError: the stream ended too early."""
        if not self._done:
            raise cut_off()
        return self.response(request.model, request.messages)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _usage(value: object) -> Usage | None:
    if not isinstance(value, dict):
        return None
    read, written = count(value.get("input_tokens")), count(value.get("output_tokens"))
    if read is None and written is None:
        return None
    details = value.get("input_tokens_details")
    details = details if isinstance(details, dict) else {}
    return Usage(
        read or 0,
        written or 0,
        count(details.get("cached_tokens")),
        count(details.get("cache_write_tokens")),
    )
