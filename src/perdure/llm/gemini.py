"""Google's Gemini API (`gemini`), in its native protocol.

`reasoning_effort` becomes a thinking level for Gemini 3 and later, and a budget in tokens for Gemini 2.5.

The provider's options:

    headers         additional HTTP headers
    bearer          True sends the key as `Authorization: Bearer`, for OAuth tokens
    max_tokens      the answer's limit when a call sets none
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from perdure.domain.errors import ModelError
from perdure.domain.messages import JsonObject, Message
from perdure.llm.answer_values import count
from perdure.llm.base_urls import base_urls, path_segment
from perdure.llm.driver import ListedModel, ModelRequest, ModelResponse, OnDelta, ProviderConfig
from perdure.llm.endpoint import Endpoint
from perdure.llm.fragment_cache import Encoding, FragmentCache, ToolCache
from perdure.llm.gemini_answer import GeminiAnswer
from perdure.llm.gemini_wire import (
    PROVIDER_TYPE,
    Form,
    contents,
    encoded_tools,
    fragment,
    missing,
    names_of,
)
from perdure.llm.http import Http
from perdure.llm.openai_common import MAX_LISTED, decoded_list, entries_in, text_map
from perdure.llm.output_schemas import GEMINI, OutputSchemas, narrowed
from perdure.llm.outputs import offers_result_tool, result_tool_of, tools_with_result
from perdure.llm.replay import Replay
from perdure.llm.settings import sent_of, without
from perdure.llm.wire import Fragment, arranged, dumps, reuses_ids, with_distinct_ids

DEFAULT_BASE = "https://generativelanguage.googleapis.com/v1beta"
VERTEX_HOST = "aiplatform.googleapis.com"
"""Its hosts refuse ids of calls."""

MAX_PAGES = 10
_PAGE = 1_000
_CONFIG = "generationConfig"
_SCHEMA = f"{_CONFIG}.responseJsonSchema"
_OPTIONAL = frozenset(
    {
        f"{_CONFIG}.thinkingConfig",
        _SCHEMA,
        f"{_CONFIG}.maxOutputTokens",
        f"{_CONFIG}.temperature",
        "toolConfig",
    }
)

BUDGETS = {"minimal": 1_024, "low": 4_096, "medium": 8_192, "high": 24_576, "xhigh": 24_576, "max": 24_576}
"""Thinking budget in tokens for each effort, for Gemini 2.5; the largest is what all of them accept."""

LEAST_OF_PRO = 128
"""Gemini 2.5 Pro cannot stop thinking."""

_NO_THINKING = frozenset({"none", "off", "disabled"})
_HIGH = frozenset({"high", "xhigh", "max"})
_VERSION = re.compile(r"gemini-(\d+)(?:\.(\d+))?")
_PREFIXES = ("models/", "tunedModels/")


def gemini_version(model: str) -> tuple[int, int]:
    """Return a Gemini model's major and minor version from its name; zeros if it has none."""
    match = _VERSION.search(model.lower())
    return (int(match[1]), int(match[2] or 0)) if match else (0, 0)


