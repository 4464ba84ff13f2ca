"""The part of a session's row that is folded from its log."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct
from msgspec.structs import replace

from perdure.domain.data_flow import CALLBACK, External, with_sources
from perdure.domain.decisions import ANYBODY
from perdure.domain.events import (
    LATE,
    ActCompletedData,
    BudgetResumedData,
    InputMessageData,
    LlmGenerationData,
    NewEvent,
    OutputMessageCompletedData,
    SessionActivatedData,
    SessionHandedOffData,
    SessionIdledData,
    SessionStartedData,
    TaskUpdatedData,
    ToolCall,
    ToolCallRequestedData,
    ToolCompletedData,
    ToolParkedData,
    ToolResumedData,
    ToolsLoadedData,
    TurnCancelledData,
    TurnCompletedData,
    TurnFailedData,
    TurnParkedData,
    TurnResumedData,
    TurnSealedData,
    TurnStartedData,
    is_cancel_notice,
)
from perdure.domain.ids import ToolCallId, TurnId
from perdure.domain.loaded_tools import with_loaded
from perdure.domain.messages import Message, Usage, preview_of, text_of
from perdure.domain.parked import (
    ASKED,
    ASKED_BY_TOOLS,
    LIMITS,
    ParkedCall,
    deadline_of,
    next_deadline,
    parked_turn,
)
from perdure.domain.queued import Queue, QueuedMessage, size_of, without_turn
from perdure.domain.sessions import Status
from perdure.domain.speakers import AgentAt
from perdure.domain.times import Micros, from_rfc3339
from perdure.domain.tools import APPROVE, call_of_question


class Projection(Struct, frozen=True):
    """The part of a session's row that is a fold of its log; folding the whole log gives the same result.

    Attributes:
        head: the sequence of the last event; 0 for an empty log.
        turn_id: the turn that runs or is parked; None between turns.
        turn_after: the sequence before the first event that the current or next turn depends on.
        wake_at: the next deadline of a parked call, or when a parked turn goes on; or None.
        parked: the parked calls, and what a parked turn waits for.
        queued: the messages that wait for turns of their own, oldest first.
        loaded_tools: the deferred tools that the model is offered, in the order of loading.
        external: where text from outside in the session came from; empty as long as it has none.
        handed_to: the session's agent, once it was handed off; until then, it is not in the log.
    """

    head: int = 0
    status: Status = "started"
    turn_id: TurnId | None = None
    turn_after: int = 0
    wake_at: Micros | None = None
    preview: str | None = None
    output_preview: str | None = None
    usage: Usage | None = None
    started_at: Micros | None = None
    finished_at: Micros | None = None
    parked: tuple[ParkedCall, ...] = ()
    queued: Queue = ()
    loaded_tools: tuple[str, ...] = ()
    handed_to: AgentAt | None = None
    external: tuple[External, ...] = ()


def project(projection: Projection, events: Iterable[NewEvent]) -> Projection:
    """The projection after these events, which follow its head without a gap."""
    head = projection.head
    for event in events:
        head += 1
        handler = _HANDLERS.get(event.data.kind)
        if handler is not None:
            projection = handler(projection, event, head)
    return replace(projection, head=head)


def _input_message(old: Projection, event: NewEvent, head: int) -> Projection:
    data = event.read(InputMessageData)
    message = data.message
    if is_cancel_notice(message, event):
        return old
    late = () if data.origin != "callback" or data.external else (External(CALLBACK),)
    old = _with_external(old, (*data.external, *late))
    preview = old.preview if old.preview is not None else preview_of(text_of(message.content))
    if data.origin in LATE and _asks(old):
        return old  # it waits until the session's client or person has answered
    if data.queued:
        waiting = _queued(old.queued, event, message)  # it waits for its own turn
        return replace(old, preview=preview, queued=waiting)
    if old.status == "paused" and data.origin is not None:
        return replace(old, preview=preview)  # only a person's message makes the turn try again
    if old.status in ("active", "waiting_for_tool_results", "paused"):
        return replace(_with_parked(old, old.parked), status="active", preview=preview)
    turn_id = event.context.turn_id
    return replace(old, status="active", turn_id=turn_id, turn_after=head - 1, preview=preview)


def _with_external(old: Projection, sources: tuple[External, ...]) -> Projection:
    return replace(old, external=with_sources(old.external, sources)) if sources else old


def _session_started(old: Projection, event: NewEvent, head: int) -> Projection:
    return _with_external(old, event.read(SessionStartedData).external)


def _task_updated(old: Projection, event: NewEvent, head: int) -> Projection:
    """What a task says reaches the model in several ways: from now on, it may be in the context."""
    return _with_external(old, event.read(TaskUpdatedData).task.external)


def _queued(queue: Queue, event: NewEvent, message: Message) -> Queue:
    turn_id = event.context.turn_id
    return queue if turn_id is None else (*queue, QueuedMessage(turn_id, size_of(message)))


def _turn_started(old: Projection, event: NewEvent, head: int) -> Projection:
    # A sealed session is finished, until a new message starts a turn again.
    turn_id = event.read(TurnStartedData).turn_id
    return replace(
        old,
        turn_id=turn_id,
        started_at=old.started_at or event.ts,
        finished_at=None,
        queued=without_turn(old.queued, turn_id),
    )


def _output_completed(old: Projection, event: NewEvent, head: int) -> Projection:
    text = preview_of(text_of(event.read(OutputMessageCompletedData).message.content))
    return replace(old, output_preview=text or old.output_preview)


def _generation(old: Projection, event: NewEvent, head: int) -> Projection:
    usage = event.read(LlmGenerationData).metadata.usage
    return old if usage is None else replace(old, usage=usage.plus(old.usage))


def _call_requested(old: Projection, event: NewEvent, head: int) -> Projection:
    data = event.read(ToolCallRequestedData)
    until = deadline_of(event.ts, data.timeout_ms)
    asked = tuple(
        replace(
            _asked(call, until),
            asked_at=head,
            index=index,
            since=event.ts,
            approvers=data.approvers or ANYBODY,
        )
        for index, call in enumerate(data.tool_calls)
    )
    return replace(_with_parked(old, (*old.parked, *asked)), status="waiting_for_tool_results")


def _asked(call: ToolCall, until: Micros) -> ParkedCall:
    if call.name != APPROVE:
        return ParkedCall("client", call.id, call.name, until)
    name = call.arguments.get("tool_name") if isinstance(call.arguments, dict) else None
    return ParkedCall("approval", call_of_question(call.id), str(name), until)


def _tool_parked(old: Projection, event: NewEvent, head: int) -> Projection:
    data = event.read(ToolParkedData)
    until = deadline_of(event.ts, data.timeout_ms)
    call = ParkedCall(data.parked_kind, data.tool_call_id, data.tool_name, until, head, 0, event.ts)
    if any(each.tool_call_id == call.tool_call_id for each in old.parked):  # it has a new deadline
        calls = (call if each.tool_call_id == call.tool_call_id else each for each in old.parked)
        return _with_parked(old, tuple(calls))
    return _with_parked(old, (*old.parked, call))


def _tool_completed(old: Projection, event: NewEvent, head: int) -> Projection:
    data = event.read(ToolCompletedData)
    if data.external is not None:
        old = _with_external(old, (data.external,))
    if not old.parked and old.status != "waiting_for_tool_results":
        return old
    call_id = call_of_question(data.tool_call_id) if data.tool_name == APPROVE else data.tool_call_id
    ended = next((call for call in old.parked if call.tool_call_id == call_id), None)
    new = _without(old, call_id) if ended is not None else old
    # A decision about one call, or the rejection that follows from it, may leave other approvals pending. The
    # last one is followed by `session.activated`. The results of callbacks, and of calls that were approved
    # before the others, leave the others pending, too.
    deferred = ended is not None and ended.kind not in ASKED
    if data.tool_name == APPROVE or data.status == "rejected" or deferred or _asks(new):
        return new
    return _active(new)


def _act_completed(old: Projection, event: NewEvent, head: int) -> Projection:
    # Only now does nothing run that a sweep would have to see to: a person is all that the session waits for.
    asks = old.status == "active" and any(call.kind in ASKED_BY_TOOLS for call in old.parked)
    return replace(old, status="waiting_for_tool_results") if asks else old


def _tool_resumed(old: Projection, event: NewEvent, head: int) -> Projection:
    return _active(_without(old, event.read(ToolResumedData).tool_call_id))


def _asks(projection: Projection) -> bool:
    """Whether a call waits for a client or a person."""
    return any(call.kind in ASKED for call in projection.parked)


def _without(old: Projection, call_id: ToolCallId) -> Projection:
    return _with_parked(old, tuple(call for call in old.parked if call.tool_call_id != call_id))


def _with_parked(old: Projection, parked: tuple[ParkedCall, ...]) -> Projection:
    return replace(old, parked=parked, wake_at=next_deadline(parked))


def _active(old: Projection) -> Projection:
    return replace(old, status="active", wake_at=next_deadline(old.parked))


def _tools_loaded(old: Projection, event: NewEvent, head: int) -> Projection:
    return replace(old, loaded_tools=with_loaded(old.loaded_tools, event.read(ToolsLoadedData).tool_names))


def _handed_off(old: Projection, event: NewEvent, head: int) -> Projection:
    return replace(old, handed_to=event.read(SessionHandedOffData).after())


def _activated(old: Projection, event: NewEvent, head: int) -> Projection:
    return _active(old)


def _turn_parked(old: Projection, event: NewEvent, head: int) -> Projection:
    data = event.read(TurnParkedData)
    waits = _with_parked(old, (*old.parked, _parked_turn(data, event, head)))
    return replace(waits, status="paused") if data.parked_kind == "budget" else waits


def _parked_turn(data: TurnParkedData, event: NewEvent, head: int) -> ParkedCall:
    return parked_turn(data.parked_kind, from_rfc3339(data.until), head, event.ts, data.budget_id)


def _turn_resumed(old: Projection, event: NewEvent, head: int) -> Projection:
    return _active(_with_parked(old, tuple(each for each in old.parked if each.kind not in LIMITS)))


def _turn_sealed(old: Projection, event: NewEvent, head: int) -> Projection:
    return replace(_with_parked(old, ()), turn_id=None, finished_at=event.ts)


def _turn_ended(old: Projection, event: NewEvent, head: int) -> Projection:
    # Without `session.idled`, a message is left that begins the next turn.
    status: Status = "active" if old.status in ("waiting_for_tool_results", "paused") else old.status
    return replace(_with_parked(old, ()), turn_id=None, status=status)


def _turn_cancelled(old: Projection, event: NewEvent, head: int) -> Projection:
    turn_id = event.read(TurnCancelledData).turn_id
    return replace(_turn_ended(old, event, head), queued=without_turn(old.queued, turn_id))


def _idled(old: Projection, event: NewEvent, head: int) -> Projection:
    return replace(_with_parked(old, ()), status="idle", turn_id=None, turn_after=head, queued=())


_HANDLERS: dict[str, Callable[[Projection, NewEvent, int], Projection]] = {
    SessionStartedData.kind: _session_started,
    InputMessageData.kind: _input_message,
    TurnStartedData.kind: _turn_started,
    OutputMessageCompletedData.kind: _output_completed,
    LlmGenerationData.kind: _generation,
    ToolCallRequestedData.kind: _call_requested,
    ActCompletedData.kind: _act_completed,
    ToolParkedData.kind: _tool_parked,
    ToolResumedData.kind: _tool_resumed,
    ToolCompletedData.kind: _tool_completed,
    ToolsLoadedData.kind: _tools_loaded,
    TaskUpdatedData.kind: _task_updated,
    SessionActivatedData.kind: _activated,
    SessionHandedOffData.kind: _handed_off,
    TurnParkedData.kind: _turn_parked,
    TurnResumedData.kind: _turn_resumed,
    BudgetResumedData.kind: _activated,
    TurnSealedData.kind: _turn_sealed,
    TurnCompletedData.kind: _turn_ended,
    TurnFailedData.kind: _turn_ended,
    TurnCancelledData.kind: _turn_cancelled,
    SessionIdledData.kind: _idled,
}
"""By kind: computes the projection after the event with sequence `head`. `project` sets its `head`."""
