"""The budget of a conversation in a model call, and the cost of a call."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.capabilities.model_choice import ModelChoice
from perdure.domain.messages import Usage
from perdure.domain.model_profiles import ModelCost, ModelLimits, ModelProfile
from perdure.domain.money import with_cost
from perdure.engine.budget import history_budget
from perdure.llm.driver import ToolSpec, fixed_tokens
from perdure.store.providers import ModelRow

SETTING = 100_000


def choice(window: int | None) -> Any:
    """The choice of a model with this window in its provider's list."""
    row = ModelRow("model_1", "org_1", "provider_1", "m", "M", "[]", 1, 0, "discovered", window, None, 0, 0)
    return ModelChoice(row, None, None)  # type: ignore[arg-type]


def profile(context: int | None = None, output: int = 8_000, cost: ModelCost | None = None) -> ModelProfile:
    limits = None if context is None else ModelLimits(context, output)
    return ModelProfile("m", "m", False, False, True, True, False, False, limits=limits, cost=cost)


def fixed(system: str = "", *tools: ToolSpec) -> int:
    """The tokens of an agent with this prompt and these tools."""
    return fixed_tokens(system, tools)


@pytest.mark.parametrize(
    ("listed", "known", "expected"),
    [
        (None, None, SETTING),
        (None, profile(), SETTING),
        (None, profile(400_000, 128_000), SETTING),
        (None, profile(100_000, 8_000), 92_000),
        (None, profile(8_192, 8_192), 6_144),
        (8_000, None, 6_000),
        (8_000, profile(400_000, 128_000), 6_000),
        (64_000, profile(8_000, 4_000), 60_000),
    ],
    ids=[
        "no window is known",
        "a profile without one",
        "a window larger than the setting",
        "the longest answer is reserved",
        "but at most a quarter",
        "the provider's list names one",
        "the provider's list takes precedence over the profile",
        "also with a larger window",
    ],
)
def test_the_window_bounds_the_history(listed: int | None, known: ModelProfile | None, expected: int) -> None:
    assert history_budget(SETTING, choice(listed), known, fixed()) == expected


def test_the_prompt_and_the_tools_reduce_the_budget() -> None:
    tool = ToolSpec("t" * 100, "d" * 1_900, {"type": "object", "properties": {}})
    plain = history_budget(SETTING, choice(8_000), None, fixed())
    assert history_budget(SETTING, choice(8_000), None, fixed("x" * 4_000)) == plain - 1_000
    assert plain - 520 < history_budget(SETTING, choice(8_000), None, fixed("", tool)) < plain - 500


def test_the_conversation_has_a_minimal_budget_however_long_the_prompt_is() -> None:
    assert history_budget(SETTING, choice(8_000), None, fixed("x" * 1_000_000)) == 1_000
    assert history_budget(SETTING, choice(1), None, fixed("x" * 1_000_000)) == 1


def test_usage_has_a_cost_if_the_price_is_known() -> None:
    usage = Usage(1_000, 100, cache_read_tokens=500)
    cost = ModelCost(0.25, 2.0, 0.025)
    assert with_cost(usage, profile(cost=cost)) == Usage(1_000, 100, 500, None, 0.0003375)
    assert with_cost(usage, profile()) is usage
    assert with_cost(usage, None) is usage
    assert with_cost(None, profile(cost=cost)) is None
