"""Anthropic Messages (`anthropic`).

`reasoning_effort` controls how much a model thinks. Claude 4.6 and later take the effort name (`low` to
`max`) and choose the amount themselves. Earlier models, and other models behind this protocol, get a token
budget: see `THINKING_TOKENS`.

The provider's options:

    headers         additional HTTP headers, for example `anthropic-beta`
    bearer          True sends the key as `Authorization: Bearer`, for gateways
    max_tokens      the answer's limit when a call sets none; the default is `default_max_tokens`
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from perdure.domain.errors import ModelError
from perdure.domain.messages import JsonObject, Message
from perdure.llm.adaptations import NO_REASONING
from perdure.llm.anthropic_answer import MessagesAnswer
from perdure.llm.anthropic_wire import (
    PROVIDER_TYPE,
    encoded_tools,
    fragment,
    marked,
    missing,
    system_blocks,
    tools_of,
    turns,
)
from perdure.llm.base_urls import base_urls
from perdure.llm.driver import ListedModel, ModelRequest, ModelResponse, OnDelta, ProviderConfig
from perdure.llm.endpoint import Endpoint
from perdure.llm.fragment_cache import Encoding, FragmentCache, ToolCache
from perdure.llm.http import Http
from perdure.llm.openai_common import MAX_LISTED, listed_models, next_page, text_map
from perdure.llm.output_schemas import ANTHROPIC, OutputSchemas, narrowed
from perdure.llm.outputs import offers_result_tool, result_tool_of, tools_with_result
from perdure.llm.replay import Replay
from perdure.llm.settings import sent_of, without
from perdure.llm.wire import Fragment, arranged, dumps, reuses_ids, with_distinct_ids

DEFAULT_BASE = "https://api.anthropic.com"
API_VERSION = "2023-06-01"

THINKING_TOKENS = {
    "minimal": 1_024,
    "low": 4_000,
    "medium": 10_000,
    "high": 24_000,
    "xhigh": 24_000,
    "max": 24_000,
}
"""Thinking budget in tokens for each effort. 1,024 is the vendor's minimum. The maximum is three quarters of
these models' default limit (32,000), which leaves a quarter for the answer itself."""

LEAST_THINKING = 1_024
FIRST_WITH_FORMAT = (4, 5)
"""The first version of Claude with structured outputs."""

_OPTIONAL = frozenset(
    {
        "stream",
        "thinking",
        "thinking.display",
        "output_config",
        "output_config.format",
        "temperature",
        "tool_choice",
    }
)
_BETA = "anthropic-beta"
MAX_PAGES = 10
_PAGE = 1_000
_NO_THINKING = frozenset({"none", "off", "disabled"})
_VERSION = re.compile(r"claude-(?:[a-z]+-)?(\d+)(?:[-.](\d{1,2})(?!\d))?")
_NEWEST = (99, 0)


def claude_version(model: str) -> tuple[int, int] | None:
    """Parse a Claude model's major and minor version from its name.

    Returns the newest version for a Claude without a number, and None for other models.
    """
    name = model.lower()
    match = _VERSION.search(name)
    if match:
        return int(match[1]), int(match[2] or 0)
    return _NEWEST if "claude" in name else None


def default_max_tokens(model: str) -> int:
    """Return the answer's limit in tokens when the call sets none: the protocol requires one.

    The value is accepted by every model of its generation, according to the vendor's table of models:
    64,000 since Claude 4.6, where thinking counts as output (the vendor's limit is 128,000); 32,000 for
    Claude 3.7 to 4.5 (Opus 4's limit); 8,192 for Claude 3.5 and for other models; 4,096 for earlier ones.
    """
    version = claude_version(model)
    if version is None or (3, 5) <= version < (3, 7):
        return 8_192
    if version < (3, 5):
        return 4_096
    return 32_000 if version < (4, 6) else 64_000


