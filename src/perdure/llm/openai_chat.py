"""OpenAI Chat Completions (`openai_completions`).

Nearly every model server speaks this protocol, from OpenAI to llama.cpp.

The host name selects the defaults where servers differ. The provider's options override them:

    headers             additional HTTP headers
    include_usage       False leaves out `stream_options`, for servers that reject it
    max_tokens_field    `max_completion_tokens` (OpenAI's own hosts) or `max_tokens` (all others); the other
                        one replaces it if the server refuses it
    reasoning_content   True sends back the thinking of messages with tool calls; by default, the host and
                        the model's name decide: DeepSeek, Moonshot and MiMo require it
"""

from __future__ import annotations

import re

from perdure.domain.messages import JsonObject
from perdure.llm import adaptations
from perdure.llm.driver import ListedModel, ModelRequest, ModelResponse, OnDelta, ProviderConfig
from perdure.llm.endpoint import Endpoint
from perdure.llm.http import Http
from perdure.llm.openai_chat_answer import ChatAnswer
from perdure.llm.openai_chat_wire import (
    KNOWN_REASONING,
    NO_REASONING,
    PROVIDER_TYPE,
    REASONING_ALWAYS,
    REASONING_WITH_CALLS,
    Form,
    encoded_tools,
    fragment,
    missing,
    turns,
    user_fragment,
)
from perdure.llm.openai_common import OPENAI_HOSTS, cache_key, endpoint_of, listed_models, thinks
from perdure.llm.output_schemas import OutputSchemas, compatible_schema, openai_schema
from perdure.llm.outputs import NAME, RESULT_TOOL, result_tool_of, tools_with_result
from perdure.llm.settings import sent_of, without
from perdure.llm.wire import (
    FragmentCache,
    ToolCache,
    alternating,
    arranged,
    dumps,
    reuses_ids,
    with_distinct_ids,
)

_MISTRAL_HOSTS = ("mistral.ai",)
_THINKING_HOSTS = ("deepseek.com", "moonshot.ai", "moonshot.cn", "kimi.com", "xiaomimimo.com")
# These hosts refuse unknown fields, or have no use for the field.
_THOUGHTLESS_HOSTS = (*OPENAI_HOSTS, *_MISTRAL_HOSTS, "groq.com")
_OPTIONAL = frozenset(
    {
        "stream",
        "stream_options",
        "parallel_tool_calls",
        "reasoning_effort",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "prompt_cache_key",
        "response_format",
        "tool_choice",
    }
)
_LIMITS = ("max_tokens", "max_completion_tokens")
MAX_FORMS = 100
"""Maximum number of forms that a driver remembers: one for each model, and for each set of changes."""

_MISTRAL_MODEL = re.compile(r"mi[sx]tral|ministral|magistral|codestral|pixtral|devstral|voxtral")
_THINKING_MODEL = re.compile(r"kimi|deepseek|(^|/)mimo")


def is_mistral(model: str) -> bool:
    """Whether Mistral's tokenizer reads this model's messages, by its name: it takes no other call ids."""
    return _MISTRAL_MODEL.search(model.lower()) is not None


