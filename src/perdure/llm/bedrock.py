"""Amazon Bedrock (`bedrock`), through ConverseStream.

The key is a Bedrock API key, or an access key as `KEY_ID:SECRET` or `KEY_ID:SECRET:SESSION_TOKEN`, with which
requests are signed. The region is that of the address.

The provider's options:

    headers         additional HTTP headers
    max_tokens      the answer's limit when a call sets none
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from perdure.domain.errors import ModelError
from perdure.domain.messages import JsonObject, Message
from perdure.llm.adaptations import NO_REASONING
from perdure.llm.anthropic import (
    adaptive_thinking,
    budgeted_thinking,
    claude_version,
    default_max_tokens,
    may_think,
)
from perdure.llm.anthropic_wire import tools_of, turns
from perdure.llm.aws_signing import Signer, aws_key
from perdure.llm.base_urls import path_segment
from perdure.llm.bedrock_answer import ConverseAnswer
from perdure.llm.bedrock_wire import (
    CACHE_POINT,
    PROVIDER_TYPE,
    encoded_tools,
    fragment,
    marked,
    missing,
    text_block,
)
from perdure.llm.driver import ListedModel, ModelRequest, ModelResponse, OnDelta, ProviderConfig
from perdure.llm.endpoint import Endpoint
from perdure.llm.fragment_cache import Encoding, FragmentCache, ToolCache
from perdure.llm.http import Http
from perdure.llm.openai_common import MAX_LISTED, decoded_list, entries_in, text_map
from perdure.llm.outputs import offers_result_tool, result_tool_of, tools_with_result
from perdure.llm.replay import Replay
from perdure.llm.settings import sent_of, without
from perdure.llm.wire import Fragment, arranged, dumps, reuses_ids, with_distinct_ids

REGION = "us-east-1"
"""The region where the address names none."""

DEFAULT_BASE = f"https://bedrock-runtime.{REGION}.amazonaws.com"

_HOST = re.compile(r"bedrock(?:-runtime)?(?:-fips)?\.([a-z]{2}(?:-[a-z]+)+-\d)\.")
_RUNTIME = re.compile(
    r"^(https?://)bedrock-runtime((?:-fips)?\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?)(?=[:/]|$)"
)
_CALL = re.compile(r"/model/[^/]*/(?:converse(?:-stream)?|invoke[a-z-]*)$")
_FIELDS = "additionalModelRequestFields"
_CONFIG = "inferenceConfig"
_POINTS = "cachePoint"
_CHOICE = "toolConfig.toolChoice"
_OPTIONAL = frozenset({_FIELDS, f"{_CONFIG}.maxTokens", f"{_CONFIG}.temperature"})
_FIRST_CACHED = (3, 7)
_NO_THINKING = frozenset({"none", "off", "disabled"})
_NOVA_EFFORTS = {"minimal": "low", "xhigh": "high", "max": "high"}


class BedrockDriver:
    """A driver for Amazon Bedrock in one region.

    Args:
        config: base URL, key and options; the module docstring lists the options.
        http: the process's connection pool.
        cache: the process's cache of encoded messages.
    """

    provider_type = PROVIDER_TYPE

    def __init__(self, config: ProviderConfig, http: Http, cache: FragmentCache) -> None:
        self._http = http
        self._cache = cache
        base = _CALL.sub("", (config.base_url or DEFAULT_BASE).strip().rstrip("/"))
        self._endpoint = _endpoint(base, config)
        # Models are listed by the control plane, whose name differs in one word.
        self._control = _endpoint(_RUNTIME.sub(r"\1bedrock\2", base), config)
        self._max_tokens = config.max_tokens()
        self._tools = ToolCache(lambda tools: encoded_tools(tools, mark=False))
        self._marked_tools = ToolCache(lambda tools: encoded_tools(tools, mark=True))
        self._replay = Replay()

    async def generate(self, request: ModelRequest, on_delta: OnDelta) -> ModelResponse:
        """Make one streamed call. Raises: ModelError."""
        return await self._replay.answer(request, lambda bare: self._call(request, on_delta, bare))

    async def _call(self, request: ModelRequest, on_delta: OnDelta, bare: int) -> ModelResponse:
        answer = ConverseAnswer(on_delta, self._endpoint.secrets)
        answer.result_tool = result_tool_of(request, native=False)
        path = f"/model/{path_segment(request.model)}/converse-stream"
        await self._http.stream(self._endpoint, path, self.encoded(request, bare), answer, request.first_byte)
        return await answer.finish(request)

    def optional(self, request: ModelRequest) -> frozenset[str]:
        """Return the parameters of this call that it can do without."""
        sent = sent_of(self._settings(request, self._ordered(request, 0)), _OPTIONAL)
        if _marks(request):
            sent |= {_POINTS}
        return sent | {_CHOICE} if self._choice(request) else sent

    async def list_models(self) -> list[ListedModel]:
        """List the models that can be called on demand, and the inference profiles. Raises: ModelError."""
        body = await self._http.get_json(self._control, "/foundation-models", {"byOutputModality": "TEXT"})
        models = [_model(entry) for entry in _entries(body, "modelSummaries")]
        try:
            body = await self._http.get_json(self._control, "/inference-profiles", {"maxResults": "1000"})
            models += [_profile(entry) for entry in _entries(body, "inferenceProfileSummaries")]
        except ModelError as error:
            # A key may list models only, and some regions have no profiles.
            if error.transient:
                raise
        return [model for model in models if model is not None][:MAX_LISTED]

    def encoded(self, request: ModelRequest, bare: int = 0) -> bytes:
        """Encode the request's body.

        Args:
            request: the call.
            bare: how many messages, counted from the first, are sent without their reasoning.
        """
        ordered = self._ordered(request, bare)
        settings = self._settings(request, ordered)
        marks = _marks(request)
        body = [b'{"messages":[', turns(marked(ordered) if marks else ordered, text_block), b"]"]
        tools = tools_with_result(request, native=False)
        if not tools and any(part.calls for part in ordered):
            # The vendor wants tools defined if the history has calls, even if none is offered any more.
            tools, marks = tools_of(request.messages), False
        if tools:
            encoded = (self._marked_tools if marks else self._tools).encoded(tools)
            choice = self._choice(request)
            more = b',"toolChoice":' + dumps(choice) if choice else b""
            body += (b',"toolConfig":{"tools":', encoded, more, b"}")
        if request.system.strip():
            system: list[JsonObject] = [text_block(request.system)]
            body += (b',"system":', dumps([*system, CACHE_POINT] if _marks(request) else system))
        body += (b",", dumps(settings)[1:]) if settings else (b"}",)
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
            Encoding("bedrock-bare", lambda message: fragment(message, None)),
            Encoding(f"bedrock/{model}", lambda message: fragment(message, model)),
        )

    def _settings(self, request: ModelRequest, ordered: Sequence[Fragment]) -> JsonObject:
        config: JsonObject = {}
        version = claude_version(request.model)
        limit = request.max_output_tokens or self._max_tokens
        if limit is None and version is not None:
            limit = default_max_tokens(request.model)
        if limit is not None:
            config["maxTokens"] = limit
        fields = _reasoning(request, version, limit, ordered)
        thinks = "thinking" in fields and _FIELDS not in request.left_out
        if request.temperature is not None and not thinks and (version is None or version < (4, 7)):
            config["temperature"] = request.temperature
        settings: JsonObject = {_CONFIG: config} if config else {}
        if fields:
            settings[_FIELDS] = fields
        return without(settings, request.left_out)

    def _choice(self, request: ModelRequest) -> JsonObject:
        """Return what makes the model call a tool, unless it must be free to think."""
        if not offers_result_tool(request, native=False) or _CHOICE in request.left_out:
            return {}
        version = claude_version(request.model)
        fields = _reasoning(request, version, default_max_tokens(request.model), ())
        return {} if "thinking" in fields else {"any": {}}


def _endpoint(base: str, config: ProviderConfig) -> Endpoint:
    """Build an endpoint whose requests have the key, or are signed with it."""
    key = (config.api_key or "").strip()
    access = aws_key(key)
    match = _HOST.search(base)
    signer = None if access is None else Signer(access, match[1] if match else REGION, PROVIDER_TYPE)
    return Endpoint(
        base,
        {"Authorization": f"Bearer {key}"} if key and access is None else {},
        {"Accept": "application/vnd.amazon.eventstream, application/json"}
        | text_map(config.options.get("headers")),
        None,
        config.options.get("timeout_seconds"),
        signer=signer,
        secrets=() if access is None else (access.secret, access.key_id, access.token or ""),
    )


def _marks(request: ModelRequest) -> bool:
    """Whether to set cache points: for models that are known to have a cache."""
    version = claude_version(request.model)
    cached = "nova" in request.model if version is None else version >= _FIRST_CACHED
    return cached and request.prompt_caching is not False and _POINTS not in request.left_out


def _reasoning(
    request: ModelRequest, version: tuple[int, int] | None, limit: int | None, ordered: Sequence[Fragment]
) -> JsonObject:
    """Return the fields that ask for reasoning, which each maker of models names differently."""
    effort, model = request.reasoning_effort, request.model.lower()
    if version is not None and version >= (4, 6):
        return adaptive_thinking(effort, version)
    if effort is None:
        return {}
    if version is not None:
        if NO_REASONING in request.changes or not may_think(ordered):
            return {}
        return budgeted_thinking(effort, limit or default_max_tokens(request.model))
    if "gpt-oss" in model:
        return {"reasoning_effort": effort}
    if "nova-2" in model and effort not in _NO_THINKING:
        level = _NOVA_EFFORTS.get(effort, effort)
        return {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": level}}
    return {}


def _entries(body: bytes, name: str) -> list[dict[str, Any]]:
    """Return the entries of a list. Raises: ModelError: the answer is none."""
    value = decoded_list(body)
    return entries_in(value.get(name) if isinstance(value, dict) else None)


def _model(entry: dict[str, Any]) -> ListedModel | None:
    """Return a model that streams and can be called by its own name."""
    types = entry.get("inferenceTypesSupported")
    streams = entry.get("responseStreamingSupported") is not False
    if not streams or (isinstance(types, list) and "ON_DEMAND" not in types):
        return None
    return _listed(entry.get("modelId"), entry.get("modelName"))


def _profile(entry: dict[str, Any]) -> ListedModel | None:
    if entry.get("status") not in {None, "ACTIVE"}:
        return None
    return _listed(entry.get("inferenceProfileId"), entry.get("inferenceProfileName"))


def _listed(name: object, title: object) -> ListedModel | None:
    if not isinstance(name, str) or not name:
        return None
    return ListedModel(name, title if isinstance(title, str) and title != name else None)
