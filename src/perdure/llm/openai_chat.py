"""OpenAI Chat Completions (`openai_completions`).

Nearly every model server speaks this protocol, from OpenAI to llama.cpp.

The host name selects the defaults where servers differ. The provider's options override them:

    headers             additional HTTP headers
    include_usage       False leaves out `stream_options`, for servers that reject it
    max_tokens_field    `max_completion_tokens` (OpenAI's own hosts) or `max_tokens` (all others)
    reasoning_content   True sends back the thinking of messages with tool calls; the default is True for
                        DeepSeek's hosts, which require it
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

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
    text_of,
)
from perdure.llm.answers import Answer, CallInProgress, count, cut_off, decoded, without_nul
from perdure.llm.driver import ListedModel, ModelRequest, ModelResponse, OnDelta, ProviderConfig, ToolSpec
from perdure.llm.failures import in_stream
from perdure.llm.http import Endpoint, Http
from perdure.llm.openai_common import cache_key, endpoint_of, listed_models, thinks
from perdure.llm.wire import (
    NO_RESULT,
    Fragment,
    FragmentCache,
    Reasoning,
    ToolCache,
    argument_object,
    arranged,
    calls_of,
    dumps,
    image_url,
    parameters_of,
    plain_id,
    refuse_files,
    result_content,
    result_fragment,
    unpacked,
)

PROVIDER_TYPE = "openai_completions"

_OPENAI_HOSTS = ("openai.com", "openai.azure.com")
_DEEPSEEK_HOSTS = ("deepseek.com",)
# OpenAI accepts call ids of up to 40 characters. Other servers have their own formats and expect the same id
# back.
_MAX_CALL_ID = 40


class _Function(Struct, gc=False):
    name: str | None = None
    arguments: Any = None


class _CallDelta(Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None
    extra_content: Any = None


class _Delta(Struct, gc=False):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: str | None = None
    tool_calls: list[_CallDelta] | None = None


class _Choice(Struct, gc=False):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(Struct, gc=False):
    choices: list[_Choice] | None = None
    id: str | None = None
    model: str | None = None
    usage: Any = None
    error: Any = None


_CHUNK = msgspec.json.Decoder(_Chunk)
_FINISH = {"function_call": "tool_calls", "eos": "stop", "max_tokens": "length"}


class OpenAiChatDriver:
    """A driver for one server that speaks Chat Completions.

    Args:
        config: base URL, key and options; the module docstring lists the options.
        http: the process's connection pool.
        cache: the process's cache of encoded messages.
    """

    provider_type = PROVIDER_TYPE

    def __init__(self, config: ProviderConfig, http: Http, cache: FragmentCache) -> None:
        options = config.options
        self._http = http
        self._cache = cache
        self._endpoint: Endpoint = endpoint_of(config)
        self._url = self._endpoint.url("/chat/completions")
        self._at_openai = self._endpoint.host.endswith(_OPENAI_HOSTS)
        self._include_usage = bool(options.get("include_usage", True))
        field = options.get("max_tokens_field") or (
            "max_completion_tokens" if self._at_openai else "max_tokens"
        )
        self._max_tokens_field = str(field)
        self._returns_thinking = bool(
            options.get("reasoning_content", self._endpoint.host.endswith(_DEEPSEEK_HOSTS))
        )
        self._tools = ToolCache(_encoded_tools)

    async def generate(self, request: ModelRequest, on_delta: OnDelta) -> ModelResponse:
        """Make one streamed call. Raises: ModelError."""
        answer = ChatAnswer(on_delta, self._endpoint.secrets)
        await self._http.stream(self._endpoint, self._url, self.encoded(request), answer.feed)
        return answer.finished(request)

    async def list_models(self) -> list[ListedModel]:
        """List the models of `GET /models`. Raises: ModelError."""
        return listed_models(await self._http.get_json(self._endpoint, self._endpoint.url("/models")))

    def encoded(self, request: ModelRequest) -> bytes:
        """Encode the request's body."""
        variant = f"chat/{request.model}/{self._returns_thinking:d}"
        fragments = self._cache.fragments(
            variant, request.messages, lambda message: self._fragment(message, request.model)
        )
        values = [fragment.data for fragment in arranged(fragments, _missing)]
        if request.system:
            values.insert(0, dumps({"role": "system", "content": request.system}))
        body = [b'{"messages":[', b",".join(values), b"]"]
        if request.tools:
            body += (b',"tools":', self._tools.encoded(request.tools))
        body += (b",", dumps(self._settings(request))[1:])
        return b"".join(body)

    def _settings(self, request: ModelRequest) -> JsonObject:
        settings: JsonObject = {"model": request.model, "stream": True}
        if self._include_usage:
            settings["stream_options"] = {"include_usage": True}
        if request.tools and request.parallel_tool_calls is not None:
            settings["parallel_tool_calls"] = request.parallel_tool_calls
        if request.reasoning_effort is not None:
            settings["reasoning_effort"] = request.reasoning_effort
        if request.max_output_tokens is not None:
            settings[self._max_tokens_field] = request.max_output_tokens
        if request.temperature is not None and not (self._at_openai and thinks(request.model)):
            settings["temperature"] = request.temperature
        if request.cache_key and self._at_openai:
            settings["prompt_cache_key"] = cache_key(request.cache_key)
        return settings

    def _fragment(self, message: Message, model: str) -> Fragment:
        refuse_files(message.content)
        if message.role == "agent":
            return self._assistant(message, model)
        if message.role == "tool_result":
            return _results(message)
        role = "system" if message.role == "system" else "user"
        return Fragment(
            "system" if role == "system" else "user",
            dumps({"role": role, "content": _content(message.content)}),
        )

    def _assistant(self, message: Message, model: str) -> Fragment:
        calls = calls_of(message)
        extras = {
            block.item["tool_call_id"]: block.item["extra_content"]
            for block in unpacked(message, PROVIDER_TYPE, model)
            if block.item.get("type") == "extra_content"
        }
        value: JsonObject = {
            "role": "assistant",
            "content": text_of(message.content) or (None if calls else ""),
        }
        if calls:
            value["tool_calls"] = [_call(part, extras) for part in calls]
            if self._returns_thinking:
                own = message.reasoning_provider in {None, PROVIDER_TYPE}
                value["reasoning_content"] = message.thinking or "" if own else ""
        return Fragment("assistant", dumps(value), calls=tuple(part.id for part in calls))


