"""Model profiles: a model's abilities, limits and prices."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from perdure.domain.messages import Usage

Modality = Literal["text", "image", "audio", "video", "pdf"]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
ModelVendor = Literal[
    "openai", "anthropic", "google", "nvidia", "qwen", "microsoft", "minimax", "moonshot", "xai", "llmsim"
]

TOKENS_PER_PRICE = 1_000_000
"""Prices are US dollars for this many tokens, as vendors quote them."""


_INPUT = Meta(description="The price of a million input tokens, in US dollars.")
_OUTPUT = Meta(description="The price of a million output tokens, in US dollars.")
_CACHE_READ = Meta(
    description=(
        "The price of a million input tokens read from the cache, in US dollars. Default: as `input`."
    )
)
_CACHE_WRITE = Meta(
    description=(
        "The price of a million input tokens written to the cache, in US dollars. Default: as `input`."
    )
)


class CostTier(Struct, frozen=True, omit_defaults=True):
    """Prices for calls with more input than `above_tokens`; they apply to the whole call."""

    above_tokens: Annotated[
        int, Meta(description="The prompt size in tokens from which these prices apply to the whole call.")
    ]
    input: Annotated[float, _INPUT]
    output: Annotated[float, _OUTPUT]
    cache_read: Annotated[float | None, _CACHE_READ] = None
    cache_write: Annotated[float | None, _CACHE_WRITE] = None


class ModelCost(Struct, frozen=True, omit_defaults=True):
    """Prices in US dollars per million tokens. Cached tokens without a price of their own cost as input."""

    input: Annotated[float, _INPUT]
    output: Annotated[float, _OUTPUT]
    cache_read: Annotated[float | None, _CACHE_READ] = None
    cache_write: Annotated[float | None, _CACHE_WRITE] = None
    cost_tiers: Annotated[
        tuple[CostTier, ...], Meta(description="Prices for longer prompts, by ascending `above_tokens`.")
    ] = ()


class ModelLimits(Struct, frozen=True, omit_defaults=True):
    """A model's limits, in tokens."""

    context: Annotated[
        int, Meta(description="The size of the context window in tokens: prompt and answer together.")
    ]
    output: Annotated[int, Meta(description="The maximum size of an answer, in tokens.")]
    input: Annotated[
        int | None,
        Meta(description="The maximum size of a prompt in tokens, if it has a limit of its own."),
    ] = None


class ModelModalities(Struct, frozen=True):
    """The kinds of content that a model reads and writes."""

    input: Annotated[tuple[Modality, ...], Meta(description="The kinds of content that the model reads.")]
    output: Annotated[tuple[Modality, ...], Meta(description="The kinds of content that the model writes.")]


class EffortValue(Struct, frozen=True):
    """An accepted value of the reasoning effort, with its display name."""

    value: Annotated[ReasoningEffort, Meta(description="The value, as `effort` accepts it.")]
    name: Annotated[str, Meta(description="The name of the value, for people.")]


class EffortConfig(Struct, frozen=True):
    """The values of the reasoning effort that a model accepts."""

    values: Annotated[tuple[EffortValue, ...], Meta(description="The values that the model accepts.")]
    default: Annotated[ReasoningEffort, Meta(description="The value that applies if none is given.")]


class ModelProfile(Struct, frozen=True):
    """What is known about a model, independent of its provider except for the prices."""

    name: Annotated[str, Meta(description="The model's name, for people.")]
    family: Annotated[str, Meta(description="The family of models that it belongs to.")]
    attachment: Annotated[bool, Meta(description="Whether the model reads images or files.")]
    reasoning: Annotated[bool, Meta(description="Whether the model can reason before it answers.")]
    temperature: Annotated[bool, Meta(description="Whether the model accepts a temperature.")]
    tool_call: Annotated[bool, Meta(description="Whether the model can call tools.")]
    structured_output: Annotated[
        bool, Meta(description="Whether the model can be forced to follow a JSON Schema.")
    ]
    open_weights: Annotated[bool, Meta(description="Whether the model's weights are public.")]
    supports_phases: Annotated[
        bool, Meta(description="Whether the model should receive the `phase` of its earlier messages.")
    ] = False
    description: Annotated[str | None, Meta(description="What the model is good for.")] = None
    limits: Annotated[ModelLimits | None, Meta(description="The model's limits, in tokens.")] = None
    modalities: Annotated[
        ModelModalities | None, Meta(description="The kinds of content that the model reads and writes.")
    ] = None
    reasoning_effort: Annotated[
        EffortConfig | None, Meta(description="The accepted values of the reasoning effort.")
    ] = None
    cost: Annotated[ModelCost | None, Meta(description="The model's prices at this provider.")] = None


class CallPrice(Struct, frozen=True, omit_defaults=True):
    """The prices of one call, in US dollars per million tokens."""

    input: Annotated[float, _INPUT]
    output: Annotated[float, _OUTPUT]
    cache_read: Annotated[float | None, _CACHE_READ] = None
    cache_write: Annotated[float | None, _CACHE_WRITE] = None


def price_of(cost: ModelCost, input_tokens: int) -> CallPrice:
    """Return the prices of a call with so much input."""
    price: ModelCost | CostTier = cost
    for tier in cost.cost_tiers:
        if input_tokens > tier.above_tokens:
            price = tier
    return CallPrice(price.input, price.output, price.cache_read, price.cache_write)


def cost_of(cost: ModelCost, usage: Usage) -> float:
    """Return a call's cost in US dollars. `usage.input_tokens` includes the cached tokens (see `Usage`)."""
    price = price_of(cost, usage.input_tokens)
    read, written = usage.cache_read_tokens or 0, usage.cache_creation_tokens or 0
    plain = max(usage.input_tokens - read - written, 0)
    read_price = price.input if price.cache_read is None else price.cache_read
    write_price = price.input if price.cache_write is None else price.cache_write
    total = (
        plain * price.input + read * read_price + written * write_price + usage.output_tokens * price.output
    )
    return total / TOKENS_PER_PRICE


def window_of(listed: int | None, profile: ModelProfile | None) -> int | None:
    """Return a model's context window in tokens: from its provider's list, else from its profile."""
    return listed or (profile.limits.context if profile is not None and profile.limits is not None else None)
