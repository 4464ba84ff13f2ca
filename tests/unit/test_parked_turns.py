"""The turns that a process keeps since it parked them."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from perdure.domain.calls import CallState, Parked
from perdure.domain.ids import ExecId, MessageId, SessionId, ToolCallId, TurnId
from perdure.domain.turn import Calling, Idle
from perdure.domain.turn_totals import Turn
from perdure.store.parked_turns import ParkedTurns
from tests.conformance.test_agents_store import session


def parked(head: int, arguments: str = "") -> Calling:
    turn = Turn(TurnId("turn_1"), MessageId("message_1"), None, 0, last_calls=arguments)
    call = CallState(ToolCallId("c1"), "order", {}, Parked("callback", 1))
    return Calling(head=head, turn=turn, exec_id=ExecId("exec_1"), calls=(call,))


def row(number: int = 0, **fields: Any) -> Any:
    return replace(session(), id=SessionId(f"session_{number}"), **fields)


def test_a_kept_turn_is_the_start_only_of_its_own_turn() -> None:
    turns = ParkedTurns()
    turns.put(row().id, parked(12))
    for head, turn_after, start in ((12, 4, 12), (30, 4, 12), (30, 12, 12), (30, 13, 13), (11, 4, 4)):
        assert turns.start_of(row(head=head, turn_after=turn_after)).head == start
    turns.put(row().id, Idle(head=40))
    assert turns.start_of(row(head=40, turn_after=4)) == Idle(head=4)


def test_kept_turns_take_a_bounded_amount_of_memory() -> None:
    turns = ParkedTurns(budget=20_000)
    for number in range(100):
        turns.put(row(number).id, parked(12))
    kept = [number for number in range(100) if turns.start_of(row(number, head=12)).head == 12]
    assert kept == list(range(100 - len(kept), 100))
    assert 5 <= len(kept) <= 10
    turns.put(row(1000).id, parked(12, "x" * 1_000_000))
    assert turns.start_of(row(99, head=12)).head == 12, "a large one displaces no other"
    assert turns.start_of(row(1000, head=12)).head == 0
