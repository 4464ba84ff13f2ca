"""Valid logs of sessions, drawn by hypothesis.

Prefixes of everything that clients, runners and crashes can leave behind.
"""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import strategies as st

from perdure.domain.actions import (
    Action,
    AskApproval,
    AwaitClient,
    CallModel,
    EndBatch,
    ExpireCalls,
    Fail,
    Finish,
    RunTools,
    StartTurn,
    TurnRules,
    next_action,
)
from perdure.domain.calls import CallState, as_tool_call
from perdure.domain.event_data import EventData
from perdure.domain.events import (
    ActCompletedData,
    ActStartedData,
    Event,
    EventContext,
    InputMessageData,
    LlmGenerationData,
    LlmGenerationMetadata,
    LlmGenerationOutput,
    NewEvent,
    OutputAcceptedData,
    OutputMessageCompletedData,
    OutputMessageStartedData,
    OutputRejectedData,
    ReasonCompletedData,
    ReasonStartedData,
    SessionActivatedData,
    SessionIdledData,
    ToolCallRequestedData,
    ToolCallSummary,
    ToolCompletedData,
    ToolParkedData,
    ToolStartedData,
    TurnCancelledData,
    TurnCompletedData,
    TurnFailedData,
    TurnSealedData,
    TurnStartedData,
)
from perdure.domain.ids import TurnId, event_id
from perdure.domain.messages import Controls, Message, TextPart, ToolCallPart, Usage
from perdure.domain.steps import Started
from perdure.domain.times import to_rfc3339
from perdure.domain.turn import Answered, Calling, Idle, Reasoning, TurnState, fold, parked_calls
from perdure.store.rows import to_json

CLIENT = "ask_user"
RULES = TurnRules(max_iterations=4, client_tools=frozenset({CLIENT}))
MOVES = ("step", "step", "step", "step", "message", "cancel", "answer", "call_back", "wait", "seal")
HARNESS = "harness_00000000000070008000000000000000"


