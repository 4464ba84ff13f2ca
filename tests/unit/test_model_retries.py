"""How often a model call is retried."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from perdure.domain.errors import ModelError
from perdure.domain.redaction import Redactor
from perdure.engine.context import Engine, Policy
from perdure.engine.generation import call_with_retries
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
