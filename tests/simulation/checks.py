"""Checks promises P1 to P5 at the end of a schedule, against the log and the recorded effects."""

from __future__ import annotations

from collections import Counter
from typing import Any

from perdure.domain.compaction import summary_message
from perdure.domain.events import ENDED_TURN, Event
from perdure.domain.messages import text_of, tool_calls_of
from perdure.domain.tools import APPROVE
from perdure.domain.turn import Idle, fold
from perdure.engine.conversation_cache import read_conversation
from tests.simulation.callbacks import check_callbacks
from tests.simulation.check_effects import check_effects
from tests.simulation.check_handoffs import check_handoffs
from tests.simulation.check_outputs import check_outputs
from tests.simulation.consents import check_consents
from tests.simulation.conversations import Key, disorder, expected_prompt, key_of
from tests.simulation.model import ANSWER, SUMMARY
from tests.simulation.tools import REPLAYABLE
from tests.simulation.world import World


async def check_world(world: World) -> None:
    """Record a violation for every broken promise."""
    log = world.log()
    check_log(world, log)
    check_turns(world, log)
    check_messages(world, log)
    check_tools(world, log)
    check_effects(world, log)
    check_prompts(world, log)
    check_callbacks(world, log)
    check_consents(world, log)
    check_outputs(world, log)
    check_handoffs(world, log)
    await check_conversations(world)
    row = world.store.row(world.session_id)
    if world.told.deleted and row.deleted_at is None:
        world.blame("a deletion was acknowledged but did not happen")
    for process in world.live():
        if process.worker.running or process.engine.claimed_epochs or process.queue.depth():
            world.blame(f"{process.name} still has a run, a claim or a job for a session at rest")
    if world.loop.timers():
        world.blame("a timer is set for a session at rest")


def check_log(world: World, log: list[Event]) -> None:
    """P2: the log is gapless, ordered and as committed. It folds to a state in which no turn runs."""
    if [event.sequence for event in log] != list(range(1, len(log) + 1)):
        world.blame(f"P2: sequences {[event.sequence for event in log]}")
    if world.witness is not None and log != world.witness.log:
        world.blame("P2: the log is not what was committed to it")
    if len({event.id for event in log}) != len(log):
        world.blame("P2: an event's id occurs twice")
    row = world.store.row(world.session_id)
    state = fold(log)
    again = fold(log[row.turn_after :], Idle(head=row.turn_after))
    if row.deleted_at is None and state != again:
        world.blame(f"the fold since turn_after is {again}, that of the whole log {state}")
    if row.status in {"idle", "started"} and (
        not isinstance(again, Idle) or again.pending or row.turn_id is not None
    ):
        world.blame(f"P4: the session is {row.status} and its turn is not over: {again}")


