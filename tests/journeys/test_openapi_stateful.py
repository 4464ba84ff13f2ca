"""Chains of requests that the document suggests.

What one answer names is used in the next, over everything there is.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from hypothesis.errors import FlakyStrategyDefinition

from tests.journeys.test_openapi import Served, document, schema, served
from tests.soak import SCALE, amounts

if TYPE_CHECKING:
    from schemathesis import Case
    from schemathesis.schemas import BaseSchema

__all__ = ["document", "schema", "served"]

pytestmark = pytest.mark.unmeasured  # the server is measured

CHAINS = 10
"""In each round."""
STEPS = 12


@pytest.mark.parametrize("rounds", amounts(1, 8 * SCALE))
def test_chains_of_requests_hold_what_the_document_says(
    served: Served, schema: BaseSchema, rounds: int
) -> None:
    from tests.journeys.generated import not_held_against_it

    begun: list[int] = []
    wrong: list[str] = []

    class Chain(schema.as_state_machine()):  # type: ignore[misc]
        def setup(self) -> None:
            begun.append(1)

        def get_call_kwargs(self, case: Case) -> dict[str, Any]:
            return {"base_url": served.url, "headers": served.headers}

        def validate_response(self, response: Any, case: Case, **kwargs: Any) -> None:
            try:
                case.validate_response(
                    response, excluded_checks=not_held_against_it(case, response.status_code)
                )
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
