"""The port to models. A driver speaks one vendor protocol; it does one attempt of one call, streaming.

Retries, deltas to followers, the log and the clock are the engine's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from msgspec import Struct

from perdure.domain.messages import JsonObject, Message, ToolCallPart, Usage

DeltaKind = Literal["text", "thinking"]
OnDelta = Callable[[DeltaKind, str], None]
"""Called for every piece of text as it arrives, from the event loop; it must be quick and must not raise."""


class ToolSpec(Struct, frozen=True):
    """A tool as the model sees it. `parameters` is a JSON Schema of an object."""

    name: str
    description: str
    parameters: JsonObject


class ModelRequest(Struct, frozen=True):
    """One model call.

    Attributes:
        model: the vendor's name of the model.
        system: the system prompt; empty for none.
        messages: the conversation, oldest first. Every tool call of an agent message is followed, sooner or
            later, by its tool_result message; a driver puts the results where its vendor wants them. `system`
            messages in the middle are allowed (a driver sends them as its vendor permits).
        tools: the tools on offer.
        reasoning_effort: the vendor's word for how hard to think, or None for the vendor's default.
        parallel_tool_calls: None leaves the vendor's default.
        max_output_tokens: a bound on the answer, in tokens; None leaves the vendor's default where there is
            one.
        cache_key: a stable name of the conversation, for vendors that route by it.
        prompt_caching: whether to mark the prompt for caching, for vendors that want marks. None leaves it to
            the driver: it marks where the vendor charges less for marked prompts.
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


class ModelResponse(Struct, frozen=True):
    """What the model answered.

    Attributes:
        text: the whole text; it equals the concatenated `text` deltas.
        thinking: the readable reasoning, if any; it equals the concatenated `thinking` deltas.
        thinking_signature: the vendor's signature over the thinking, where there is exactly one.
        reasoning_items: to be kept with the message, together with the driver's `provider_type` as its
            `reasoning_provider`, and not looked into: first the driver's note (which model, at which places),
            then the vendor's reasoning blocks, word for word, in order.
        tool_calls: in the order in which the model asked. Arguments that are not valid JSON are kept as the
            raw text (a str).
        finish_reason: `stop`, `tool_calls`, `length`, `content_filter` or the vendor's own word.
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
    """A model that a provider's own list endpoint names."""

    model_id: str
    display_name: str | None = None
    context_tokens: int | None = None


class Driver(Protocol):
    """A model behind one protocol, bound to a base URL and a key. Safe for many calls at once."""

    provider_type: str
    """The kind of provider (`openai`, `openai_completions`, `anthropic`, `llmsim` ...)."""

    async def generate(self, request: ModelRequest, on_delta: OnDelta) -> ModelResponse:
        """Make the call and hand out text while it arrives. Cancelling the task aborts the call at once.

        Raises:
            ModelError: with its code, and whether the same call may succeed later.
        """
        ...

    async def list_models(self) -> list[ListedModel]:
        """The models that the vendor's list endpoint names.

        Raises:
            ModelError: the vendor does not answer or refuses the key.
        """
        ...


class ProviderConfig(Struct, frozen=True):
    """What a driver is made from."""

    provider_type: str
    base_url: str | None = None
    api_key: str | None = None
    options: JsonObject = {}
