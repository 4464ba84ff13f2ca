"""OpenAI Chat Completions (`openai_completions`), and the provider types that are its dialects.

Nearly every model server speaks this protocol, from OpenAI to llama.cpp. Where they differ, the dialect says
what a server wants (`llm/dialects.py`). The provider's options override it:

    headers             additional HTTP headers
    include_usage       False leaves out `stream_options`, for servers that reject it
    max_tokens_field    `max_completion_tokens` or `max_tokens`; the other one replaces it if the server
                        refuses it
    reasoning_content   True sends back the thinking of messages with tool calls; by default, the dialect and
                        the model's name decide: DeepSeek, Moonshot and MiMo require it
    bearer              Azure only: True sends the key as `Authorization: Bearer`, for tokens of Entra ID
"""

from __future__ import annotations

import re

from perdure.domain.messages import JsonObject
from perdure.llm import adaptations
from perdure.llm.azure import Deployment, azure_endpoint
from perdure.llm.dialects import Dialect, dialect_of, own_address
from perdure.llm.driver import ListedModel, ModelRequest, ModelResponse, OnDelta, ProviderConfig
from perdure.llm.endpoint import Endpoint
from perdure.llm.fragment_cache import FragmentCache, ToolCache
from perdure.llm.http import Http
from perdure.llm.openai_chat_answer import ChatAnswer
from perdure.llm.openai_chat_wire import (
    KNOWN_REASONING,
    NO_REASONING,
    REASONING_ALWAYS,
    REASONING_WITH_CALLS,
    Form,
    encoded_tools,
    fragment,
    missing,
    turns,
    user_fragment,
)
from perdure.llm.openai_common import cache_key, endpoint_of, listed_models, thinks
from perdure.llm.output_schemas import OutputSchemas, compatible_schema, openai_schema
from perdure.llm.outputs import NAME, RESULT_TOOL, result_tool_of, tools_with_result
from perdure.llm.settings import sent_of, without
from perdure.llm.wire import alternating, arranged, dumps, reuses_ids, with_distinct_ids

_OPTIONAL = frozenset(
    {
        "stream",
        "stream_options",
        "parallel_tool_calls",
        "reasoning_effort",
        "reasoning",
        "thinking",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "prompt_cache_key",
        "response_format",
        "tool_choice",
    }
)
_LIMITS = ("max_tokens", "max_completion_tokens")
_NO_THINKING = frozenset({"none", "off", "disabled"})
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

    def __init__(self, config: ProviderConfig, http: Http, cache: FragmentCache) -> None:
        options = config.options
        self.provider_type = config.provider_type
        self._http = http
        self._cache = cache
        self._deployment: Deployment | None = None
        own = own_address(config.provider_type)
        self._endpoint: Endpoint = endpoint_of(config, own)
        self._dialect: Dialect = dialect_of(config.provider_type, self._endpoint.host)
        if self._dialect.deployments and config.provider_type == self._dialect.name:
            self._endpoint, self._deployment = azure_endpoint(config, self._dialect)
        self._include_usage = (
            bool(options.get("include_usage", True)) and "stream_options" not in self._dialect.refused
        )
        self._max_tokens_field = str(options.get("max_tokens_field") or self._dialect.limit_field)
        # None: the model's name decides.
        self._returns_thinking: bool | None = options.get("reasoning_content", self._dialect.returns_thinking)
        self._tools = ToolCache(encoded_tools)
        self._schemas = OutputSchemas(openai_schema if self._dialect.strict_schemas else compatible_schema)
        self._forms: dict[tuple[str, frozenset[str]], tuple[Form, str]] = {}

    async def generate(self, request: ModelRequest, on_delta: OnDelta) -> ModelResponse:
        """Make one streamed call. Raises: ModelError."""
        answer = ChatAnswer(on_delta, self._endpoint.secrets, self._dialect.blocks)
        answer.result_tool = result_tool_of(request, native=self._is_native(request))
        path = "/chat/completions"
        if self._deployment is not None:
            path = self._deployment.path(request.model)
        await self._http.stream(self._endpoint, path, self.encoded(request), answer, request.first_byte)
        return await answer.finish(request)

    def optional(self, request: ModelRequest) -> frozenset[str]:
        """Return the parameters of this call's body that it can do without."""
        return sent_of(self._settings(request), _OPTIONAL)

    async def list_models(self) -> list[ListedModel]:
        """List the models of `GET /models`. Raises: ModelError."""
        path = self._dialect.models_path if self._deployment is None else self._deployment.models_path
        listed = listed_models(await self._http.get_json(self._endpoint, path))
        return listed if self._deployment is None else self._deployment.offered(listed)

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
        allowed = self._dialect.schemas == "always" or (
            self._dialect.schemas == "alone" and not request.tools
        )
        return allowed and "response_format" not in request.left_out

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
        changes, mistral = request.changes, self._dialect.short_ids or is_mistral(request.model)
        return Form(
            request.model,
            provider_type=self.provider_type,
            blocks=self._dialect.blocks or "",
            takes_turns=mistral or adaptations.ALTERNATING_ROLES in changes,
            short_ids=mistral or adaptations.SHORT_CALL_IDS in changes,
            textless_calls=adaptations.CALLS_WITHOUT_TEXT in changes,
            reasoning=self._reasoning(request),
            signatures=adaptations.NO_REASONING not in changes,
            system_role=self._dialect.system_role and adaptations.SYSTEM_AS_USER not in changes,
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
        dialect = self._dialect
        settings: JsonObject = {"model": request.model, "stream": True}
        if self._include_usage and "stream" not in request.left_out:
            settings["stream_options"] = {"include_usage": True}
        if request.tools and request.parallel_tool_calls is not None:
            settings["parallel_tool_calls"] = request.parallel_tool_calls
        if request.reasoning_effort is not None:
            settings |= _effort(dialect, request.reasoning_effort)
        limit = request.max_output_tokens or _default_limit(dialect, request.model)
        if limit is not None:
            fields = (self._max_tokens_field, *_LIMITS)
            accepted = (field for field in fields if field not in request.left_out)
            settings[next(accepted, self._max_tokens_field)] = limit
        if request.temperature is not None and not (dialect.fixed_temperature and thinks(request.model)):
            settings["temperature"] = request.temperature
        if request.cache_key and dialect.cache_key:
            settings["prompt_cache_key"] = cache_key(request.cache_key)
        if request.output is not None:
            if self._is_native(request):
                schema = {"name": NAME, **(self._schemas.encoded(request.output) or {})}
                settings["response_format"] = {"type": "json_schema", "json_schema": schema}
            elif RESULT_TOOL not in request.left_out and dialect.must_call is not None:
                settings["tool_choice"] = dialect.must_call
        return without(settings, request.left_out | dialect.refused)


def _effort(dialect: Dialect, effort: str) -> JsonObject:
    if dialect.effort == "reasoning":
        return {"reasoning": {"effort": effort}}
    if dialect.effort == "reasoning_effort":
        return {"reasoning_effort": effort}
    if effort in _NO_THINKING:
        return {"thinking": {"type": "disabled"}}
    enabled: JsonObject = {"thinking": {"type": "enabled"}}
    return enabled if dialect.effort == "thinking" else {**enabled, "reasoning_effort": effort}


def _default_limit(dialect: Dialect, model: str) -> int | None:
    return next((limit for word, limit in dialect.limits if word in model.lower()), None)
