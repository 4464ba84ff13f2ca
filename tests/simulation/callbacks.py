"""What the world knows about callbacks, and the checks of their promises."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from perdure.domain.calls import Parked
from perdure.domain.events import Event
from perdure.domain.messages import text_of
from perdure.domain.turn import Calling, Idle, Started, fold

if TYPE_CHECKING:
    from tests.simulation.world import World

OPEN_FOR = 400.0
"""Seconds for which each callback is open."""
REMEMBERED = 86_400_000_000
"""Microseconds for which the server recognizes a repeated answer."""
SKEW = 10_000_000
"""Microseconds by which the clocks of two processes may differ."""
BACKGROUND = "This call continues in the background"


@dataclass
class KnownCallback:
    """A callback whose URL a tool gave to the world.

    Attributes:
        accepted: the values that the server has accepted.
        unknown: the values whose requests failed, so that they may have been accepted.
        sent_at: when each value was first sent.
    """

    token: str
    call_id: str
    turn_id: str
    exec_id: str
    deadline: int
    accepted: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    sent_at: dict[str, int] = field(default_factory=dict)

    def send(self, value: str, now: int) -> None:
        """Note that a value is sent for the first time."""
        self.unknown.append(value)
        self.sent_at[value] = now

    def must_know(self, value: str, now: int) -> bool:
        """Whether the server has accepted this value, and has to recognize it."""
        return value in self.accepted and now < self.sent_at[value] + REMEMBERED - SKEW

    def accept(self, value: str) -> None:
        """Note that the server has accepted a value, which it may have done before."""
        if value not in self.accepted:
            self.unknown.remove(value)
            self.accepted.append(value)


def learn(world: World, url: str, call_id: str, deadline: int) -> None:
    """A tool tells the world its URL."""
    context = next(
        event.context_struct()
        for event in reversed(world.log())
        if event.type == "tool.started" and event.decoded().tool_call.id == call_id
    )
    token = url.rsplit("/", 1)[1]
    known = KnownCallback(token, call_id, context.turn_id or "", context.exec_id or "", deadline)
    world.callbacks.append(known)


def judge_refusal(world: World, callback: KnownCallback) -> None:
    """A callback is refused only if it was used, its call is over, or its time."""
    siblings = [each for each in world.callbacks if _call(each) == _call(callback)]
    if any(each.accepted or each.unknown for each in siblings) or world.told.deletion_tried:
        return
    if world.now() > callback.deadline - SKEW:
        return
    log = world.log()
    row = world.store.row(world.session_id)
    state = fold(log[row.turn_after :], Idle(head=row.turn_after))
    if isinstance(state, Calling) and state.exec_id == callback.exec_id:
        status = next(call.status for call in state.calls if call.id == callback.call_id)
        if isinstance(status, Started | Parked):
            world.blame(f"the callback of {callback.call_id} was refused, and its call is {status}")
    if _is_in_background(log, callback) and not _was_cancelled(log, callback):
        world.blame(f"the callback of {callback.call_id} was refused, and its call is in the background")


def _call(callback: KnownCallback) -> tuple[str, str]:
    return callback.exec_id, callback.call_id


def _is_in_background(log: list[Event], callback: KnownCallback) -> bool:
    return any(
        _text_of_result(event).startswith(BACKGROUND)
        for event in log
        if event.type == "tool.completed"
        and (event.context_struct().exec_id, event.decoded().tool_call_id) == _call(callback)
    )


def _was_cancelled(log: list[Event], callback: KnownCallback) -> bool:
    return any(
        event.type in {"turn.cancelled", "turn.sealed"} and event.context_struct().turn_id == callback.turn_id
        for event in log
    )


def _text_of_result(event: Event) -> str:
    data: Any = event.decoded()
    return "" if data.result is None else text_of(data.result)


def check_callbacks(world: World, log: list[Event]) -> None:
    """Each accepted value is in the log exactly once, in time, and for its own call; no other value is."""
    found: Counter[str] = Counter()
    cancelled: set[str] = set()
    turns = {value: each.turn_id for each in world.callbacks for value in each.accepted}
    for event in log:
        if event.type == "turn.cancelled":
            cancelled.add(event.context_struct().turn_id or "")
        if event.type == "tool.completed" and _text_of_result(event).startswith("value "):
            found[_text_of_result(event)] += 1
        elif event.type == "input.message" and "callback" in (event.decoded().message.metadata or {}):
            value = text_of(event.decoded().message.content).rpartition("\n")[2]
            found[value] += 1
            if turns.get(value) in cancelled:
                world.blame(f"{value!r} was accepted although its turn was cancelled")
    accepted: Counter[str] = Counter()
    by_call: Counter[tuple[str, str]] = Counter()
    possible: set[str] = set()
    for callback in world.callbacks:
        accepted.update(callback.accepted)
        possible.update(callback.accepted, callback.unknown)
        by_call[_call(callback)] += len(callback.accepted)
    for value, times in accepted.items():
        if times != 1 or (found[value] != 1 and not world.told.deletion_tried):
            world.blame(f"the accepted {value!r} is in the log {found[value]} times")
    for value, times in found.items():
        if value not in possible or times > 1:
            world.blame(f"{value!r} is in the log {times} times, and was not accepted")
    for call, times in by_call.items():
        if times > 1:
            world.blame(f"the call {call} has {times} results")
    _check_interruptions(world, log)


def _check_interruptions(world: World, log: list[Event]) -> None:
    """A call whose URL somebody knows waits for its result, also after a crash."""
    deadlines = {_call(callback): callback.deadline for callback in world.callbacks}
    for event in log:
        if event.type != "tool.completed" or event.decoded().status not in {"interrupted", "cancelled"}:
            continue
        until = deadlines.get((event.context_struct().exec_id or "", event.decoded().tool_call_id), 0)
        if event.ts < until - SKEW:
            world.blame(f"the call {event.decoded().tool_call_id} was given up, and had a callback")