def wants_reasoning(model: str) -> bool:
    """Whether the model wants its reasoning back with its tool calls, by its name."""
    return _THINKING_MODEL.search(model.lower()) is not None


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
        self._at_openai = self._endpoint.host.endswith(OPENAI_HOSTS)
        self._include_usage = bool(options.get("include_usage", True))
        field = options.get("max_tokens_field") or (
            "max_completion_tokens" if self._at_openai else "max_tokens"
        )
        self._max_tokens_field = str(field)
        self._at_mistral = self._endpoint.host.endswith(_MISTRAL_HOSTS)
        # None: the model's name decides.
        self._returns_thinking: bool | None = options.get("reasoning_content")
        if self._returns_thinking is None and self._endpoint.host.endswith(_THINKING_HOSTS):
            self._returns_thinking = True
        elif self._returns_thinking is None and self._endpoint.host.endswith(_THOUGHTLESS_HOSTS):
            self._returns_thinking = False
        self._tools = ToolCache(encoded_tools)
        self._schemas = OutputSchemas(openai_schema if self._at_openai else compatible_schema)
        self._forms: dict[tuple[str, frozenset[str]], tuple[Form, str]] = {}

    async def generate(self, request: ModelRequest, on_delta: OnDelta) -> ModelResponse:
        """Make one streamed call. Raises: ModelError."""
        answer = ChatAnswer(on_delta, self._endpoint.secrets)
        answer.result_tool = result_tool_of(request, native=self._is_native(request))
        await self._http.stream(self._endpoint, "/chat/completions", self.encoded(request), answer)
        return answer.finished(request)

    def optional(self, request: ModelRequest) -> frozenset[str]:
        """Return the parameters of this call's body that it can do without."""
        return sent_of(self._settings(request), _OPTIONAL)

    async def list_models(self) -> list[ListedModel]:
        """List the models of `GET /models`. Raises: ModelError."""
        return listed_models(await self._http.get_json(self._endpoint, "/models"))

    def encoded(self, request: ModelRequest) -> bytes:
        """Encode the request's body."""
        form, variant = self._form(request)
        fragments = self._cache.fragments(variant, request.messages, lambda each: fragment(each, form))
        system = request.system if request.system.strip() else ""
        system_as_user = bool(system) and adaptations.SYSTEM_AS_USER in request.changes
        values = None if system_as_user else alternating(fragments)
        if values is None:
            if reuses_ids(fragments):
                distinct = with_distinct_ids(request.messages)
                fragments = self._cache.fragments(variant, distinct, lambda each: fragment(each, form))
            ordered = arranged(fragments, lambda call_id: missing(call_id, form))
            if system_as_user:
                ordered.insert(0, user_fragment(system))
            values = turns(ordered, form)
        if system and not system_as_user:
            values.insert(0, dumps({"role": "system", "content": system}))
        body = [b'{"messages":[', b",".join(values), b"]"]
        tools = tools_with_result(request, native=self._is_native(request))
        if tools:
            body += (b',"tools":', self._tools.encoded(tools))
        body += (b",", dumps(self._settings(request))[1:])
        return b"".join(body)

    def _is_native(self, request: ModelRequest) -> bool:
        """Whether `response_format` asks for the form of the answer: elsewhere it may prevent tool calls."""
        return (self._at_openai or not request.tools) and "response_format" not in request.left_out

    def _form(self, request: ModelRequest) -> tuple[Form, str]:
        """The form for this model, and its name in the cache of encoded messages."""
        key = (request.model, request.changes)
        known = self._forms.get(key)
        if known is None:
            if len(self._forms) >= MAX_FORMS:
                self._forms.clear()
            form = self._new_form(request)
            known = self._forms[key] = (form, form.variant())
        return known

    def _new_form(self, request: ModelRequest) -> Form:
        changes, mistral = request.changes, self._at_mistral or is_mistral(request.model)
        return Form(
            request.model,
            takes_turns=mistral or adaptations.ALTERNATING_ROLES in changes,
            short_ids=mistral or adaptations.SHORT_CALL_IDS in changes,
            textless_calls=adaptations.CALLS_WITHOUT_TEXT in changes,
            reasoning=self._reasoning(request),
            signatures=adaptations.NO_REASONING not in changes,
            system_role=self._at_openai and adaptations.SYSTEM_AS_USER not in changes,
        )

    def _reasoning(self, request: ModelRequest) -> int:
        changes = request.changes
        if adaptations.NO_REASONING in changes:
            return NO_REASONING
        if adaptations.REASONING_ALWAYS in changes:
            return REASONING_ALWAYS
        if self._returns_thinking or adaptations.REASONING_WITH_CALLS in changes:
            return REASONING_WITH_CALLS
        by_name = self._returns_thinking is None and wants_reasoning(request.model)
        return KNOWN_REASONING if by_name else NO_REASONING

    def _settings(self, request: ModelRequest) -> JsonObject:
        settings: JsonObject = {"model": request.model, "stream": True}
        if self._include_usage and "stream" not in request.left_out:
            settings["stream_options"] = {"include_usage": True}
        if request.tools and request.parallel_tool_calls is not None:
            settings["parallel_tool_calls"] = request.parallel_tool_calls
        if request.reasoning_effort is not None:
            settings["reasoning_effort"] = request.reasoning_effort
        if request.max_output_tokens is not None:
            fields = (self._max_tokens_field, *_LIMITS)
            accepted = (field for field in fields if field not in request.left_out)
            settings[next(accepted, self._max_tokens_field)] = request.max_output_tokens
        if request.temperature is not None and not (self._at_openai and thinks(request.model)):
            settings["temperature"] = request.temperature
        if request.cache_key and self._at_openai:
            settings["prompt_cache_key"] = cache_key(request.cache_key)
        if request.output is not None:
            if self._is_native(request):
                schema = {"name": NAME, **(self._schemas.encoded(request.output) or {})}
                settings["response_format"] = {"type": "json_schema", "json_schema": schema}
            elif RESULT_TOOL not in request.left_out:
                settings["tool_choice"] = "required"
        return without(settings, request.left_out)
