"""The logs of sub-agents that a process keeps until their parents have heard of them."""

from __future__ import annotations

import pytest

from perdure.domain.events import Event
from perdure.domain.ids import EventId, SessionId
from perdure.store.known_sessions import MOST_CHARACTERS, MOST_EVENTS, MOST_LOGS, KnownSessions

CHILD = SessionId("session_1")


def events(first: int, last: int, data: str = "{}") -> tuple[Event, ...]:
    return tuple(
        Event(EventId(f"event_{each}"), CHILD, each, "turn.started", 0, "{}", data, None, None)
        for each in range(first, last + 1)
    )


def test_a_log_is_kept_from_its_first_event_on_and_taken_once() -> None:
    known = KnownSessions()
    known.follow(CHILD, events(1, 2))
    known.follow(CHILD, events(3, 5))
    assert known.take_log(CHILD) == events(1, 5)
    assert known.take_log(CHILD) == ()


@pytest.mark.parametrize("then", [events(4, 5), events(2, 3)])
def test_a_log_with_a_gap_is_not_kept(then: tuple[Event, ...]) -> None:
    known = KnownSessions()
    known.follow(CHILD, events(1, 2))
    known.follow(CHILD, then)
    assert known.take_log(CHILD) == ()


def test_a_log_whose_begin_is_not_known_is_not_kept() -> None:
    known = KnownSessions()
    known.follow(CHILD, events(7, 9))
    assert known.take_log(CHILD) == ()


@pytest.mark.parametrize("long", [events(3, MOST_EVENTS + 1), events(3, 3, "x" * MOST_CHARACTERS)])
def test_a_long_log_is_not_kept(long: tuple[Event, ...]) -> None:
    known = KnownSessions()
    known.follow(CHILD, events(1, 2))
    known.follow(CHILD, long)
    assert known.take_log(CHILD) == ()


def test_few_logs_are_kept() -> None:
    known = KnownSessions()
    ids = [SessionId(f"session_{number}") for number in range(MOST_LOGS + 1)]
    for each in ids:
        known.follow(each, events(1, 1))
    assert known.take_log(ids[0]) == ()
    assert known.take_log(ids[-1]) == events(1, 1)


def test_the_log_of_a_deleted_session_is_dropped() -> None:
    known = KnownSessions()
    known.follow(CHILD, events(1, 2))
    known.discard(CHILD)
    assert known.take_log(CHILD) == ()
