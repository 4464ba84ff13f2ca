"""All states, in the order in which they are reached within a phase. An issue that adds a state adds it
to one of these."""

from __future__ import annotations

from tests.upgrade.releases import Release, number_of
from tests.upgrade.state import State
from tests.upgrade.states_agents import AGENTS
from tests.upgrade.states_effects import EFFECTS
from tests.upgrade.states_flow import FLOW
from tests.upgrade.states_kept import KEPT
from tests.upgrade.states_tasks import TASKS
from tests.upgrade.states_turns import TURNS
from tests.upgrade.states_waiting import WAITING

STATES: tuple[State, ...] = (*TURNS, *WAITING, *EFFECTS, *TASKS, *KEPT, *AGENTS, *FLOW)


def states_of(release: Release) -> list[State]:
    """Those that a server of this release can be in."""
    return [each for each in STATES if number_of(each.since) <= release.number]
