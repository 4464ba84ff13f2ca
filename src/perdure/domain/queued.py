"""Messages that wait for turns of their own, as the session's row counts them, and how many may wait."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from perdure.domain.errors import Conflict
from perdure.domain.ids import TurnId
from perdure.domain.messages import Message

MAX_QUEUED = 100
"""The most messages of a session that may wait for turns of their own."""
MAX_QUEUED_BYTES = 20_000_000
"""Their bytes together, as JSON. A message that waits alone may have any size that a message can have."""


class QueuedMessage(Struct, frozen=True, array_like=True):
    """A message that waits: the turn that it will begin, and its size in bytes as JSON."""

    turn_id: TurnId
    size: int


Queue = tuple[QueuedMessage, ...]


def size_of(message: Message) -> int:
    """The message's size in bytes, as JSON."""
    return len(msgspec.json.encode(message))


def without_turn(queue: Queue, turn_id: TurnId) -> Queue:
    """The queue once this turn has begun, or was cancelled before it began."""
    return tuple(each for each in queue if each.turn_id != turn_id) if queue else queue


def check_queue(queue: Queue, message: Message) -> None:
    """Check that another message may wait. Raises Conflict."""
    if len(queue) >= MAX_QUEUED:
        raise _full(f"{len(queue)} messages wait for their turns, and at most {MAX_QUEUED} may")
    if queue and sum(each.size for each in queue) + size_of(message) > MAX_QUEUED_BYTES:
        raise _full(
            f"with this one, the messages that wait for their turns have more than {MAX_QUEUED_BYTES} bytes"
        )


def _full(reason: str) -> Conflict:
    return Conflict(
        f"the session's queue is full: {reason}. Send the message when some of them have begun, or with "
        "another `controls.when_busy`",
        code="queue_full",
    )
