"""How often a model call is retried."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from perdure.domain.errors import ModelError
from perdure.domain.redaction import Redactor
from perdure.engine.context import Engine, Policy
from perdure.engine.generation import call_with_retries
from perdure.engine.patience import ATTEMPTS_BEFORE_FALLBACK, HOLD_BEFORE_FALLBACK, Patience, may_pass
from perdure.llm.driver import ModelResponse


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def elapsed(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


@pytest.mark.parametrize(
    ("code", "seconds", "attempts"),
    [
        ("provider_timeout", 1_800.0, 1),
        ("provider_timeout", 600.0, 1),
        ("provider_timeout", 300.0, 2),
        ("provider_timeout", 60.0, 5),
        ("provider_bad_response", 900.0, 5),
    ],
)
async def test_a_mute_server_is_not_asked_for_hours(code: str, seconds: float, attempts: int) -> None:
    clock = Clock()
    engine: Any = SimpleNamespace(policy=Policy(), clock=clock, jitter=lambda: 0.0)

    async def generate() -> ModelResponse:
        clock.time += seconds
        raise ModelError("silence", code=code, transient=True)

    made = await call_with_retries(cast("Engine", engine), generate, redactor=Redactor({}))
    assert (made.response, made.count) == (None, attempts)


@pytest.mark.parametrize(
    ("errors", "attempts", "waited"),
    [
        ([("provider_unavailable", None)] * 3, 2, 1.0),
        ([("provider_rate_limited", 5.0), ("provider_unavailable", None)], 2, 5.0),
        ([("provider_rate_limited", 6.0)], 1, 0.0),
        ([("provider_timeout", None)], 1, 0.0),
    ],
)
async def test_a_model_with_an_alternative_is_given_up_within_seconds(
    errors: list[tuple[str, float | None]], attempts: int, waited: float
) -> None:
    clock, left = Clock(), iter(errors)
    engine: Any = SimpleNamespace(policy=Policy(), clock=clock, jitter=lambda: 0.0)

    async def generate() -> ModelResponse:
        code, wait = next(left)
        clock.time += 1.0
        raise ModelError("no", code=code, transient=True, retry_after=wait)

    patience = Patience(ATTEMPTS_BEFORE_FALLBACK, HOLD_BEFORE_FALLBACK, 0.0)
    made = await call_with_retries(cast("Engine", engine), generate, redactor=Redactor({}), patience=patience)
    assert (made.count, made.waited) == (attempts, waited)


@pytest.mark.parametrize(
    ("code", "status", "transient", "passes"),
    [
        ("provider_rate_limited", 429, True, True),
        ("provider_unavailable", 529, True, True),
        ("provider_unavailable", None, False, True),  # its certificate is not valid
        ("provider_bad_response", None, True, True),
        ("provider_bad_response", 200, False, False),
        ("quota_exceeded", 429, False, True),
        ("quota_exceeded", 400, False, False),
        ("invalid_model_request", 400, False, False),
        ("provider_auth", 401, False, False),
        ("context_length_exceeded", 400, False, False),
        ("content_filtered", None, False, False),
        ("empty_answer", None, False, False),
    ],
)
def test_only_failures_of_the_server_are_for_another_model(
    code: str, status: int | None, transient: bool, passes: bool
) -> None:
    assert may_pass(ModelError("no", code=code, transient=transient, status=status)) is passes
