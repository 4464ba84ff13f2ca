"""A 503 says whether the request was carried out, and how to repeat it."""

from __future__ import annotations

import pytest

from perdure.api.kernel.problems import explain_outcome, problem_of
from perdure.domain.errors import Conflict, RateLimited, Unavailable, Unreadable

LOST = Unavailable("the answer to the commit was lost", unknown=True)
BUSY = Unavailable("the database is too busy")


@pytest.mark.parametrize(
    ("error", "method", "keyed", "outcome", "words"),
    [
        (BUSY, "GET", False, "unchanged", "too busy. Try again."),
        (BUSY, "POST", False, "unchanged", "Nothing was changed: try again."),
        (BUSY, "DELETE", False, "unchanged", "Nothing was changed: try again."),
        (LOST, "POST", True, "unknown", "repeat it with the same Idempotency-Key."),
        (LOST, "POST", False, "unknown", "look before you repeat it"),
        (LOST, "PUT", False, "unknown", "may or may not have been done: repeat it."),
        (LOST, "PATCH", True, "unknown", "repeat it with the same Idempotency-Key."),
        (Unreadable("no key."), "POST", False, "unchanged", "no key. Nothing was changed."),
        (Unreadable("no key"), "GET", False, "unchanged", "no key"),
        (Conflict("taken"), "POST", True, None, "taken"),
        (RateLimited("slowly"), "POST", True, None, "slowly"),
    ],
)
def test_a_refusal_tells_what_happened_to_the_request(
    error: Unavailable, method: str, keyed: bool, outcome: str | None, words: str
) -> None:
    problem = explain_outcome(problem_of(error, "/v1/sessions"), method, keyed=keyed)
    assert problem.outcome == outcome
    assert problem.retryable == (True if error.retryable else None)
    assert problem.detail.endswith(words) or words in problem.detail
    assert problem.error.message == problem.detail
