"""Messages that no model call has seen yet: they begin a turn, steer one, or wait for their own."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from perdure.domain.events import LATE, AnyEvent, InputMessageData
from perdure.domain.ids import MessageId, TurnId
from perdure.domain.messages import Controls, preview_of, text_of
from perdure.domain.outputs import OutputSchema
from perdure.domain.speakers import Speaker
from perdure.domain.trace_context import TraceContext


class PendingMessage(Struct, frozen=True):
    """A message that no model call has seen yet.

    Attributes:
        turn_id: the turn that it shall begin or steer; None once that turn has ended.
        preview: the start of its text.
        scheduled: a schedule sent it, and no person.
        late: it is the result of a call that continued in the background, or about a task.
        queued_at: its sequence, if it waits for a turn of its own.
        controls: the options of a message that waits for its own turn.
        output_schema: the schema that it sets for the final answer of its turn.
        addressed: the participant that it is for; None for the session's own agent.
        trace: the span that sent it.
    """

    message_id: MessageId
    turn_id: TurnId | None
    preview: str
    scheduled: bool = False
    late: bool = False
    queued_at: int | None = None
    controls: Controls | None = None
    output_schema: OutputSchema | None = None
    addressed: Speaker | None = None
    trace: TraceContext | None = None


Pending = tuple[PendingMessage, ...]


def pending_message(data: InputMessageData, event: AnyEvent, sequence: int) -> PendingMessage:
    """The message of this event."""
    message = data.message
    return PendingMessage(
        message.id,
        event.context_struct().turn_id,
        preview_of(text_of(message.content)),
        scheduled=data.origin == "schedule",
        late=data.origin in LATE,
        queued_at=sequence if data.queued else None,
        controls=message.controls if data.queued else None,
        output_schema=message.controls.output_schema if message.controls is not None else None,
        addressed=data.addressed,
        trace=data.trace,
    )


def schema_of(pending: Pending) -> OutputSchema | None:
    """The schema that the newest of these messages with one sets for the final answer."""
    return next((each.output_schema for each in reversed(pending) if each.output_schema is not None), None)


def steering(pending: Pending) -> Pending:
    """Those that the next model call sees, whichever turn makes it."""
    return tuple(each for each in pending if each.queued_at is None) if pending else ()


def queued(pending: Pending) -> Pending:
    """Those that wait for a turn of their own."""
    return tuple(each for each in pending if each.queued_at is not None) if pending else ()


def first_of(pending: Pending) -> PendingMessage:
    """The one that begins the next turn: those that wait for their own turn come after all others."""
    return next((each for each in pending if each.queued_at is None), pending[0])


def after_end(pending: Pending, ended: TurnId | None) -> Pending:
    """Those left after the end of a turn. Messages that were to steer it are left to the next one."""
    return tuple(replace(each, turn_id=None) if each.turn_id == ended else each for each in pending)


def after_cancel(pending: Pending, cancelled: TurnId) -> Pending:
    """Those left after a cancel, which covers all but those that wait for turns of their own."""
    return tuple(each for each in queued(pending) if each.turn_id != cancelled)
