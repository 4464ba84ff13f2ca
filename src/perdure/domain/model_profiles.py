"""What is known about a model: what it can do, how much it takes, what it costs."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from perdure.domain.messages import Usage

Modality = Literal["text", "image", "audio", "video", "pdf"]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
ModelVendor = Literal[
    "openai", "anthropic", "google", "nvidia", "qwen", "microsoft", "minimax", "moonshot", "xai", "llmsim"
]

TOKENS_PER_PRICE = 1_000_000
"""Prices are US dollars for this many tokens, as vendors quote them."""


class CostTier(Struct, frozen=True, omit_defaults=True):
    """Other prices for calls with more input than `above_tokens`; they hold for the whole call."""

    above_tokens: int
    input: float
    output: float
    cache_read: float | None = None
    cache_write: float | None = None


class ModelCost(Struct, frozen=True, omit_defaults=True):
    """US dollars for a million tokens. Without a price of their own, cached tokens cost what input costs.

    Attributes:
        cost_tiers: by `above_tokens`, the lowest first.
    """

    input: float
    output: float
    cache_read: float | None = None
    cache_write: float | None = None
    cost_tiers: tuple[CostTier, ...] = ()


class ModelLimits(Struct, frozen=True, omit_defaults=True):
    """Tokens: of prompt and answer together, and of the answer.

    `input` where the prompt has a bound of its own.
    """

    context: int
    output: int
    input: int | None = None


class ModelModalities(Struct, frozen=True):
    """What goes in and what comes out."""

    input: tuple[Modality, ...]
    output: tuple[Modality, ...]


class EffortValue(Struct, frozen=True):
    """A word for how hard to think, and what people call it."""

    value: ReasoningEffort
    name: str


class EffortConfig(Struct, frozen=True):
    """The words that a model takes for how hard to think."""

    values: tuple[EffortValue, ...]
    default: ReasoningEffort


class ModelProfile(Struct, frozen=True):
    """A model, whoever serves it.

    Attributes:
        attachment: whether it reads images or files.
        temperature: whether it takes one.
        supports_phases: whether it wants to see its earlier messages' phase.
    """

    name: str
    family: str
    attachment: bool
    reasoning: bool
    temperature: bool
    tool_call: bool
    structured_output: bool
    open_weights: bool
    supports_phases: bool = False
    description: str | None = None
    limits: ModelLimits | None = None
    modalities: ModelModalities | None = None
    reasoning_effort: EffortConfig | None = None
    cost: ModelCost | None = None


def cost_of(cost: ModelCost, usage: Usage) -> float:
    """What a call comes to, in US dollars.

    `usage.input_tokens` counts the cached tokens too (see `Usage`).
    """
    price: ModelCost | CostTier = cost
    for tier in cost.cost_tiers:
        if usage.input_tokens > tier.above_tokens:
            price = tier
    read, written = usage.cache_read_tokens or 0, usage.cache_creation_tokens or 0
    plain = max(usage.input_tokens - read - written, 0)
    read_price = price.input if price.cache_read is None else price.cache_read
    write_price = price.input if price.cache_write is None else price.cache_write
    total = (
        plain * price.input + read * read_price + written * write_price + usage.output_tokens * price.output
    )
    return total / TOKENS_PER_PRICE


def window_of(listed: int | None, profile: ModelProfile | None) -> int | None:
    """A model's window in tokens.

    The one that its provider's own list names, else the one that it is known for.
    """
    return listed or (profile.limits.context if profile is not None and profile.limits is not None else None)
