"""How much of a conversation fits into a model call, and the call's cost."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from perdure.capabilities.resolve import ModelChoice, ResolvedAgent
from perdure.domain.history import CHARACTERS_PER_TOKEN
from perdure.domain.messages import Usage
from perdure.domain.model_profiles import ModelProfile, cost_of, window_of
from perdure.engine.generation import served_model
from perdure.engine.run import Run

ANSWER_SHARE = 4
"""Up to a quarter of the window is reserved for the answer; less if the model's maximum output is lower."""

LEAST_SHARE = 8
"""The conversation gets at least an eighth of the window, however long the prompt and the tools are."""

COST_DIGITS = 10
"""Decimal places of a cost in US dollars: finer than a token's price, coarser than rounding errors."""


def history_budget(
    setting: int, choice: ModelChoice, profile: ModelProfile | None, agent: ResolvedAgent
) -> int:
    """Estimate how many tokens of conversation fit into a call.

    Args:
        setting: the upper limit, in tokens; what fits into the model's window may be less.
    """
    limits = None if profile is None else profile.limits
    window = window_of(choice.model.context_tokens, profile)
    if window is None:
        return setting
    answer = window // ANSWER_SHARE if limits is None else min(window // ANSWER_SHARE, limits.output)
    free = window - answer - _fixed_tokens(agent)
    return max(1, min(setting, max(free, window // LEAST_SHARE)))


def conversation_budget(run: Run, agent: ResolvedAgent, choice: ModelChoice) -> int:
    """Estimate how many tokens of conversation fit into the next call.

    Lower if the model has rejected a longer prompt before.
    """
    profile = run.engine.catalog.at_hand(served_model(choice))
    budget = history_budget(run.engine.policy.history_tokens, choice, profile, agent)
    return min(budget, run.conversation.ceilings.get(choice.model.id, budget))


def smallest_budget(run: Run, choice: ModelChoice) -> int:
    """A lower bound of `conversation_budget` that does not measure the prompt and the tools, so is cheap."""
    profile = run.engine.catalog.at_hand(served_model(choice))
    window = window_of(choice.model.context_tokens, profile)
    setting = run.engine.policy.history_tokens
    smallest = setting if window is None else min(setting, window // LEAST_SHARE)
    return min(smallest, run.conversation.ceilings.get(choice.model.id, smallest))


def _fixed_tokens(agent: ResolvedAgent) -> int:
    """Estimate the tokens of the system prompt and the tools."""
    size = len(agent.system)
    for tool in agent.specs:
        size += len(tool.name) + len(tool.description) + len(msgspec.json.encode(tool.parameters))
    return size // CHARACTERS_PER_TOKEN


def should_reread(run: Run, budget: int) -> bool:
    """Whether to reread a conversation that was cut for a smaller window: now at least twice as much fits."""
    cut_to = run.conversation.cut_to
    return cut_to is not None and budget >= 2 * cut_to


def with_cost(usage: Usage | None, profile: ModelProfile | None) -> Usage | None:
    """Add the cost to the usage, if the model's price is known."""
    if usage is None or profile is None or profile.cost is None:
        return usage
    return replace(usage, estimated_cost_usd=round(cost_of(profile.cost, usage), COST_DIGITS))
