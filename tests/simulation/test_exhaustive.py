"""Plays each injection at each point of each scenario; in the small scenarios also pairs of injections.

There is a point before and after every append, model call and tool call, and before every read. `make test`
takes a sample; the soak takes every second point, and one pair in three; all with PERDURE_SOAK=2.
"""

from __future__ import annotations

import itertools

import pytest

from tests.simulation.injections import KINDS
from tests.simulation.scenarios import ALL, Scenario, by_name
from tests.simulation.schedule import listed
from tests.simulation.store import Store
from tests.soak import SCALE, amounts

pytestmark = pytest.mark.unmeasured  # `test_drawn` measures the same code

SMALL = ("text", "tool")
PAIRS = (
    ("crash", "crash"),
    ("crash", "message"),
    ("crash", "cancel"),
    ("stall", "crash"),
    ("stall", "message_elsewhere"),
    ("freeze", "stall"),
    ("overtake", "message"),
    ("wake_elsewhere", "cancel"),
    ("message", "cancel_elsewhere"),
    ("message", "crash"),
    ("unplug", "message"),
)


SAMPLE = 11
"""`make test` plays one point in eleven; each kind of injection starts at another one, so all are visited."""
LONG = 60
"""A scenario with more points is long: the sample there is five times thinner."""


@pytest.mark.parametrize("every", amounts(SAMPLE, 2 if SCALE == 1 else 1))
@pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.name)
def test_the_promises_hold_with_any_injection_at_any_point(
    scenario: Scenario, every: int, store: Store
) -> None:
    undisturbed = listed(scenario, {})
    undisturbed.play(store)
    step = every * 5 if every > 2 and undisturbed.points > LONG else every
    for number, kind in enumerate(KINDS):
        for point in range(number % step, undisturbed.points, step):
            listed(scenario, {point: kind}).play(store)


@pytest.mark.parametrize("every", amounts(SAMPLE * 3, 3 if SCALE == 1 else 1))
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_the_promises_hold_with_any_two_injections_at_any_two_points(
    name: str, first: str, second: str, every: int, store: Store
) -> None:
    scenario = by_name(name)
    undisturbed = listed(scenario, {})
    undisturbed.play(store)
    pairs = itertools.count()
    for point in range(undisturbed.points):
        disturbed = listed(scenario, {point: first})
        disturbed.play(store)
        for later in range(point + 1, disturbed.points):
            if next(pairs) % every == 0:
                listed(scenario, {point: first, later: second}).play(store)
