"""The port to models. A driver speaks one vendor protocol and makes one attempt of one streamed call.

The engine does the rest: retries, deltas to followers, the log, the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import msgspec
from msgspec import Struct

from perdure.domain.history import estimate_tokens
from perdure.domain.messages import JsonObject, Message, ToolCallPart, Usage
from perdure.domain.tokens import text_tokens

DeltaKind = Literal["text", "thinking", "result"]
"""`result`: the arguments of a call of the result tool, as they arrive; see `OutputFormat`."""
OnDelta = Callable[[DeltaKind, str], None]
"""Called in the event loop for every piece of text as it arrives; must be quick and must not raise."""


class ToolSpec(Struct, frozen=True):
    """A tool as the model sees it. `parameters` is a JSON Schema of an object."""

    name: str
    description: str
    parameters: JsonObject


def fixed_tokens(system: str, tools: Sequence[ToolSpec]) -> int:
    """Estimate the tokens of a system prompt and of tools."""
    tokens = text_tokens(system)
    for tool in tools:
        parameters = msgspec.json.encode(tool.parameters).decode()
        tokens += text_tokens(f"{tool.name}{tool.description}{parameters}")
    return tokens


class OutputFormat(Struct, frozen=True):
    """The form of the final answer.

    A driver asks for it with its protocol's parameter for structured output, if that does not prevent tool
    calls. Otherwise it offers `tool` in addition, and the model gives the answer by calling it.

    Attributes:
        schema: the JSON Schema of the answer, which is an object.
        tool: the result tool; its parameters are the schema.
    """

    schema: JsonObject
    tool: ToolSpec


class ModelRequest(Struct, frozen=True):
    """One model call.

    Attributes:
        model: the vendor's name of the model.
        system: the system prompt; empty for none.
        messages: the conversation, oldest first. A tool_result message follows every tool call of an agent
            message, not always directly; a driver moves the results where its vendor expects them. `system`
            messages may stand in the middle (a driver sends them as its vendor permits).
        tools: the tools that the model may call.
        reasoning_effort: the vendor's name of the effort, or None for the vendor's default.
        parallel_tool_calls: None uses the vendor's default.
        max_output_tokens: the limit of the answer, in tokens; None uses the vendor's default, if it has one.
        cache_key: a stable name of the conversation, for vendors that route by it.
        changes: what this server wants changed in the history, by its name in `llm/adaptations.py`. A driver
            ignores changes that its protocol does not need.
        left_out: the optional parameters that this server refused, by their names in the body; `RESULT_TOOL`
            of `llm/outputs.py` stands for the result tool.
        output: the form of the final answer; None for plain text.
        first_byte: seconds until the first byte of the answer, at public addresses; None for the usual limit.
        prompt_caching: whether to mark the prompt for caching, for vendors that need marks. None lets the
            driver decide: it marks if the vendor charges less for marked prompts.
    """

    model: str
    system: str
    messages: Sequence[Message]
    tools: Sequence[ToolSpec] = ()
    reasoning_effort: str | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    cache_key: str | None = None
    prompt_caching: bool | None = False
    changes: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()
    output: OutputFormat | None = None
    first_byte: float | None = None


def prompt_tokens(request: ModelRequest) -> int:
    """Estimate the tokens of a whole prompt."""
    return fixed_tokens(request.system, request.tools) + sum(map(estimate_tokens, request.messages))


class ModelResponse(Struct, frozen=True):
    """The model's answer.

    Attributes:
        text: the whole text; it equals the concatenated `text` deltas. The answer that a call of the result
            tool gives is among `tool_calls`.
        thinking: the readable reasoning, if any; it equals the concatenated `thinking` deltas.
        thinking_signature: the vendor's signature over the thinking, if there is exactly one.
        reasoning_items: opaque values to store with the message, with the driver's `provider_type` as
            `reasoning_provider`: first the driver's header (the model, the blocks' positions), then the
            vendor's reasoning blocks, unchanged and in order.
        tool_calls: in the model's order. Arguments that are not valid JSON are kept as raw text (a str).
        finish_reason: `stop`, `tool_calls`, `length`, `content_filter` or the vendor's own value.
        response_id: the vendor's id of this answer.
    """

    text: str
    tool_calls: tuple[ToolCallPart, ...] = ()
    thinking: str | None = None
    thinking_signature: str | None = None
    reasoning_items: tuple[JsonObject, ...] = ()
    usage: Usage | None = None
    finish_reason: str = "stop"
    response_id: str | None = None
    model: str | None = None


class ListedModel(Struct, frozen=True):
    """An entry of a provider's list of models."""

    model_id: str
    display_name: str | None = None
    context_tokens: int | None = None


class Driver(Protocol):
    """A client of one protocol, bound to a base URL and a key. Safe for concurrent calls."""

    provider_type: str
    """The kind of provider (`openai`, `openai_completions`, `anthropic`, `llmsim` ...)."""

    async def generate(self, request: ModelRequest, on_delta: OnDelta) -> ModelResponse:
        """Make the call and emit text as it arrives. Cancelling the task aborts the call at once.

        Raises:
            ModelError: the call failed; `code` says why, `transient` whether a retry may succeed.
        """
        ...

    def optional(self, request: ModelRequest) -> frozenset[str]:
        """Return the parameters of this call's body that it can do without.

        The names are those of the body; `a.b` is the field `b` of `a`.

        Raises:
            ModelError: the call cannot be encoded.
        """
        ...

    async def list_models(self) -> list[ListedModel]:
        """List the models that the provider offers.

        Raises:
            ModelError: the provider does not answer or rejects the key.
        """
        ...


class ProviderConfig(Struct, frozen=True):
    """A driver's configuration."""

    provider_type: str
    base_url: str | None = None
    api_key: str | None = None
    options: JsonObject = {}

    def max_tokens(self) -> int | None:
        """The option `max_tokens`: tokens of answer to ask for where a call sets no limit."""
        limit = self.options.get("max_tokens")
        return limit if isinstance(limit, int) and limit > 0 else None