class _Turns:
    """A second, independent implementation of the order in which a log's events may occur."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.turn: str | None = None
        self._ended: set[str] = set()
        self._exec: str | None = None
        self._calls: dict[str, str] = {}
        self._acting = False
        self._waits = False
        self._model: str | None = None
        """The model that the turn has fallen back to."""
        self._unseen: set[str] = set()
        self._queued: dict[str, str] = {}
        """The messages that wait for turns of their own, and these turns."""

    def take(self, event: Event) -> None:
        context, data = event.context_struct(), event.decoded()
        if event.type in ENDED_TURN:
            self._end(event, context.turn_id or "")
            return
        match event.type:
            case "input.message" if data.queued:
                self._queued[data.message.id] = context.turn_id or ""
            case "input.message" if context.input_message_id is not None:
                self._unseen.add(context.input_message_id)
            case "turn.started":
                self._need(self.turn is None, event, "a turn begins in a turn")
                self._need(context.turn_id not in self._ended, event, "an ended turn begins again")
                self.turn = context.turn_id
                if data.message is not None or data.input_message_id in self._queued:
                    self._take_from_queue(event)
            case "session.idled":
                self._need(self.turn is None, event, "idle in the middle of a turn")
                self._need(
                    not self._queued or self._world.told.deletion_tried, event, "idle with messages queued"
                )
                self._need(not self._unseen, event, "idle with messages unseen")
            case "reason.fallback":
                self._need(self._exec is None, event, "another model in the middle of a call")
                self._model = data.to.model
            case "turn.parked" | "turn.resumed":
                self._need(self._waits == (event.type == "turn.resumed"), event, "a turn waits")
                self._waits, self._model = event.type == "turn.parked", None
            case "reason.started":
                self._need(self._exec is None, event, "two model calls at once")
                self._need(not self._waits, event, "a model call of a turn that waits")
                self._need(not self._acting, event, "a model call in a batch that goes on")
                self._need(self._model in {None, data.metadata.model}, event, "the call of another model")
                self._need(
                    all(state == "done" for state in self._calls.values()),
                    event,
                    "a model call before all results",
                )
                self._exec, self._calls, self._acting = context.exec_id, {}, False
                self._unseen.clear()
            case "context.compacting":
                self._need(not self._acting, event, "a summary in a batch that goes on")
            case "reason.completed":
                self._need(self._exec == context.exec_id, event, "the end of another model call")
                self._exec = None
            case "output.message.completed" if self._exec is not None and data.error_code is None:
                self._calls = {call.id: "open" for call in tool_calls_of(data.message)}
            case "act.started" | "act.completed":
                self._need(self._acting == (event.type == "act.completed"), event, "act out of order")
                self._acting = event.type == "act.started"
            case _:
                self._take_tool_event(event)
        if event.type.split(".")[0] in {"turn", "reason", "act", "tool", "llm"}:
            self._need(self.turn is not None and context.turn_id == self.turn, event, "outside its turn")

    def _take_tool_event(self, event: Event) -> None:
        data = event.decoded()
        match event.type:
            case "tool.started":
                self._need(
                    self._exec is None and self._calls.get(data.tool_call.id) == "open",
                    event,
                    "a call starts",
                )
                self._calls[data.tool_call.id] = "started"
            case "tool.parked":
                self._need(self._calls.get(data.tool_call_id) == "started", event, "a call is parked")
                self._calls[data.tool_call_id] = "parked"
            case "tool.resumed":
                self._need(self._calls.get(data.tool_call_id) == "parked", event, "a call goes on")
                self._calls[data.tool_call_id] = "open"
            case "tool.completed" if data.tool_name != APPROVE:
                self._need(
                    self._calls.get(data.tool_call_id) in {"open", "started", "parked"}, event, "a call ends"
                )
                self._calls[data.tool_call_id] = "done"

    def _take_from_queue(self, event: Event) -> None:
        """A message that waited begins its turn: the oldest one, when no other message waits."""
        data = event.decoded()
        first = next(iter(self._queued), "")
        self._need(data.input_message_id == first, event, "messages that wait do not begin in order")
        self._need(
            self._queued.pop(first, "") == self.turn, event, "a message begins another turn than its own"
        )
        self._need(
            data.message is not None and data.message.id == first, event, "a turn's start lacks its message"
        )
        self._need(not self._unseen, event, "a message that waits begins before others")

    def _end(self, event: Event, turn_id: str) -> None:
        if event.type == "turn.failed":
            self._need(
                event.decoded().error_code != "unavailable",
                event,
                "a turn failed because the database was unavailable",
            )
        self._need(turn_id not in self._ended, event, "a turn ends twice")
        self._need(
            self.turn == turn_id or (self.turn is None and event.type in {"turn.cancelled", "turn.sealed"}),
            event,
            "the end of another turn",
        )
        self._ended.add(turn_id)
        if event.type == "turn.sealed":
            self._queued.clear()
        elif event.type == "turn.cancelled":
            self._queued = {message: own for message, own in self._queued.items() if own != turn_id}
        self._unseen = (
            set()
            if event.type in {"turn.cancelled", "turn.sealed"}
            else self._unseen - {event.context_struct().input_message_id or ""}
        )
        self.turn, self._exec, self._calls, self._acting = None, None, {}, False
        self._waits, self._model = False, None

    def _need(self, holds: bool, event: Event, what: str) -> None:
        if not holds:
            self._world.blame(f"P4: {event.sequence} {event.type}: {what}")


def check_turns(world: World, log: list[Event]) -> None:
    """P4: every turn that began has exactly one end, and its events are in order."""
    turns = _Turns(world)
    for event in log:
        turns.take(event)
    if turns.turn is not None:
        world.blame("P4: a turn has no end")
    row = world.store.row(world.session_id)
    last = next(event.type for event in reversed(log) if not event.type.startswith("task."))
    if row.status == "idle" and row.deleted_at is None and last != "session.idled":
        world.blame("P4: idle without session.idled")


def check_messages(world: World, log: list[Event]) -> None:
    """P1: each acknowledged message is logged at its sequence, and a model call saw it or its turn ended."""
    sequences = {event.decoded().message.id: event.sequence for event in log if event.type == "input.message"}
    own_turns = {
        event.decoded().message.id: event.context_struct().turn_id
        for event in log
        if event.type == "input.message" and event.decoded().queued
    }
    for message_id, sequence in world.told.messages.items():
        if sequences.get(message_id) != sequence:
            world.blame(f"P1: {message_id}, acknowledged at {sequence}, is at {sequences.get(message_id)}")
        elif not (
            world.told.deletion_tried
            or any(_covers(event, message_id, own_turns.get(message_id)) for event in log[sequence:])
        ):
            world.blame(f"P1: message {sequence} was never worked on")


def _covers(event: Event, message_id: str, own_turn: str | None) -> bool:
    """Whether a message, which may wait for its own turn, is worked on or given up with this event."""
    if own_turn is not None:
        return event.type == "turn.sealed" or (
            event.type in {"turn.started", "turn.cancelled"} and event.context_struct().turn_id == own_turn
        )
    if event.type in {"reason.started", "turn.cancelled", "turn.sealed"}:
        return True
    return event.type == "turn.failed" and event.context_struct().input_message_id == message_id


def check_tools(world: World, log: list[Event]) -> None:
    """P5: an effect comes after its call's start in the log and not after its result; a call that must not be
    repeated has at most one effect.

    The URL of a deferred call that runs again stays valid: the result may come before the repeated effect.
    """
    starts: dict[str, list[int]] = {}
    ends: dict[str, list[int]] = {}
    for event in log:
        if event.type == "tool.started":
            starts.setdefault(event.decoded().tool_call.id, []).append(event.sequence)
        elif event.type == "tool.completed":
            ends.setdefault(event.decoded().tool_call_id, []).append(event.sequence)
            _check_result(world, event.decoded())
    done = Counter(effect.call_id for effect in world.effects if effect.tool not in {*REPLAYABLE, "order"})
    for call_id, times in done.items():
        if times > len(starts.get(call_id, ())):
            world.blame(f"P5: the call {call_id} was made {times} times")
    for effect in world.effects:
        begun = [sequence for sequence in starts.get(effect.call_id, ()) if sequence <= effect.head]
        if not begun:
            world.blame(f"P5: {effect.word} was done before the start of its call was logged")
        elif (
            effect.current
            and effect.tool != "later_again"
            and any(begun[-1] < sequence <= effect.head for sequence in ends.get(effect.call_id, ()))
        ):
            world.blame(f"P5: {effect.word} was done after the result of its call was logged")


def _check_result(world: World, data: Any) -> None:
    """A successful result names an effect of its call."""
    if data.success and data.tool_name in {"once", "again", "look"}:
        result = text_of(data.result)
        if not any(effect.word == result and effect.call_id == data.tool_call_id for effect in world.effects):
            world.blame(f"the result {result!r} of {data.tool_call_id} is not of an effect of this call")


# --- conversations ----------------------------------------------------------


def check_prompts(world: World, log: list[Event]) -> None:
    """Prompts match the log and are valid for vendors; answers and summaries match their prompts."""
    for number, call in enumerate(world.calls):
        seen = [key_of(message) for message in call.messages]
        for problem in disorder(call.messages):
            world.blame(f"model call {number} saw {problem}")
        begun = [event.sequence for event in log[: call.head] if event.type == "reason.started"]
        if not call.current or not begun:
            continue
        named = log[begun[-1] - 1].decoded().metadata.model
        if call.model != named:
            world.blame(f"model call {number} asked {call.model}, and the log names {named}")
        expected = _expected(world, log, begun[-1], call.head, seen)
        if seen != expected:
            world.blame(f"model call {number} saw {seen}, expected {expected}")
    check_answers(world, log)
    check_summaries(world, log)


def _expected(world: World, log: list[Event], begun: int, head: int, seen: list[Key]) -> list[Key]:
    """The prompt of a call that began at `begun`, with the log at `head`; cut to the length of `seen`."""
    summary = next(
        (
            event
            for event in reversed(log[:head])
            if event.type == "context.compacted" and event.decoded().summary
        ),
        None,
    )
    if summary is None:
        expected = expected_prompt(log, begun)
        return expected if world.scenario.window is None else expected[len(expected) - len(seen) :]
    data = summary.decoded()
    head_key = key_of(summary_message(data.summary, summary.sequence, summary.ts))
    rest = expected_prompt(log, begun, data.after)
    return [head_key, *rest[max(len(rest) - len(seen) + 1, 0) :]]


def check_summaries(world: World, log: list[Event]) -> None:
    """Each summary was made from the previous summary and all messages that it replaces."""
    after, before = 0, ""
    for event in log:
        if event.type != "context.compacted" or not event.decoded().summary:
            continue
        data = event.decoded()
        if len(data.steps) == 1:
            prompt = world.summaries[int(data.summary.removeprefix(SUMMARY))]
            for text in [before, *_texts_between(log, after, data.after)]:
                if text not in prompt:
                    world.blame(f"the summary {event.sequence} was made without {text!r}")
        if data.messages_after > data.messages_before:
            world.blame(f"the summary {event.sequence} does not shorten the history")
        after, before = data.after, data.summary


def _texts_between(log: list[Event], after: int, through: int) -> list[str]:
    """The texts of the messages whose place in the conversation is in this range of sequences."""
    begun: dict[str, int] = {}
    texts = []
    for event in log[: through + 1]:
        execution = event.context_struct().exec_id or ""
        if event.type == "reason.started":
            begun[execution] = event.sequence
        elif (
            event.type not in {"input.message", "turn.started", "output.message.completed"}
            or getattr(event.decoded(), "error_code", None)
            or getattr(event.decoded(), "queued", False)
            or event.decoded().message is None
        ):
            continue
        elif after < begun.get(execution, event.sequence) <= through:
            texts.append(text_of(event.decoded().message.content))
    return texts


def check_answers(world: World, log: list[Event]) -> None:
    """Each answer in the log comes from a model call that saw exactly the log up to its own start."""
    begun: dict[str, int] = {}
    for event in log:
        execution = event.context_struct().exec_id or ""
        if event.type == "reason.started":
            begun[execution] = event.sequence
        if event.type != "output.message.completed" or execution not in begun:
            continue
        number = int(text_of(event.decoded().message.content).removeprefix(ANSWER))
        seen = [key_of(message) for message in world.calls[number].messages]
        expected = _expected(world, log, begun[execution], world.calls[number].head, seen)
        if seen != expected:
            world.blame(f"answer {number} in the log was given to {seen}, not to {expected}")


async def check_conversations(world: World) -> None:
    """A cached conversation, brought up to date, equals the one that is read from the whole log."""
    row = world.store.row(world.session_id)
    for process in world.live():
        cached = process.engine.conversations.take(world.session_id)
        if cached is None or (
            world.scenario.window is not None and (cached.cut or not world.scenario.compaction)
        ):
            continue
        updated = await world.store.read(
            lambda tx, cached=cached: read_conversation(tx, row.id, row.head, 100_000, cached)
        )
        whole = await world.store.read(lambda tx: read_conversation(tx, row.id, row.head, 100_000))
        whole.kept_tools = updated.kept_tools  # what the process has stored is not in the log
        if vars(updated) != vars(whole):
            world.blame(f"{process.name} cached {vars(updated)}, but the log has {vars(whole)}")
