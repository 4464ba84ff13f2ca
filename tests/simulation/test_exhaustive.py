"""Plays each injection at each point of each scenario; in the small scenarios also pairs of injections.

There is a point before and after every append, model call and tool call, and before every read. Together with
`test_drawn` these are more than 15,000 schedules.
"""

from __future__ import annotations

import pytest

from tests.simulation.injections import KINDS
from tests.simulation.scenarios import SCENARIOS, Scenario, by_name
from tests.simulation.schedule import listed
from tests.simulation.store import Store

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


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_promises_hold_with_any_injection_at_any_point(scenario: Scenario, store: Store) -> None:
    undisturbed = listed(scenario, {})
    undisturbed.play(store)
    for point in range(undisturbed.points):
        for kind in KINDS:
            listed(scenario, {point: kind}).play(store)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_the_promises_hold_with_any_two_injections_at_any_two_points(
    name: str, first: str, second: str, store: Store
) -> None:
    scenario = by_name(name)
    undisturbed = listed(scenario, {})
    undisturbed.play(store)
    for point in range(undisturbed.points):
        disturbed = listed(scenario, {point: first})
        disturbed.play(store)
        for later in range(point + 1, disturbed.points):
            listed(scenario, {point: first, later: second}).play(store)
