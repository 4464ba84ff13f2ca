"""How much of a conversation fits into a model call, and what the call comes to."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from perdure.capabilities.resolve import ModelChoice, ResolvedAgent
from perdure.domain.history import CHARACTERS_PER_TOKEN
from perdure.domain.messages import Usage
from perdure.domain.model_profiles import ModelProfile, cost_of, window_of
from perdure.engine.generation import place_of
from perdure.engine.run import Run

ANSWER_SHARE = 4
"""Room for the answer: up to a quarter of the window, less where the model's answers are bounded."""

LEAST_SHARE = 8
"""At least an eighth of the window is for the conversation, whatever the prompt and the tools take."""

COST_DIGITS = 10
"""Decimal places of a cost in US dollars: far below a token's price, far above a float's noise."""


def history_budget(
    setting: int, choice: ModelChoice, profile: ModelProfile | None, agent: ResolvedAgent
) -> int:
    """About how many tokens of conversation a call may carry.

    The setting, or what fits into the model's window.
    """
    limits = None if profile is None else profile.limits
    window = window_of(choice.model.context_tokens, profile)
    if window is None:
        return setting
    answer = window // ANSWER_SHARE if limits is None else min(window // ANSWER_SHARE, limits.output)
    free = window - answer - _fixed_tokens(agent)
    return max(1, min(setting, max(free, window // LEAST_SHARE)))


def room(run: Run, agent: ResolvedAgent, choice: ModelChoice) -> int:
    """About how many tokens of conversation the next call may carry.

    Less where the model has refused a longer prompt.
    """
    profile = run.engine.catalog.at_hand(place_of(choice))
    budget = history_budget(run.engine.policy.history_tokens, choice, profile, agent)
    return min(budget, run.conversation.ceilings.get(choice.model.id, budget))


def least_room(run: Run, choice: ModelChoice) -> int:
    """The least that `room` may come to, without measuring the prompt and the tools."""
    profile = run.engine.catalog.at_hand(place_of(choice))
    window = window_of(choice.model.context_tokens, profile)
    setting = run.engine.policy.history_tokens
    least = setting if window is None else min(setting, window // LEAST_SHARE)
    return min(least, run.conversation.ceilings.get(choice.model.id, least))


def _fixed_tokens(agent: ResolvedAgent) -> int:
    """About what the system prompt and the tools take."""
    size = len(agent.system)
    for tool in agent.specs:
        size += len(tool.name) + len(tool.description) + len(msgspec.json.encode(tool.parameters))
    return size // CHARACTERS_PER_TOKEN


def is_wider(run: Run, budget: int) -> bool:
    """Whether a conversation that was cut for a smaller window should be read again.

    Another model takes much more of it.
    """
    cut_to = run.conversation.cut_to
    return cut_to is not None and budget >= 2 * cut_to


def priced(usage: Usage | None, profile: ModelProfile | None) -> Usage | None:
    """The usage with its cost, where the model's price is known."""
    if usage is None or profile is None or profile.cost is None:
        return usage
    return replace(usage, estimated_cost_usd=round(cost_of(profile.cost, usage), COST_DIGITS))
