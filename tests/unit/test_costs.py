"""The cost of a model call."""

from __future__ import annotations

import pytest

from perdure.domain.messages import Usage
from perdure.domain.model_profiles import CostTier, ModelCost, cost_of

PLAIN = ModelCost(input=3.0, output=15.0)
CACHED = ModelCost(input=3.0, output=15.0, cache_read=0.3, cache_write=3.75)
TIERED = ModelCost(
    input=1.0,
    output=10.0,
    cache_read=0.1,
    cost_tiers=(CostTier(200_000, 2.0, 15.0, 0.2), CostTier(500_000, 4.0, 30.0, 0.4)),
)


@pytest.mark.parametrize(
    ("cost", "usage", "dollars"),
    [
        (PLAIN, Usage(1_000_000, 1_000_000), 18.0),
        (PLAIN, Usage(0, 0), 0.0),
        (PLAIN, Usage(1_000_000, 0, cache_read_tokens=600_000, cache_creation_tokens=100_000), 3.0),
        (CACHED, Usage(1_000_000, 0, cache_read_tokens=600_000), 0.4 * 3.0 + 0.6 * 0.3),
        (CACHED, Usage(1_000_000, 0, cache_creation_tokens=600_000), 0.4 * 3.0 + 0.6 * 3.75),
        (CACHED, Usage(1_000_000, 100_000, 500_000, 500_000), 0.5 * 0.3 + 0.5 * 3.75 + 0.1 * 15.0),
        (TIERED, Usage(200_000, 0), 0.2),
        (TIERED, Usage(200_001, 100_000), 0.200001 * 2.0 + 0.1 * 15.0),
        (TIERED, Usage(1_000_000, 0, cache_read_tokens=1_000_000), 0.4),
        (CACHED, Usage(10, 0, cache_read_tokens=1_000_000), 0.3),
    ],
    ids=[
        "input and output",
        "nothing",
        "cached tokens cost what others cost where no price says otherwise",
        "reads from the cache",
        "writes to the cache",
        "all together",
        "up to the bound of a tier",
        "beyond it, for the whole call",
        "the highest tier that is reached",
        "a vendor that does not count what it had cached as input",
    ],
)
def test_a_call_costs_what_its_tokens_cost(cost: ModelCost, usage: Usage, dollars: float) -> None:
    assert cost_of(cost, usage) == pytest.approx(dollars)
