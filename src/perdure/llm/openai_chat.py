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

from perdure.domain.ids import ToolCallId
from perdure.domain.messages import (
    ContentPart,
    ImagePart,
    JsonObject,
    Message,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    text_of,
)
from perdure.llm.driver import ListedModel, ModelRequest, ModelResponse, OnDelta, ProviderConfig, ToolSpec
from perdure.llm.http import Endpoint, Http
from perdure.llm.openai_chat_answer import ChatAnswer
from perdure.llm.openai_common import cache_key, endpoint_of, listed_models, thinks
from perdure.llm.wire import (
    NO_RESULT,
    Fragment,
    FragmentCache,
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
