"""Circuit breakers: when they open, whom they let probe, and what they remember."""

from __future__ import annotations

import pytest

from perdure.domain.errors import ModelError
from perdure.domain.ids import ModelId
from perdure.llm.breakers import FIRST_OPEN, FORGOTTEN, MAX_BREAKERS, MOST_OPEN, PROBE, THRESHOLD, Breakers

MODEL = ModelId("model_1")
FAR = 60.0


class Time:
    """A breaker's model, and the time in seconds."""

    def __init__(self) -> None:
        self.breakers = Breakers()
        self.at = 1_000.0

    @property
    def now(self) -> int:
        return round(self.at * 1_000_000)

    def fail(self, times: int = 1, retry_after: float | None = None) -> None:
        error = ModelError("no", code="provider_unavailable", transient=True, retry_after=retry_after)
        for _ in range(times):
            self.breakers.failed(MODEL, 1, error, error.message, self.now, FAR)

    def state(self, version: int = 1) -> str:
        return self.breakers.state(MODEL, version, self.now)

    def admits(self) -> bool:
        return self.breakers.admits(MODEL, 1, self.now)


@pytest.fixture
def time() -> Time:
    return Time()


def test_it_opens_after_failures_in_a_row(time: Time) -> None:
    time.fail(THRESHOLD - 1)
    assert (time.state(), time.admits()) == ("closed", True)
    time.breakers.succeeded(MODEL, 1)
    time.fail(THRESHOLD - 1)
    assert time.state() == "closed"
    time.fail()
    assert (time.state(), time.admits()) == ("open", False)


def test_one_probe_at_a_time_decides_what_comes_next(time: Time) -> None:
    time.fail(THRESHOLD)
    time.at += FIRST_OPEN
    assert time.state() == "half_open"
    assert time.breakers.would_admit(MODEL, 1, time.now)
    assert (time.admits(), time.admits()) == (True, False)
    time.fail()
    assert time.state() == "open"
    time.at += FIRST_OPEN
    assert time.state() == "open"  # twice as long
    time.at += FIRST_OPEN
    assert time.admits()
    time.breakers.succeeded(MODEL, 1)
    assert (time.state(), time.admits(), time.admits()) == ("closed", True, True)


def test_it_stays_open_for_a_limited_time(time: Time) -> None:
    time.fail(THRESHOLD)
    for _ in range(9):
        time.at += MOST_OPEN
        assert time.admits()
        time.fail()
    time.at += MOST_OPEN - 1
    assert time.state() == "open"
    time.at += 1
    assert time.state() == "half_open"


def test_a_probe_that_is_never_heard_of_again_is_replaced(time: Time) -> None:
    time.fail(THRESHOLD)
    time.at += FIRST_OPEN
    assert time.admits()
    time.at += PROBE - 1
    assert not time.admits()
    time.at += 1
    assert time.admits()


def test_a_wait_far_away_opens_it_at_once_until_then(time: Time) -> None:
    time.fail(retry_after=FAR)
    assert time.state() == "closed"
    time.fail(retry_after=3_600.0)
    time.at += 3_599
    assert time.state() == "open"
    time.at += 1
    assert time.state() == "half_open"


def test_failures_while_it_is_open_do_not_prolong_it(time: Time) -> None:
    time.fail(THRESHOLD)
    time.at += FIRST_OPEN - 1
    time.fail(3)
    time.at += 1
    assert time.state() == "half_open"


def test_a_change_of_the_provider_closes_it(time: Time) -> None:
    time.fail(THRESHOLD)
    assert time.state(version=2) == "closed"
    assert time.breakers.health(MODEL, 2, "gpt", time.now) is None


def test_a_call_from_before_a_change_says_nothing_about_the_provider_after_it(time: Time) -> None:
    error = ModelError("no", code="provider_unavailable", transient=True)
    for _ in range(THRESHOLD):
        time.breakers.failed(MODEL, 2, error, "no", time.now, FAR)
    time.fail()
    assert time.state(version=2) == "open"
    time.breakers.succeeded(MODEL, 1)
    assert time.state(version=2) == "open"
    time.breakers.succeeded(MODEL, 2)
    assert time.state(version=2) == "closed"


def test_one_that_nobody_tries_is_forgotten(time: Time) -> None:
    time.fail(THRESHOLD)
    time.at += FIRST_OPEN + FORGOTTEN - 1
    assert (time.state(), time.breakers.count("half_open", time.now)) == ("half_open", 1)
    time.at += 1
    assert (time.state(), time.breakers.count("half_open", time.now)) == ("closed", 0)
    time.fail()
    assert time.state() == "closed"


def test_a_clock_that_goes_back_does_not_keep_it_open(time: Time) -> None:
    time.fail(THRESHOLD)
    time.at -= 500
    assert time.state() == "half_open"


def test_it_shows_the_last_failure(time: Time) -> None:
    assert time.breakers.health(MODEL, 1, "gpt", time.now) is None
    time.fail(THRESHOLD)
    shown = time.breakers.health(MODEL, 1, "gpt", time.now)
    assert shown is not None
    assert (shown.state, shown.failures, shown.error_code, shown.error) == (
        *("open", THRESHOLD, "provider_unavailable", "no"),
    )
    assert (time.breakers.count("open", time.now), time.breakers.count("half_open", time.now)) == (1, 0)


def test_its_memory_is_bounded() -> None:
    breakers, error = Breakers(), ModelError("no", code="provider_timeout", transient=True)
    for number in range(MAX_BREAKERS + 10):
        breakers.failed(ModelId(f"model_{number}"), 1, error, "no", 0, FAR)
    assert len(breakers) == MAX_BREAKERS