class GeminiDriver:
    """A driver for the Gemini API, or for a server that speaks its protocol.

    Args:
        config: base URL, key and options; the module docstring lists the options.
        http: the process's connection pool.
        cache: the process's cache of encoded messages.
    """

    provider_type = PROVIDER_TYPE

    def __init__(self, config: ProviderConfig, http: Http, cache: FragmentCache) -> None:
        self._http = http
        self._cache = cache
        base, other = base_urls(config.base_url or DEFAULT_BASE, versioned=True, version="v1beta")
        key = (config.api_key or "").strip()
        credentials: dict[str, str] = {}
        if key:
            bearer = bool(config.options.get("bearer"))
            credentials = {"Authorization": f"Bearer {key}"} if bearer else {"x-goog-api-key": key}
        headers = text_map(config.options.get("headers"))
        timeout = config.options.get("timeout_seconds")
        self._endpoint = Endpoint(base, credentials, headers, other, timeout)
        self._ids = not self._endpoint.host.endswith(VERTEX_HOST)
        self._max_tokens = config.max_tokens()
        self._tools = ToolCache(encoded_tools)
        self._schemas = OutputSchemas(lambda schema: narrowed(schema, GEMINI))
        self._replay = Replay()

    async def generate(self, request: ModelRequest, on_delta: OnDelta) -> ModelResponse:
        """Make one streamed call. Raises: ModelError."""
        return await self._replay.answer(request, lambda bare: self._call(request, on_delta, bare))

    async def _call(self, request: ModelRequest, on_delta: OnDelta, bare: int) -> ModelResponse:
        answer = GeminiAnswer(on_delta, self._endpoint.secrets)
        answer.result_tool = result_tool_of(request, native=self._native_schema(request) is not None)
        path = f"/{_resource(request.model)}:streamGenerateContent"
        await self._http.stream(
            self._endpoint,
            path,
            self.encoded(request, bare),
            answer,
            request.first_byte,
            query={"alt": "sse"},
        )
        return await answer.finish(request)

    def optional(self, request: ModelRequest) -> frozenset[str]:
        """Return the parameters of this call that it can do without."""
        return sent_of(self._settings(request), _OPTIONAL)

    async def list_models(self) -> list[ListedModel]:
        """List the models that generate contents, page by page. Raises: ModelError."""
        models: list[ListedModel] = []
        token: str | None = None
        for _ in range(MAX_PAGES):
            query = {"pageSize": str(_PAGE)} | ({"pageToken": token} if token else {})
            found, token = _listed(await self._http.get_json(self._endpoint, "/models", query))
            models += found
            if token is None:
                break
        return models[:MAX_LISTED]

    def encoded(self, request: ModelRequest, bare: int = 0) -> bytes:
        """Encode the request's body.

        Args:
            request: the call.
            bare: how many messages, counted from the first, are sent without their signatures.
        """
        messages: Sequence[Message] = request.messages
        fragments = self._fragments(request.model, messages, bare)
        if reuses_ids(fragments):
            messages = with_distinct_ids(messages)
            fragments = self._fragments(request.model, messages, bare)
        form = self._form(request.model)
        ordered = contents(arranged(fragments, missing), names_of(messages), form)
        body = [b'{"contents":[', ordered, b"]"]
        tools = tools_with_result(request, native=self._native_schema(request) is not None)
        if tools:
            body += (b',"tools":', self._tools.encoded(tools))
        if request.system.strip():
            body += (b',"systemInstruction":', dumps({"parts": [{"text": request.system}]}))
        settings = self._settings(request)
        body += (b",", dumps(settings)[1:]) if settings else (b"}",)
        return b"".join(body)

    def _form(self, model: str) -> Form:
        return Form(model, placeholders=gemini_version(model) >= (3, 0), ids=self._ids)

    def _fragments(self, model: str, messages: Sequence[Message], bare: int) -> list[Fragment]:
        form = self._form(model)
        unsigned = msgspec.structs.replace(form, model=None)
        return self._cache.split(
            messages,
            bare,
            Encoding(unsigned.variant(), lambda message: fragment(message, unsigned)),
            Encoding(form.variant(), lambda message: fragment(message, form)),
        )

    def _native_schema(self, request: ModelRequest) -> JsonObject | None:
        """The schema of the answer for `responseJsonSchema`, which prevents tool calls; None for none."""
        if request.output is None or request.tools or request.left_out & {_CONFIG, _SCHEMA}:
            return None
        return self._schemas.encoded(request.output)

    def _settings(self, request: ModelRequest) -> JsonObject:
        config: JsonObject = {}
        limit = request.max_output_tokens or self._max_tokens
        if limit is not None:
            config["maxOutputTokens"] = limit
        if request.temperature is not None:
            config["temperature"] = request.temperature
        thinking = _thinking(request.model.lower(), request.reasoning_effort)
        if thinking:
            config["thinkingConfig"] = thinking
        schema = self._native_schema(request)
        if schema is not None:
            config |= {"responseMimeType": "application/json", "responseJsonSchema": schema}
        settings: JsonObject = {_CONFIG: config} if config else {}
        if offers_result_tool(request, native=schema is not None):
            settings["toolConfig"] = {"functionCallingConfig": {"mode": "ANY"}}
        return without(settings, request.left_out)


def _resource(model: str) -> str:
    """Return the model's place in the address, which no name can leave."""
    prefix = next((prefix for prefix in _PREFIXES if model.startswith(prefix)), "")
    return (prefix or _PREFIXES[0]) + path_segment(model.removeprefix(prefix))


def _thinking(model: str, effort: str | None) -> JsonObject:
    """Return the settings of thinking: how much, and that its summary is wanted. Empty for older models."""
    version = gemini_version(model)
    if version < (2, 5):
        return {}
    shown: JsonObject = {"includeThoughts": True}
    if effort is None:
        return shown
    if version < (3, 0):
        if effort in _NO_THINKING:
            return {"thinkingBudget": LEAST_OF_PRO if "pro" in model else 0}
        budget = BUDGETS.get(effort)
        if budget is None:
            efforts = ", ".join(BUDGETS)
            raise ModelError(
                f"unknown reasoning effort {effort!r}: use {efforts} or none", code="invalid_model_request"
            )
        return {**shown, "thinkingBudget": budget}
    return {**shown, "thinkingLevel": _level(model, version, effort)}


def _level(model: str, version: tuple[int, int], effort: str) -> str:
    """Return the thinking level. Gemini 3 Pro knows `low` and `high` only, and none can be turned off."""
    flash = "flash" in model
    if effort in _NO_THINKING or effort == "minimal":
        return "minimal" if flash else "low"
    if effort in _HIGH:
        return "high"
    if effort == "medium" and not flash and version == (3, 0):
        return "high"
    return effort


def _listed(body: bytes) -> tuple[list[ListedModel], str | None]:
    """Parse a page of the list of models, and the token of the next one.

    Raises:
        ModelError: the answer is not a list of models.
    """
    value = decoded_list(body)
    entries = value.get("models", value.get("data", [])) if isinstance(value, dict) else None
    models = [_model(entry) for entry in entries_in(entries)]
    token = value.get("nextPageToken")
    return [model for model in models if model is not None], token if isinstance(
        token, str
    ) and token else None


def _model(entry: dict[str, Any]) -> ListedModel | None:
    name, title = entry.get("name", entry.get("id")), entry.get("displayName")
    methods = entry.get("supportedGenerationMethods")
    if not isinstance(name, str) or (isinstance(methods, list) and "generateContent" not in methods):
        return None
    name = name.removeprefix(_PREFIXES[0])
    shown = title if isinstance(title, str) and title != name else None
    return ListedModel(name, shown, count(entry.get("inputTokenLimit")) or None) if name else None
