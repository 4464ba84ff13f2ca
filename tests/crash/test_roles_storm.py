"""Two processes of the API and three workers on one PostgreSQL, of which one is disturbed every second.

The soak has a short storm. `make storm` has a large one, and prints what happened and what was checked:
`PERDURE_STORM` is its number of sessions, `PERDURE_STORM_SECONDS` how long it lasts.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from tests.crash.fleet import Fleet
from tests.crash.followers import Session
from tests.crash.promises import check_promises
from tests.crash.roles_storm import RolesStorm
from tests.crash.storm import seed
from tests.crash.test_kills import prepare
from tests.crash.transactions import Transactions
from tests.log_lines import lines_of
from tests.postgres_server import postgres_server
from tests.soak import SCALE

LARGE = int(os.environ.get("PERDURE_STORM") or 0)
"""The number of sessions of a large storm; 0 for the short one of the soak."""
SECONDS = int(os.environ.get("PERDURE_STORM_SECONDS") or (300 if LARGE else 10 * SCALE))
"""For how long something happens every second."""


@pytest.mark.soak
async def test_processes_with_roles_keep_every_promise(tmp_path: Path) -> None:
    chance = random.Random(seed())
    with postgres_server() as database:  # of its own: it crashes
        async with database.migrated_database() as url:
            fleet = Fleet(chance, database, url, tmp_path)
            await fleet.start()
            try:
                await prepare(fleet.apis[0])
                urls = [each.url for each in fleet.apis]
                storm = RolesStorm(urls, chance, tmp_path, url, sessions=LARGE or 4)
                transactions = Transactions(fleet)
                await storm.endure(fleet, transactions, SECONDS)
            finally:
                await fleet.stop()
            table = await check_promises(storm, fleet, transactions)
    print_report(storm, fleet)
    print(f"\n{table}\n")
    assert not (found := table.violations()), "\n".join(found[:30])


def print_report(storm: RolesStorm, fleet: Fleet) -> None:
    """Print what happened."""
    done = storm.acknowledged
    sessions = storm.sessions.values()
    kinds = Counter(event["type"] for session in sessions for event in session.seen)
    rested = "never" if storm.rested is None else f"{storm.rested:.1f} s"
    over = sorted(taken_over(storm, fleet))
    lines: list[tuple[str, object]] = [
        ("sessions that clients used, forks included", len(sessions)),
        *sorted(fleet.done.items()),
        ("faults", fleet.done.total()),
        ("messages acknowledged", sum(len(session.acknowledged) for session in sessions)),
        ("changes of sessions acknowledged", sum(map(len, done.changes.values()))),
        ("approvals acknowledged", len(done.decisions)),
        ("cancels, and changes of budgets acknowledged", done.cancels + done.budgets),
        ("turns that were completed", kinds["turn.completed"]),
        ("turns that were cancelled", kinds["turn.cancelled"]),
        ("turns that were sealed", kinds["turn.sealed"]),
        ("turns that failed", kinds["turn.failed"]),
        ("streams opened by followers", storm.followers.connections),
        ("answers by status", dict(sorted(storm.answers.items()))),
        ("everything was over after the last fault", rested),
        ("turns taken over in a measured time", len(over)),
    ]
    if over:
        p50, p99 = (f"{over[int(len(over) * part)]:.1f} s" for part in (0.5, 0.99))
        lines.append(("take-over p50, p99, longest", f"{p50}, {p99}, {over[-1]:.1f} s"))
    width = max(len(name) for name, _ in lines)
    print("\n" + "\n".join(f"{name:{width}} {value}" for name, value in lines))


def taken_over(storm: RolesStorm, fleet: Fleet) -> list[float]:
    """How long turns stood still that another process took over, in seconds.

    Of turns that wait for nobody: for them, it is the longest time between two events.
    """
    found = {
        (line["session"], line.get("turn", ""))
        for each in fleet.processes
        for line in lines_of(each, others=True)
        if line["message"] == "turn recovered" and line["session"] in storm.sessions
    }
    times = [_longest_pause(storm.sessions[session_id], turn_id) for session_id, turn_id in found]
    return [each for each in times if each is not None]


def _longest_pause(session: Session, turn_id: str) -> float | None:
    both = zip(session.seen, session.moments, strict=True)
    events = [(event["type"], at) for event, at in both if event["context"].get("turn_id") == turn_id]
    if {kind for kind, _ in events} & {"tool.parked", "turn.parked", "tool.call_requested", "budget.paused"}:
        return None
    return max((after - before for (_, before), (_, after) in pairwise(events)), default=None)