def _call(part: ToolCallPart, extras: JsonObject) -> JsonObject:
    call: JsonObject = {
        "id": _wire_id(part.id),
        "type": "function",
        "function": {
            "name": part.name or "unknown",
            "arguments": dumps(argument_object(part.arguments)).decode(),
        },
    }
    if part.id in extras:
        call["extra_content"] = extras[part.id]
    return call


def _wire_id(call_id: ToolCallId) -> str:
    return call_id if 0 < len(call_id) <= _MAX_CALL_ID else plain_id(call_id, _MAX_CALL_ID)


def _results(message: Message) -> Fragment:
    """Encode tool results.

    `tool` messages hold only text, so a tool's images follow in a user message after all results.
    """
    results = [part for part in message.content if isinstance(part, ToolResultPart)]
    if not results:
        return Fragment("user", dumps({"role": "user", "content": _content(message.content)}))
    values: list[tuple[ToolCallId, bytes]] = []
    extra: list[TextPart | ImagePart] = [
        part for part in message.content if isinstance(part, TextPart | ImagePart)
    ]
    for part in results:
        text, images = result_content(part)
        values.append((part.tool_call_id, dumps(_tool(part.tool_call_id, text))))
        extra += images
    return result_fragment(values, dumps({"role": "user", "content": _content(extra)}) if extra else b"")


def _content(content: Sequence[ContentPart]) -> str | list[JsonObject]:
    parts = [part for part in content if isinstance(part, TextPart | ImagePart)]
    if not parts:
        return ""
    if len(parts) == 1 and isinstance(parts[0], TextPart):
        return parts[0].text
    return [
        {"type": "text", "text": part.text}
        if isinstance(part, TextPart)
        else {"type": "image_url", "image_url": {"url": image_url(part)}}
        for part in parts
    ]


def _missing(call_id: ToolCallId) -> Fragment:
    return Fragment("user", dumps(_tool(call_id, f"Error: {NO_RESULT}")))


def _tool(call_id: ToolCallId, text: str) -> JsonObject:
    return {"role": "tool", "tool_call_id": _wire_id(call_id), "content": text}


def _encoded_tools(tools: Sequence[ToolSpec]) -> bytes:
    return dumps(
        [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": parameters_of(tool),
                },
            }
            for tool in tools
        ]
    )