class AnthropicDriver:
    """A driver for Anthropic, or for a server that speaks its Messages protocol.

    Args:
        config: base URL, key and options; the module docstring lists the options.
        http: the process's connection pool.
        cache: the process's cache of encoded messages.
    """

    provider_type = PROVIDER_TYPE

    def __init__(self, config: ProviderConfig, http: Http, cache: FragmentCache) -> None:
        self._http = http
        self._cache = cache
        base, other = base_urls(config.base_url or DEFAULT_BASE, versioned=True)
        key = (config.api_key or "").strip()
        credentials: dict[str, str] = {}
        if key:
            credentials = (
                {"Authorization": f"Bearer {key}"} if config.options.get("bearer") else {"x-api-key": key}
            )
        headers = {"anthropic-version": API_VERSION, **text_map(config.options.get("headers"))}
        timeout = config.options.get("timeout_seconds")
        self._endpoint = Endpoint(base, credentials, headers, other, timeout)
        stable = {name: value for name, value in headers.items() if name.lower() != _BETA}
        self._without_beta = (
            None if stable == headers else Endpoint(base, credentials, stable, other, timeout)
        )
        self._max_tokens = config.max_tokens()
        self._tools = ToolCache(lambda tools: encoded_tools(tools, mark=False))
        self._marked_tools = ToolCache(lambda tools: encoded_tools(tools, mark=True))
        self._schemas = OutputSchemas(lambda schema: narrowed(schema, ANTHROPIC))
        self._replay = Replay()

    async def generate(self, request: ModelRequest, on_delta: OnDelta) -> ModelResponse:
        """Make one streamed call. Raises: ModelError."""
        return await self._replay.answer(request, lambda bare: self._call(request, on_delta, bare))

    async def _call(self, request: ModelRequest, on_delta: OnDelta, bare: int) -> ModelResponse:
        endpoint = self._endpoint
        if _BETA in request.left_out and self._without_beta is not None:
            endpoint = self._without_beta
        answer = MessagesAnswer(on_delta, endpoint.secrets)
        answer.result_tool = result_tool_of(request, native=self._native_format(request) is not None)
        await self._http.stream(
            endpoint, "/messages", self.encoded(request, bare), answer, request.first_byte
        )
        return await answer.finish(request)

    def optional(self, request: ModelRequest) -> frozenset[str]:
        """Return the parameters of this call that it can do without; a header is one of them."""
        sent = sent_of(self._settings(request, self._ordered(request, 0)), _OPTIONAL)
        if _marks(request):
            sent |= {"cache_control"}
        if self._without_beta is not None and _BETA not in request.left_out:
            sent |= {_BETA}
        return sent

    async def list_models(self) -> list[ListedModel]:
        """List the models of `GET /v1/models`, page by page. Raises: ModelError."""
        models: list[ListedModel] = []
        after: str | None = None
        for _ in range(MAX_PAGES):
            query = {"limit": str(_PAGE)} | ({"after_id": after} if after else {})
            body = await self._http.get_json(self._endpoint, "/models", query)
            models += listed_models(body)
            after = next_page(body)
            if after is None:
                break
        return models[:MAX_LISTED]

    def encoded(self, request: ModelRequest, bare: int = 0) -> bytes:
        """Encode the request's body.

        Args:
            request: the call.
            bare: how many messages, counted from the first, are sent without their reasoning.
        """
        ordered = self._ordered(request, bare)
        settings = self._settings(request, ordered)
        if _marks(request):
            ordered = marked(ordered)
        body = [b'{"messages":[', turns(ordered), b"]"]
        tools = tools_with_result(request, native=self._native_format(request) is not None)
        if tools:
            body += (b',"tools":', (self._marked_tools if _marks(request) else self._tools).encoded(tools))
        elif any(part.calls for part in ordered):
            # The vendor wants tools defined if the history has calls, even if none is offered any more.
            body += (b',"tools":', encoded_tools(tools_of(request.messages), mark=False))
        if request.system.strip():
            body += (b',"system":', system_blocks(request.system, mark=_marks(request)))
        body += (b",", dumps(settings)[1:])
        return b"".join(body)

    def _ordered(self, request: ModelRequest, bare: int) -> list[Fragment]:
        fragments = self._fragments(request.model, request.messages, bare)
        if reuses_ids(fragments):
            fragments = self._fragments(request.model, with_distinct_ids(request.messages), bare)
        return arranged(fragments, missing)

    def _fragments(self, model: str, messages: Sequence[Message], bare: int) -> list[Fragment]:
        return self._cache.split(
            messages,
            bare,
            Encoding("anthropic-bare", lambda message: fragment(message, None)),
            Encoding(f"anthropic/{model}", lambda message: fragment(message, model)),
        )

    def _native_format(self, request: ModelRequest) -> JsonObject | None:
        """The schema of the answer for `output_config.format`; None if the model does not know that."""
        version = claude_version(request.model)
        if request.output is None or version is None or version < FIRST_WITH_FORMAT:
            return None
        if request.left_out & {"output_config", "output_config.format"}:
            return None
        return self._schemas.encoded(request.output)

    def _settings(self, request: ModelRequest, ordered: Sequence[Fragment]) -> JsonObject:
        limit = request.max_output_tokens or self._max_tokens or default_max_tokens(request.model)
        settings: JsonObject = {"model": request.model, "stream": True, "max_tokens": limit}
        version = claude_version(request.model)
        if version is not None and version >= (4, 6):
            settings |= adaptive_thinking(request.reasoning_effort, version)
        elif (
            request.reasoning_effort is not None
            and NO_REASONING not in request.changes
            and may_think(ordered)
        ):
            settings |= budgeted_thinking(request.reasoning_effort, limit)
        settings = without(settings, request.left_out)
        # Thinking fixes the temperature, and Claude 4.7 and later reject the parameter.
        if (
            request.temperature is not None
            and "thinking" not in settings
            and (version is None or version < (4, 7))
        ):
            settings["temperature"] = request.temperature
        settings |= self._form_of_answer(request, settings)
        return without(settings, request.left_out)

    def _form_of_answer(self, request: ModelRequest, settings: JsonObject) -> JsonObject:
        """Return what asks for tool calls one by one, and for the form of the final answer."""
        added: JsonObject = {}
        schema = self._native_format(request)
        choice: JsonObject = {}
        if schema is not None:
            form = {"type": "json_schema", "schema": schema}
            added["output_config"] = {**settings.get("output_config", {}), "format": form}
        elif offers_result_tool(request, native=False) and "thinking" not in settings:
            choice["type"] = "any"  # a model that thinks must be free to choose
        if request.tools and request.parallel_tool_calls is False:
            choice = {"type": "auto", **choice, "disable_parallel_tool_use": True}
        return {**added, "tool_choice": choice} if choice else added