class Writer:
    """Writes a log: the runner's part follows `next_action`, the client's part comes when it likes."""

    def __init__(self, choose: st.DrawFn) -> None:
        self._choose = choose
        self.events: list[NewEvent] = []
        self.state: TurnState = Idle()
        self.now = 1_800_000_000_000_000
        self.count = 0

    def move(self, name: str) -> None:
        match name:
            case "message":
                self.message()
            case "cancel" if not isinstance(self.state, Idle) or self.state.pending:
                self.cancel()
            case "answer":
                self._complete(parked_calls(self.state, "client"), success=True)
            case "call_back":
                self._complete(parked_calls(self.state, "callback")[:1], success=True)
            case "wait":
                self.now += 301_000_000
            case "seal" if not isinstance(self.state, Idle):
                self._end(TurnSealedData(self.state.turn.id, "no_progress"))
            case "step":
                self.act(next_action(self.state, RULES, self.now))

    def message(self, metadata: dict[str, Any] | None = None) -> Message:
        turn_id = self.turn_id or self._id("turn")
        message = Message(
            self._id("message"),
            "user",
            (TextPart("Hello?"),),
            to_rfc3339(self.now),
            controls=Controls(model_id=f"model_{self.count}") if self.count % 3 else None,
            metadata=metadata,
        )
        self._write(InputMessageData(message), EventContext(turn_id, message.id))
        return message

    def act(self, action: Action) -> None:
        """What a runner appends for this action."""
        match action:
            case StartTurn(turn_id=turn_id, message_id=message_id, input_content=content):
                context = EventContext(turn_id or self._id("turn"), message_id)
                self._write(SessionActivatedData(context.turn_id or "", message_id), context)
                self._write(TurnStartedData(context.turn_id or "", message_id, content), context)
                self._reason()
            case CallModel(resumed=True):
                self._answer()
            case CallModel():
                self._reason()
            case RunTools(calls=calls):
                self._run(calls)
            case AskApproval():
                raise AssertionError("no tool of these logs is gated")
            case AwaitClient(calls=calls):
                self._write(ToolCallRequestedData(tuple(as_tool_call(call) for call in calls)))
            case EndBatch():
                self._write(ActCompletedData(True, 0, 0))
            case ExpireCalls(calls=calls):
                self._complete(calls, success=False)
            case Finish():
                self._end(TurnCompletedData(action.state.turn.id, action.state.turn.iterations))
            case Fail(code=code, message=words):
                said = Message(
                    self._id("message"), "agent", (TextPart("Sorry."),), to_rfc3339(self.now), "final_answer"
                )
                self._write(OutputMessageCompletedData(said, error_code=code))
                self._end(TurnFailedData(action.state.turn.id, words, code))

    def _reason(self) -> None:
        execution = self._id("exec")
        context = EventContext(self.turn_id, self._context().input_message_id, execution)
        self._write(ReasonStartedData(HARNESS), context)
        self._write(OutputMessageStartedData(self.turn_id or "", self._id("message")))

    def _answer(self) -> None:
        good = self._choose(st.integers(0, 9)) > 0
        names = self._choose(st.lists(st.sampled_from(("once", "look", CLIENT)), max_size=3)) if good else []
        prefix = self._choose(st.sampled_from(("call", self._id("call"))))
        calls = tuple(ToolCallPart(f"{prefix}_{index}", name, {}) for index, name in enumerate(names))
        if good:
            parts = (TextPart("So."), *calls)
            assert isinstance(self.state, Reasoning)
            message = Message(self.state.message_id or "", "agent", parts, to_rfc3339(self.now))
            self._write(OutputMessageCompletedData(message))
        metadata = LlmGenerationMetadata(
            "model", good, time_to_first_token_ms=5, usage=Usage(7, 2) if good else None
        )
        self._write(LlmGenerationData(metadata, LlmGenerationOutput()))
        error = None if good else "broken"
        self._write(
            ReasonCompletedData(good, bool(calls), len(calls), error=error, error_code=error),
        )
        if isinstance(self.state, Answered):
            self._judge(self.state)

    def _judge(self, state: Answered) -> None:
        """Some answers are typed results."""
        match self._choose(st.integers(0, 3)):
            case 0:
                self._write(OutputAcceptedData(state.turn.id, state.message_id, {"count": self.count}))
            case 1:
                wrong = ("answer: the text is not valid JSON",)
                self._write(
                    OutputRejectedData(state.turn.id, state.message_id, wrong, state.turn.rejected + 1)
                )

    def _run(self, calls: tuple[CallState, ...]) -> None:
        """Announce the calls, or end some of them.

        Those of a runner that died may have been announced before.
        """
        fresh = [call for call in calls if not isinstance(call.status, Started)]
        if fresh:
            summaries = tuple(ToolCallSummary(call.id, call.name) for call in fresh)
            self._write(ActStartedData(summaries))
            for call in fresh:
                self._write(ToolStartedData(as_tool_call(call), replayable=call.name == "look"))
            return
        done = self._choose(st.integers(1, len(calls)))
        parked = self._choose(st.integers(0, done))
        for call in calls[:parked]:
            self._write(ToolParkedData(call.id, call.name, "callback", 300_000))
        self._complete(calls[parked:done], success=self._choose(st.booleans()))
        if done == len(calls):
            self._write(ActCompletedData(True, 0, 0))

    def _complete(self, calls: tuple[CallState, ...], *, success: bool) -> None:
        for call in calls:
            result = (TextPart(f"{call.id} is {len(self.events)}"),) if success else None
            status, error = ("success", None) if success else ("error", "no")
            self._write(ToolCompletedData(call.id, call.name, success, status, result, error))

    def cancel(self) -> None:
        context = EventContext(self.turn_id or self._id("turn"))
        notice = {"cancel_notice": True}
        asked = Message(
            self._id("message"), "user", (TextPart("Stop."),), to_rfc3339(self.now), metadata=notice
        )
        said = Message(
            self._id("message"), "agent", (TextPart("Stopped."),), to_rfc3339(self.now), metadata=notice
        )
        self._write(TurnCancelledData(context.turn_id or ""), context)
        self._write(InputMessageData(asked), context)
        self._write(OutputMessageCompletedData(said), context)
        self._write(SessionIdledData(context.turn_id or ""), context)

    def _end(self, data: EventData) -> None:
        context = msgspec.structs.replace(self._context(), exec_id=None)
        rest = not self.state.pending
        self._write(data, context)
        if rest:
            self._write(SessionIdledData(context.turn_id or ""), context)

    @property
    def turn_id(self) -> TurnId | None:
        """The turn that runs."""
        return None if isinstance(self.state, Idle) else self.state.turn.id

    def _context(self) -> EventContext:
        """Of what happens in the turn that runs."""
        if isinstance(self.state, Idle):
            return EventContext()
        exec_id = self.state.exec_id if isinstance(self.state, Reasoning | Calling) else None
        return EventContext(self.state.turn.id, self.state.turn.message_id, exec_id)

    def _write(self, data: EventData, context: EventContext | None = None) -> None:
        event = NewEvent(data, context or self._context(), self.now)
        self.now += 1_000
        self.events.append(event)
        self.state = fold([event], self.state)

    def _id(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}_{self.count:032x}"


def stored(events: list[NewEvent]) -> list[Event]:
    """The events as the log holds them."""
    return [
        Event(
            event_id(sequence, event.ts // 1000, sequence),
            "session_00000000000070008000000000000000",
            sequence,
            event.type,
            event.ts,
            to_json(event.context),
            to_json(event.data),
        )
        for sequence, event in enumerate(events, 1)
    ]


@st.composite
def logs(draw: st.DrawFn, *, whole: bool = False) -> list[NewEvent]:
    """A log, cut off anywhere, or (`whole`) only between two appends."""
    writer = Writer(draw)
    for name in draw(st.lists(st.sampled_from(MOVES), max_size=40)):
        writer.move(name)
    return writer.events if whole else writer.events[: draw(st.integers(0, len(writer.events)))]


def finish(writer: Writer, limit: int = 200) -> None:
    """Let the runner go on, and time pass, until nothing is left to be done."""
    for _ in range(limit):
        if isinstance(writer.state, Idle) and not writer.state.pending:
            return
        writer.act(next_action(writer.state, RULES, writer.now))
        writer.now += 301_000_000
    raise AssertionError(f"not at rest after {limit} steps: {writer.state}")
