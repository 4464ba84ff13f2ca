"""How long to wait before a retry: the back-off, and what a server requests."""

from __future__ import annotations

import pytest

from perdure.domain.backoff import backoff
from perdure.domain.retry_after import MAX_WAIT, retry_after

NOW = 1_700_000_000.0


def test_the_wait_doubles_with_each_failure_up_to_the_maximum() -> None:
    waits = [backoff(failures, first=0.5, most=3.0, jitter=lambda: 0.0) for failures in range(1, 6)]
    assert waits == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_jitter_shortens_the_wait_by_up_to_half() -> None:
    assert backoff(1, first=1.0, most=9.0, jitter=lambda: 0.5) == 0.75
    drawn = {backoff(1, first=1.0, most=9.0) for _ in range(200)}
    assert len(drawn) > 1
    assert 0.5 <= min(drawn) <= max(drawn) <= 1.0


def test_any_number_of_failures_has_a_wait() -> None:
    assert backoff(1_000_000, first=0.1, most=10.0, jitter=lambda: 0.0) == 10.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "99999999"}, MAX_WAIT),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:30 GMT"}, 10.0),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:30 -0000"}, 10.0),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:00 GMT"}, 0.0),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, MAX_WAIT),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Tue, 14 Nov 99999999999999999999 22:13:30 GMT"}, None),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:30 +99999999999999999999"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": ""}, None),
    ],
)
def test_a_server_requests_the_wait_in_seconds_in_milliseconds_or_as_a_date(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retry_after(headers, NOW) == seconds
