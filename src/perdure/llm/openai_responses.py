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

from perdure.domain.ids import ToolCallId
from perdure.domain.messages import (
    ContentPart,
    FilePart,
    ImagePart,
    JsonObject,
    Message,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from perdure.llm.driver import ListedModel, ModelRequest, ModelResponse, OnDelta, ProviderConfig, ToolSpec
from perdure.llm.endpoint import Endpoint
from perdure.llm.file_parts import file_data
from perdure.llm.fragment_cache import Encoding, FragmentCache, ToolCache
from perdure.llm.http import Http
from perdure.llm.openai_common import (
    OPENAI_HOSTS,
    cache_key,
    endpoint_of,
    knows_phases,
    listed_models,
    thinks,
)
from perdure.llm.openai_responses_answer import ResponsesAnswer
from perdure.llm.output_schemas import OutputSchemas, compatible_schema, openai_schema
from perdure.llm.outputs import NAME, RESULT_TOOL, result_tool_of, tools_with_result
from perdure.llm.replay import Replay
from perdure.llm.settings import sent_of, without
from perdure.llm.wire import (
    CONTINUE,
    NO_CONTENT,
    NO_RESULT,
    Fragment,
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
    reuses_ids,
    unpacked,
    with_distinct_ids,
    without_blanks,
    woven,
)

PROVIDER_TYPE = "openai"
_OPTIONAL = frozenset(
    {
        "stream",
        "store",
        "include",
        "parallel_tool_calls",
        "max_output_tokens",
        "temperature",
        "prompt_cache_key",
        "reasoning",
        "reasoning.effort",
        "reasoning.summary",
        "text.format",
        "tool_choice",
    }
)


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
        self._summary = config.options.get("reasoning_summary")
        self._reasoning = config.options.get("reasoning")
        self._tools = ToolCache(lambda tools: _encoded_tools(tools, STRICT))
        self._plain_tools = ToolCache(lambda tools: _encoded_tools(tools, {}))
        self._at_openai = self._endpoint.host.endswith(OPENAI_HOSTS)
        self._schemas = OutputSchemas(openai_schema if self._at_openai else compatible_schema)
        self._replay = Replay()

    async def generate(self, request: ModelRequest, on_delta: OnDelta) -> ModelResponse:
        """Make one streamed call. Raises: ModelError."""
        return await self._replay.answer(request, lambda bare: self._call(request, on_delta, bare))

    async def _call(self, request: ModelRequest, on_delta: OnDelta, bare: int) -> ModelResponse:
        answer = ResponsesAnswer(on_delta, self._endpoint.secrets)
        answer.result_tool = result_tool_of(request, native=self._is_native(request))
        await self._http.stream(
            self._endpoint, "/responses", self.encoded(request, bare), answer, request.first_byte
        )
        return await answer.finish(request)

    def optional(self, request: ModelRequest) -> frozenset[str]:
        """Return the parameters of this call's body that it can do without."""
        sent = sent_of(self._settings(request), _OPTIONAL)
        offers = tools_with_result(request, native=self._is_native(request))
        return sent | {"strict"} if offers and "strict" not in request.left_out else sent

    async def list_models(self) -> list[ListedModel]:
        """List the models of `GET /models`. Raises: ModelError."""
        return listed_models(await self._http.get_json(self._endpoint, "/models"))

    def encoded(self, request: ModelRequest, bare: int = 0) -> bytes:
        """Encode the request's body.

        Args:
            request: the call.
            bare: how many messages, counted from the first, are sent without their reasoning.
        """
        fragments = self._fragments(request.model, request.messages, bare)
        if reuses_ids(fragments):
            fragments = self._fragments(request.model, with_distinct_ids(request.messages), bare)
        ordered = arranged(fragments, _missing)
        items = [data for fragment in ordered if (data := fragment.data)]
        while ordered and not ordered[-1].data:
            ordered.pop()
        if not ordered or ordered[-1].role == "assistant":
            items.append(dumps(_user([_input_text(CONTINUE)])))
        body = [b'{"input":[', b",".join(items), b"]"]
        offered = tools_with_result(request, native=self._is_native(request))
        if offered:
            tools = self._plain_tools if "strict" in request.left_out else self._tools
            body += (b',"tools":', tools.encoded(offered))
        body += (b",", dumps(self._settings(request))[1:])
        return b"".join(body)

    def _fragments(self, model: str, messages: Sequence[Message], bare: int) -> list[Fragment]:
        phased = knows_phases(model)
        return self._cache.split(
            messages,
            bare,
            Encoding(f"responses-bare/{phased:d}", lambda message: _fragment(message, None, phased)),
            Encoding(f"responses/{model}", lambda message: _fragment(message, model, phased)),
        )

    def _is_native(self, request: ModelRequest) -> bool:
        """Whether `text.format` asks for the form of the answer: elsewhere it may prevent tool calls."""
        return (self._at_openai or not request.tools) and "text.format" not in request.left_out

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
        if request.output is not None:
            if self._is_native(request):
                schema = self._schemas.encoded(request.output) or {}
                settings["text"] = {"format": {"type": "json_schema", "name": NAME, **schema}}
            elif RESULT_TOOL not in request.left_out:
                settings["tool_choice"] = "required"
        return without(settings, request.left_out)


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
    for piece in without_blanks(woven(message, blocks)):
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
            output = ([_input_text(output)] if output.strip() else []) + _content([*images, *extra])
            extra = []
        if isinstance(output, str) and not output.strip():
            output = NO_CONTENT
        values.append((part.tool_call_id, dumps(_output(part.tool_call_id, output))))
    return result_fragment(values)


def _user(content: list[JsonObject]) -> JsonObject:
    return {"type": "message", "role": "user", "content": content}


def _input_text(text: str) -> JsonObject:
    return {"type": "input_text", "text": text}


def _content(parts: Sequence[ContentPart]) -> list[JsonObject]:
    content = [
        _input(part)
        for part in parts
        if isinstance(part, ImagePart | FilePart) or (isinstance(part, TextPart) and part.text.strip())
    ]
    return content or [_input_text(NO_CONTENT)]


def _input(part: TextPart | ImagePart | FilePart) -> JsonObject:
    match part:
        case TextPart():
            return _input_text(part.text)
        case ImagePart():
            return {"type": "input_image", "image_url": image_url(part), "detail": "auto"}
    name, kind, data = file_data(part)
    return {"type": "input_file", "filename": name, "file_data": f"data:{kind};base64,{data}"}


def _missing(call_id: ToolCallId) -> Fragment:
    return Fragment("user", dumps(_output(call_id, f"Error: {NO_RESULT}")), answers=(call_id,))


def _output(call_id: ToolCallId, output: object) -> JsonObject:
    return {"type": "function_call_output", "call_id": plain_id(call_id), "output": output}


STRICT: JsonObject = {"strict": False}
"""The vendor's default is strict, which allows only schemas whose fields are all required."""


def _encoded_tools(tools: Sequence[ToolSpec], strict: JsonObject) -> bytes:
    return dumps(
        [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": parameters_of(tool),
                **strict,
            }
            for tool in tools
        ]
    )
