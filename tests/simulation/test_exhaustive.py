"""Everything that can happen, at every point of every scenario.

In the small ones also two things at any two points.

A point stands before and after every append, model call and tool call, and before every read. `make test`
takes a sample; the soak takes all, which together with `test_drawn` are more than 30,000 schedules.
"""

from __future__ import annotations

import itertools

import pytest

from tests.simulation.injections import KINDS
from tests.simulation.scenarios import SCENARIOS, Scenario, by_name
from tests.simulation.schedule import listed
from tests.simulation.store import Store
from tests.soak import amounts

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


SAMPLE = 7
"""Of so many points, `make test` takes one: each kind of event at points of its own, all points in turn."""
LONG = 60
"""Points from which on a scenario counts as a long one, in which the sample is thinner still."""


@pytest.mark.parametrize("every", amounts(SAMPLE, 1))
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_whatever_happens_at_whatever_point_the_promises_hold(
    scenario: Scenario, every: int, store: Store
) -> None:
    undisturbed = listed(scenario, {})
    undisturbed.play(store)
    step = every * 5 if every > 1 and undisturbed.points > LONG else every
    for number, kind in enumerate(KINDS):
        for point in range(number % step, undisturbed.points, step):
            listed(scenario, {point: kind}).play(store)


@pytest.mark.parametrize("every", amounts(SAMPLE * 3, 1))
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_whatever_two_things_happen_at_whatever_points_the_promises_hold(
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