class ChatAnswer(Answer):
    """An answer that arrives in Chat Completions chunks."""

    __slots__ = ("_by_index", "_done", "_secrets")

    def __init__(self, on_delta: OnDelta, secrets: tuple[str, ...] = ()) -> None:
        super().__init__(on_delta)
        self._secrets = secrets
        self._by_index: dict[int, CallInProgress] = {}
        self._done = False

    def feed(self, payload: bytes) -> bool:
        """Parse one payload; return True after `[DONE]`."""
        if len(payload) < 12 and payload.strip() == b"[DONE]":
            self._done = True
            return True
        chunk = decoded(_CHUNK, payload)
        if chunk.error:
            raise in_stream(chunk.error, self._secrets)
        if chunk.choices:
            choice = chunk.choices[0]
            if choice.delta is not None:
                self._add(choice.delta)
            if choice.finish_reason:
                self.finish_reason = _FINISH.get(choice.finish_reason, choice.finish_reason)
        if chunk.usage is not None:
            self.usage = _usage(chunk.usage) or self.usage
        if self.response_id is None:
            self.response_id = chunk.id
            self.model = chunk.model
        return False

    def _add(self, delta: _Delta) -> None:
        content = delta.content
        if content:
            if type(content) is str:
                self.add_text(content)
            else:
                self._add_parts(content)
        thinking = delta.reasoning_content or delta.reasoning
        if thinking and type(thinking) is str:
            self.add_thinking(thinking)
        if delta.refusal:
            self.add_text(delta.refusal)
        if delta.tool_calls:
            for call in delta.tool_calls:
                self._add_call(call)

    def _add_parts(self, parts: object) -> None:
        """Add a list of parts, which Mistral's reasoning models send in place of the text."""
        for part in parts if isinstance(parts, list) else []:
            if not isinstance(part, dict):
                continue
            inner = part.get("thinking")
            if isinstance(inner, list):
                inner = "".join(str(piece.get("text") or "") for piece in inner if isinstance(piece, dict))
            if inner and isinstance(inner, str):
                self.add_thinking(inner)
            elif part.get("text") and isinstance(part["text"], str):
                self.add_text(part["text"])

    def _add_call(self, delta: _CallDelta) -> None:
        function = delta.function or _Function()
        index = (
            delta.index if delta.index is not None else (len(self.calls) if delta.id else len(self.calls) - 1)
        )
        call = self._by_index.get(index)
        # Some servers give every call index 0 and its own id.
        if call is None or (delta.id and function.name and call.id and delta.id != call.id):
            call = CallInProgress(delta.id, function.name)
            self.calls.append(call)
            self._by_index[index] = call
        else:
            call.id = call.id or ToolCallId(without_nul(delta.id or ""))
            call.name = call.name or without_nul(function.name or "")
        if function.arguments:
            arguments = function.arguments
            call.arguments.append(arguments if isinstance(arguments, str) else dumps(arguments).decode())
        if delta.extra_content is not None:
            call.extra = delta.extra_content

    def finished(self, request: ModelRequest) -> ModelResponse:
        """Return the response. Raises: ModelError: the stream ended too early."""
        if self.finish_reason is None and (not self._done or self.empty):
            raise cut_off()
        response = self.response(request.model, request.messages)
        extras = [
            Reasoning({"type": "extra_content", "tool_call_id": part.id, "extra_content": call.extra})
            for part, call in zip(response.tool_calls, self.calls, strict=True)
            if call.extra is not None
        ]
        if not extras:
            return response
        self.reasoning = extras
        return msgspec.structs.replace(response, reasoning_items=self.packed_reasoning(request.model))


def _usage(value: object) -> Usage | None:
    if not isinstance(value, dict):
        return None
    prompt, completion = count(value.get("prompt_tokens")), count(value.get("completion_tokens"))
    if prompt is None and completion is None:
        return None
    details = value.get("prompt_tokens_details")
    details = details if isinstance(details, dict) else {}
    cached = [details.get("cached_tokens"), value.get("prompt_cache_hit_tokens"), value.get("cached_tokens")]
    return Usage(
        prompt or 0,
        completion or 0,
        next((tokens for tokens in map(count, cached) if tokens is not None), None),
        count(details.get("cache_write_tokens")),
    )
