"""Plays schedules in which calls wait for people, and mutations of what the server does with such calls."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import pytest

from perdure.app import input_requests as use
from perdure.app import questions
from perdure.domain import turn
from perdure.domain.calls import Parked
from perdure.domain.events import ToolParkedData, ToolResumedData
from perdure.engine import tool_calls
from tests.simulation.scenarios import Scenario, Step
from tests.simulation.schedule import Drawn, Schedule, Violation, listed
from tests.simulation.store import Store
from tests.soak import SCALE, SOAKING, amounts, sampled

COUNT = 3_000 * SCALE if SOAKING else 250
"""Schedules that are drawn."""
TEXT = Step()
TWO = Step((("consent", {}), ("once", {"seconds": 2.0}), ("sign", {})))
ASKS = Step((("question", {}), ("once", {"seconds": 2.0}), ("question", {})))
SCENARIOS = (
    Scenario("consent", ((Step((("consent", {}),)), TEXT),), ("post 0", "rest", "consent", "rest")),
    Scenario("sign", ((Step((("sign", {}),)), TEXT),), ("post 0", "rest", "sign_in", "rest")),
    Scenario(
        "consents",
        ((TWO, Step((("sign", {}), ("consent", {}))), TEXT),),
        ("post 0", "wait 1", "consent", "sign_in", "rest", "consent", "rest", "consent", "rest"),
        repeat_ids=True,
    ),
    Scenario(
        "steered",
        ((TWO, TEXT), (TEXT,)),
        ("post 0", "rest", "post 1", "rest", "consent", "sign_in", "rest"),
    ),
    Scenario("ended", ((TWO, TEXT),), ("post 0", "rest", "cancel", "consent", "sign_in", "rest")),
    Scenario("question", ((ASKS, TEXT),), ("post 0", "rest", "reply", "rest", "reply", "rest")),
    Scenario("unanswered", ((ASKS, TEXT),), ("post 0", "rest", "wait 500", "reply", "rest", "reply", "rest")),
    Scenario("overtaken", ((ASKS, TEXT), (TEXT,)), ("post 0", "rest", "reply", "post 1", "reply", "rest")),
    Scenario("forgotten", ((TWO, TEXT),), ("post 0", "rest", "wait 700000", "consent", "rest")),
)


def drawn_consent(seed: int) -> Schedule:
    """The schedule that is drawn with this seed."""
    rng = random.Random(f"consent {seed}")
    scenario = rng.choice(SCENARIOS) if rng.random() < 0.4 else _scenario(rng)
    plan = Drawn(rng)
    return Schedule(scenario, plan, rng, f"consent {seed}", lossy=rng.random() < 0.3, gentle=plan.gentle)


_OFTEN = (6, 4, 2, 2, 1, 1, 3)
_ACTIONS = (
    "consent",
    "consent",
    "sign_in",
    "reply",
    "call_back",
    "answer",
    "post 1",
    "queue 1",
    "cancel",
    "patch",
)


def _scenario(rng: random.Random) -> Scenario:
    kinds = ("consent", "sign", "once", "later", "look", "ask_user", "question")
    scripts = tuple(
        (
            *(
                Step(tuple((name, {}) for name in rng.choices(kinds, _OFTEN, k=rng.randint(1, 3))))
                for _ in range(rng.randint(1, 2))
            ),
            TEXT,
        )
        for _ in range(2)
    )
    actions: list[str] = ["post 0"]
    for _ in range(rng.randint(2, 6)):
        actions.append(rng.choice(("rest", "rest", "wait 0.1", "wait 2")))
        actions.append(rng.choice(_ACTIONS))
    return Scenario("drawn", scripts, (*actions, "rest"), repeat_ids=rng.random() < 0.3)


@pytest.mark.parametrize("part", range(2))
def test_the_promises_hold_in_every_drawn_schedule_with_consents(part: int, store: Store) -> None:
    for seed in range(part, COUNT, 2):
        drawn_consent(seed).play(store)


@pytest.mark.unmeasured
@pytest.mark.parametrize("every", amounts(7, 1))
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_crash_or_a_fault_at_any_point_changes_nothing(
    scenario: Scenario, every: int, store: Store
) -> None:
    undisturbed = listed(scenario, {})
    undisturbed.play(store)
    for point in range(0, undisturbed.points, every):
        for kind in ("crash", "fault"):
            listed(scenario, {point: kind}).play(store)


Patch = pytest.MonkeyPatch


def an_answer_resumes_nothing(patch: Patch) -> None:
    async def nothing(*about: Any) -> None:
        pass

    patch.setattr(use, "_go_on", nothing)


def an_answer_wakes_nobody(patch: Patch) -> None:
    async def nothing(*about: Any, is_new: bool) -> None:
        pass

    patch.setattr(use, "see_to_runner", nothing)


def a_question_can_be_answered_again(patch: Patch) -> None:
    async def remains(tx: Any, row: Any, *more: Any) -> bool:
        return True

    def waiting(state: Any, row: Any) -> Any:
        return next((call for call in state.calls if call.id == row.tool_call_id), None)

    patch.setattr(use, "update_input_request", remains)
    patch.setattr(use, "_waiting_call", waiting)


def a_resumed_call_stays_parked(patch: Patch) -> None:
    patch.setattr(
        turn, "_HANDLERS", {**turn._HANDLERS, ToolResumedData.kind: lambda state, event, head: state}
    )


def a_resumed_call_counts_as_done(patch: Patch) -> None:
    def resumed(state: Any, event: Any, head: int) -> Any:
        return turn._with_status(state, event.read(ToolResumedData).tool_call_id, turn.Done(failed=False))

    patch.setattr(turn, "_HANDLERS", {**turn._HANDLERS, ToolResumedData.kind: resumed})


def a_crash_forgets_what_was_asked(patch: Patch) -> None:
    async def nothing(*about: Any) -> None:
        return None

    patch.setattr(tool_calls, "promised", nothing)


def nobody_waits_too_long(patch: Patch) -> None:
    def parked(state: Any, event: Any, head: int) -> Any:
        data = event.read(ToolParkedData)
        return turn._with_status(state, data.tool_call_id, Parked(data.parked_kind, 1 << 60))

    patch.setattr(turn, "_HANDLERS", {**turn._HANDLERS, ToolParkedData.kind: parked})


def a_sign_in_resumes_nothing(patch: Patch) -> None:
    async def nothing(*about: Any) -> bool:
        return False

    patch.setattr(use, "_resume", nothing)


def an_answer_to_the_agent_wakes_nobody(patch: Patch) -> None:
    async def nothing(*about: Any, is_new: bool) -> None:
        pass

    patch.setattr(questions, "see_to_runner", nothing)


def an_answer_to_the_agent_is_never_too_late(patch: Patch) -> None:
    patch.setattr(questions, "is_overdue", lambda call, now: False)


def an_answer_to_the_agent_is_said_to_be_stored_and_is_not(patch: Patch) -> None:
    async def nothing(app: Any, tx: Any, row: Any, *more: Any) -> Any:
        return row

    patch.setattr(questions, "end_calls", nothing)


MUTATIONS = (
    an_answer_resumes_nothing,
    an_answer_wakes_nobody,
    a_question_can_be_answered_again,
    a_resumed_call_stays_parked,
    a_resumed_call_counts_as_done,
    a_crash_forgets_what_was_asked,
    nobody_waits_too_long,
    a_sign_in_resumes_nothing,
    an_answer_to_the_agent_wakes_nobody,
    an_answer_to_the_agent_is_never_too_late,
    an_answer_to_the_agent_is_said_to_be_stored_and_is_not,
)


@pytest.mark.unmeasured
@pytest.mark.parametrize("mutation", sampled(MUTATIONS), ids=lambda mutation: mutation.__name__)
def test_the_simulation_detects_the_mutation_of_consents(
    mutation: Callable[[Patch], None], store: Store, monkeypatch: Patch
) -> None:
    mutation(monkeypatch)
    with pytest.raises(Violation) as found:
        _play(store)
    wrong = re.search("TypeError|AttributeError|NameError", str(found.value))
    assert wrong is None, "the mutation itself is broken"


def _play(store: Store) -> None:
    for seed in range(COUNT):
        drawn_consent(seed).play(store)
