"""Counts of the last minute, the line in which organizations take turns, and turns that limits hold back."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.actions import CallModel, Nothing, Resume, TurnRules, next_action
from perdure.domain.calls import CallState, Done
from perdure.domain.events import BudgetResumedData, EventContext, NewEvent, TurnParkedData, TurnResumedData
from perdure.domain.ids import BudgetId, ExecId, MessageId, OrgId, ToolCallId, TurnId, UserId
from perdure.domain.limits import LimitsPair, LimitValues
from perdure.domain.minutes import MINUTE, Minutes
from perdure.domain.pending import PendingMessage
from perdure.domain.times import to_rfc3339
from perdure.domain.turn import Calling, Ready, Waiting, fold
from perdure.domain.turn_totals import Turn
from perdure.store.fair_line import FairLine
from perdure.store.turn_slots import ACTIVE, ORGANIZATION_FULL, USER_FULL, OrgTurns, full

TURN = Turn(TurnId("turn_1"), MessageId("message_1"), "Hello.", 1_000)
ANA, BOB = UserId("user_a"), UserId("user_b")


@given(
    st.lists(st.tuples(st.integers(0, 90_000_000), st.integers(1, 50)), max_size=20),
    st.integers(1, 200),
)
def test_after_the_wait_there_is_room_and_not_before(steps: list[tuple[int, int]], limit: int) -> None:
    minutes, now = Minutes(0), 0
    for step, amount in steps:
        now += step
        minutes.turn(now)
        minutes.now += amount
    wait = minutes.wait(now, limit)
    assert 0 <= wait <= 2 * MINUTE
    if wait > 1_000:
        assert minutes.wait(now, limit) == wait
    assert minutes.sum(now + wait) < limit or wait == 0
    if wait == 0:
        assert minutes.sum(now) < limit


def test_a_count_is_over_after_two_minutes_and_a_clock_that_goes_back_changes_nothing() -> None:
    minutes = Minutes(10, now=8)
    assert minutes.sum(10 * MINUTE + 5) == 8
    assert minutes.sum(9 * MINUTE) == 8
    assert minutes.sum(11 * MINUTE + MINUTE // 2) == 4
    assert minutes.sum(12 * MINUTE) == 0


@given(st.lists(st.sampled_from(["a", "b", "c", None]), max_size=60))
def test_no_organization_gets_two_places_while_another_gets_none(steps: list[str | None]) -> None:
    line: FairLine[str] = FairLine()
    waiting: Counter[str] = Counter()
    since: dict[str, Counter[str]] = {}
    """By organization that waits: what others got since it began to wait or had its last place."""
    for step in steps:
        if step is not None:
            line.put(OrgId(step), step, has_place=False)
            waiting[step] += 1
            since.setdefault(step, Counter())
        elif waiting:
            got = line.next()
            waiting -= Counter({got: 1})
            since.pop(got, None)
            for counts in since.values():
                counts[got] += 1
            if waiting[got]:
                since[got] = Counter()
            assert all(count <= 2 for counts in since.values() for count in counts.values())
    assert len(line) == waiting.total()


def parked(kind: str, until: int) -> NewEvent:
    data = TurnParkedData(TURN.id, kind, to_rfc3339(until), f"{kind}_limit", "Full.", "organization")  # type: ignore[arg-type]
    return NewEvent(data, EventContext(), 2_000)


def test_a_turn_whose_budget_has_money_goes_on_by_any_clock() -> None:
    said = BudgetResumedData(BudgetId("budget_1"), 0.0, 0.0, "usd")
    resumed = NewEvent(said, EventContext(), 5_000)
    state = fold([parked("budget", 9_000), resumed], Ready(turn=TURN))
    for now in (2_500, 5_000):
        assert isinstance(next_action(state, TurnRules(), now), Resume)


def test_a_turn_that_a_limit_holds_back_goes_on_at_its_time_only() -> None:
    steers = (PendingMessage(MessageId("message_2"), "More.", 5, None),)
    state = fold([parked("tokens_per_minute", 9_000)], Ready(turn=TURN, pending=steers))
    assert state == Waiting(
        turn=TURN, pending=steers, until=9_000, kind="tokens_per_minute", head=1, known=1, since=2_000
    )
    assert isinstance(next_action(state, TurnRules(), 1_999), Resume), "it was parked by a clock ahead"
    assert next_action(state, TurnRules(), 8_999) == Nothing()
    assert isinstance(next_action(state, TurnRules(), 9_000), Resume)
    resumed = fold([NewEvent(TurnResumedData(TURN.id), EventContext(), 9_000)], state)
    assert isinstance(next_action(resumed, TurnRules(), 9_000), CallModel)


def test_a_turn_that_is_held_back_between_calls_keeps_what_it_has_counted() -> None:
    done = CallState(ToolCallId("c1"), "tool", {}, Done(failed=True, interrupted=True))
    state = Calling(turn=TURN, exec_id=ExecId("exec_1"), calls=(done,))
    waiting = fold([parked("active_turns", 9_000)], state)
    assert isinstance(waiting, Waiting)
    assert (waiting.turn.interruptions, waiting.turn.iterations) == (1, TURN.iterations)


def test_who_waits_comes_before_who_arrives() -> None:
    most = LimitsPair(LimitValues(active_turns=3), LimitValues(active_turns=2))
    turns = OrgTurns()
    turns.add(ANA, ACTIVE, 1)
    assert full(turns, ANA, most) is None
    assert full(turns, ANA, most, [ANA]) is not None
    assert full(turns, BOB, most, [ANA]) is None
    turns.add(BOB, ORGANIZATION_FULL, 2)
    reached = full(turns, ANA, most)
    assert reached is not None
    assert (reached.scope, reached.used) == ("organization", 1)
    turns = OrgTurns()
    turns.add(ANA, ACTIVE, 1)
    turns.add(ANA, USER_FULL, 1)
    reached = full(turns, ANA, most)
    assert reached is not None
    assert reached.message() == "the user has reached its limit of 2 active turns (now: 1)"
    assert full(turns, BOB, most) is None