def _marks(request: ModelRequest) -> bool:
    """Whether to mark the prompt for caching: this vendor charges less for a marked prefix it has cached."""
    return request.prompt_caching is not False and "cache_control" not in request.left_out


def adaptive_thinking(effort: str | None, version: tuple[int, int]) -> JsonObject:
    """Return the thinking settings for Claude 4.6 and later.

    From version 5 on, models think by default and return their thinking only on request.
    """
    summarized: JsonObject = {"thinking": {"type": "adaptive", "display": "summarized"}}
    if effort is None:
        return summarized if version >= (5, 0) else {}
    if effort in _NO_THINKING:
        # Some models of version 5 cannot turn thinking off, but all accept the lowest effort.
        return {**summarized, "output_config": {"effort": "low"}} if version >= (5, 0) else {}
    return {**summarized, "output_config": {"effort": "low" if effort == "minimal" else effort}}


def budgeted_thinking(effort: str, limit: int) -> JsonObject:
    """Return the thinking settings for earlier models: a budget of at most three quarters of the limit.

    Turns thinking off if that is less than the vendor's minimum.

    Raises:
        ModelError: the effort is unknown.
    """
    if effort in _NO_THINKING:
        return {}
    budget = THINKING_TOKENS.get(effort)
    if budget is None:
        efforts = ", ".join(THINKING_TOKENS)
        raise ModelError(
            f"unknown reasoning effort {effort!r}: use {efforts} or none", code="invalid_model_request"
        )
    tokens = min(budget, limit * 3 // 4)
    return {"thinking": {"type": "enabled", "budget_tokens": tokens}} if tokens >= LEAST_THINKING else {}


def may_think(ordered: Sequence[Fragment]) -> bool:
    """Whether the request may ask for thinking.

    In a tool loop, these models accept it only if the loop's last step began with thinking. Answers in a row
    are one step; an empty answer is not sent, so it is none.
    """
    first, calls = None, False
    for part in reversed(ordered):
        if part.role == "assistant" and part.data:
            first, calls = part, calls or bool(part.calls)
        elif part.data and first is not None:
            break
    return first is None or first.thinks or not calls
