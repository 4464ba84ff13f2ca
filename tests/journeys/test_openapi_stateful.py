"""Chains of requests that the document suggests.

What one answer names is used in the next, over everything there is.
"""

from __future__ import annotations

import contextlib
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis.errors import FlakyStrategyDefinition

from tests.journeys.test_openapi import NOT_HELD_AGAINST_IT, SCHEMA, Served, served
from tests.soak import SCALE, amounts

__all__ = ["served"]

pytestmark = pytest.mark.no_cover  # the server is measured

CHAINS = 10
"""In each round."""
STEPS = 12


@pytest.mark.parametrize("rounds", amounts(1, 24 * SCALE))
def test_chains_of_requests_hold_what_the_document_says(served: Served, rounds: int) -> None:
    begun: list[int] = []
    wrong: list[str] = []

    class Chain(SCHEMA.as_state_machine()):  # type: ignore[misc]
        def setup(self) -> None:
            begun.append(1)

        def get_call_kwargs(self, case: schemathesis.Case) -> dict[str, Any]:
            return {"base_url": served.url, "headers": served.headers}

        def validate_response(self, response: Any, case: schemathesis.Case, **kwargs: Any) -> None:
            try:
                case.validate_response(response, excluded_checks=NOT_HELD_AGAINST_IT)
            except Exception as error:
                wrong.append(str(error)[:2000])
                raise

    settings = hypothesis.settings(
        max_examples=CHAINS,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    for number in range(rounds):
        # The server has state: the second of two equal requests gets another answer (a name is taken), which
        # the engine reports as a flaky test. That ends a round, but the answers are correct.
        with contextlib.suppress(FlakyStrategyDefinition):
            hypothesis.seed(number)(Chain).run(settings=settings)
        assert wrong == []
    assert len(begun) >= rounds * CHAINS // 3
