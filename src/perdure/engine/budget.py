"""How much of a conversation fits into a model call, and the call's cost."""

from __future__ import annotations

import math

from perdure.capabilities.model_choice import ModelChoice
from perdure.capabilities.resolve import ResolvedAgent
from perdure.domain.derived_messages import correction_message, result_message
from perdure.domain.events import (
    NewEvent,
    OutputMessageCompletedData,
    OutputRejectedData,
    ToolCompletedData,
)
from perdure.domain.history import Conversation, estimate_tokens
from perdure.domain.messages import Message
from perdure.domain.model_profiles import ModelProfile, window_of
from perdure.domain.turn_queries import schema_ahead
from perdure.engine.generation import served_model
from perdure.engine.output_formats import TypedOutput
from perdure.engine.run import Run
from perdure.llm.catalog import LearnedLimits

ANSWER_SHARE = 4
"""Up to a quarter of the window is reserved for the answer; less if the model's maximum output is lower."""

LEAST_SHARE = 8
"""The conversation gets at least an eighth of the window, however long the prompt and the tools are."""

MAX_FACTOR = 4.0
"""How far a vendor's count of tokens may exceed the estimate. A lower count never raises the budget: servers
that cut a prompt silently count only what they kept."""

STEADY = 500
"""Tokens added to both counts: what a vendor adds to a short prompt says nothing about a long one."""


def history_budget(
    setting: int,
    choice: ModelChoice,
    profile: ModelProfile | None,
    fixed: int,
    *,
    learned: int | None = None,
    factor: float = 1.0,
) -> int:
    """Estimate how many tokens of conversation fit into a call.

    Args:
        setting: the upper limit, in tokens; what fits into the model's window may be less.
        fixed: the tokens of the system prompt and the tools.
        learned: the window that the model's errors named, in tokens.
        factor: the tokens that the vendor counts for each estimated one.
    """
    limits = None if profile is None else profile.limits
    window = _window(choice, profile, learned)
    if window is None:
        return max(1, int(setting / factor))
    answer = window // ANSWER_SHARE if limits is None else min(window // ANSWER_SHARE, limits.output)
    free = window - answer - int(fixed * factor)
    return max(1, int(min(setting, max(free, window // LEAST_SHARE)) / factor))


def _window(choice: ModelChoice, profile: ModelProfile | None, learned: int | None) -> int | None:
    known = window_of(choice.model.context_tokens, profile)
    return learned if known is None else min(known, learned or known)


def learned_limits(run: Run, choice: ModelChoice) -> LearnedLimits:
    """Return the limits that the model named when it refused a request.

    This process knows those since its start, and the session's log those from before.
    """
    known = run.engine.catalog.learned(served_model(choice))
    logged = run.conversation.adaptations.get(choice.model.id)
    if logged is None:
        return known
    return LearnedLimits(known.window or logged.context_tokens, known.output or logged.output_tokens)


def conversation_budget(run: Run, agent: ResolvedAgent, choice: ModelChoice) -> int:
    """Estimate how many tokens of conversation fit into the next call.

    Lower if the model has rejected a longer prompt before, or if its vendor counts more than estimated.
    """
    served, catalog = served_model(choice), run.engine.catalog
    fixed = _fixed_tokens(run, agent)
    budget = history_budget(
        run.engine.policy.history_tokens,
        choice,
        catalog.at_hand(served),
        fixed,
        learned=learned_limits(run, choice).window,
        factor=_factor(run, choice, fixed),
    )
    return min(budget, run.conversation.ceilings.get(choice.model.id, budget))


def smallest_budget(run: Run, choice: ModelChoice) -> int:
    """A lower bound of `conversation_budget` that does not measure the prompt and the tools, so is cheap."""
    served, catalog = served_model(choice), run.engine.catalog
    window = _window(choice, catalog.at_hand(served), learned_limits(run, choice).window)
    setting = run.engine.policy.history_tokens
    smallest = setting if window is None else min(setting, window // LEAST_SHARE)
    smallest = int(smallest / _factor(run, choice, 0))
    return min(smallest, run.conversation.ceilings.get(choice.model.id, smallest))


def estimated_input(run: Run, agent: ResolvedAgent, choice: ModelChoice) -> int:
    """Estimate the input tokens of a call with the whole conversation."""
    fixed = _fixed_tokens(run, agent)
    return int((fixed + run.conversation.tokens()) * _factor(run, choice, fixed))


def expected_input(run: Run, agent: ResolvedAgent, choice: ModelChoice, queued: Message | None = None) -> int:
    """Estimate the input tokens of the next call: with what it adds, and without what has no room.

    Args:
        queued: the message of the next turn, if it waited for that: the history does not have it yet.
    """
    added = added_tokens(run) + (0 if queued is None else estimate_tokens(queued))
    history = run.conversation.tokens() + added
    if history > smallest_budget(run, choice):
        history = min(history, max(conversation_budget(run, agent, choice), added))
    fixed = _fixed_tokens(run, agent)
    return counted(run, choice, fixed + history, fixed)


def counted(run: Run, choice: ModelChoice, tokens: int, fixed: int = 0) -> int:
    """Return about how many tokens a model's vendor counts.

    Args:
        tokens: the estimate, which does not know the vendor.
        fixed: those of the system prompt and the tools of the session's calls.
    """
    return math.ceil(tokens * _factor(run, choice, fixed))


def added_tokens(run: Run) -> int:
    """Estimate the tokens that the next model call adds to the history."""
    conversation = run.conversation
    unlogged = sum(_tokens_of(event, conversation) for event in run.unlogged)
    return conversation.waiting_tokens() + unlogged


def _tokens_of(event: NewEvent, conversation: Conversation) -> int:
    match event.data:
        case ToolCompletedData():
            return conversation.result_tokens(result_message(event.data, 0))
        case OutputMessageCompletedData(error_code=None):
            return estimate_tokens(event.data.message)
        case OutputRejectedData():
            return estimate_tokens(correction_message(event.data, 0))
    return 0


def typed_output(run: Run, agent: ResolvedAgent) -> TypedOutput | None:
    """What is set for the final answer: by the message that the turn is for, the session, or the agent."""
    schema = schema_ahead(run.state)
    schema = agent.output_schema if schema is None else schema
    return None if schema is None else run.engine.outputs.typed(schema, agent.names)


def _fixed_tokens(run: Run, agent: ResolvedAgent) -> int:
    output = typed_output(run, agent)
    return agent.fixed_tokens if output is None else agent.fixed_tokens + output.tokens


def _factor(run: Run, choice: ModelChoice, fixed: int) -> float:
    """The tokens that the vendor counted for each estimated one, in the last call of the model.

    Args:
        fixed: the estimated tokens of the system prompt and the tools.
    """
    counted, messages = run.conversation.measured.get(choice.model.id, (0, 0))
    factor = (counted + STEADY) / (messages + fixed + STEADY)
    return min(max(factor, 1.0), MAX_FACTOR)


def should_reread(run: Run, budget: int) -> bool:
    """Whether to reread a conversation that was cut for a smaller window: now at least twice as much fits."""
    cut_to = run.conversation.cut_to
    return cut_to is not None and budget >= 2 * cut_to
