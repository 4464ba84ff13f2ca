"""Chains of requests that the document suggests: what one answer names is used in the next, over everything there is."""

from __future__ import annotations

import os
from typing import Any

import hypothesis
import schemathesis

from tests.journeys.test_openapi import NOT_HELD_AGAINST_IT, SCHEMA, Served, served

__all__ = ["served"]

CHAINS = int(os.environ.get("PERDURE_TEST_CHAINS", "60"))
STEPS = 12


def test_chains_of_requests_hold_what_the_document_says(served: Served) -> None:
    class Chain(SCHEMA.as_state_machine()):  # type: ignore[misc]
        def get_call_kwargs(self, case: schemathesis.Case) -> dict[str, Any]:
            return {"base_url": served.url, "headers": served.headers}

        def validate_response(self, response: Any, case: schemathesis.Case, **kwargs: Any) -> None:
            case.validate_response(response, excluded_checks=NOT_HELD_AGAINST_IT)

    Chain.run(
        settings=hypothesis.settings(
            max_examples=CHAINS,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
    )
