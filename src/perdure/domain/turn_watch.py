"""Which turn handles a message, and which event ends it."""

from __future__ import annotations

from perdure.domain.events import (
    ENDED_TURN,
    Event,
    InputMessageData,
    ReasonStartedData,
    TurnCancelledData,
    TurnSealedData,
    TurnStartedData,
    WireEvent,
)
from perdure.domain.ids import MessageId, TurnId

WATCHED = (ReasonStartedData.kind, TurnStartedData.kind, *sorted(ENDED_TURN))
"""The kinds of event after the message's own that decide which turn handles it, and when that ends."""


class TurnWatch:
    """Detects the end of the turn that a message started or steered. Pure.

    A turn handles the message once a model call has begun after it. A cancelled turn handles every message
    before the cancellation. If a turn ended before it saw the message, the next turn handles it. A message
    that waits for its own turn is handled by that turn only.
    """

    def __init__(self, message_id: MessageId | str) -> None:
        self._message_id = message_id
        self._sent = False
        self._seen = False
        self._own_turn: TurnId | None = None
        """The message's turn, if it waits for it."""
        self.turn_id: TurnId | None = None
        """The turn that handles the message, as far as it is known."""

    def take(self, event: Event | WireEvent) -> bool:
        """Process the event; return whether it is the message or comes after it.

        The events of the turns that the message waits for do not count.
        """
        arrives = False
        if event.type == InputMessageData.kind:
            data = event.read(InputMessageData)
            if data.message.id == self._message_id:
                self._sent = arrives = True
                self.turn_id = event.context_struct().turn_id
                self._own_turn = self.turn_id if data.queued else None
        elif self._sent and (
            (event.type == ReasonStartedData.kind and self._own_turn is None)
            or (
                event.type == TurnStartedData.kind
                and event.context_struct().input_message_id == self._message_id
            )
        ):
            self._seen = True
            self._own_turn = None
            self.turn_id = event.context_struct().turn_id
        return self._sent and (self._own_turn is None or arrives or self.is_last(event))

    def is_last(self, event: Event | WireEvent) -> bool:
        """Whether this event, already passed to `take`, ends the message's turn."""
        if not self._sent or event.type not in ENDED_TURN:
            return False
        if self._own_turn is not None:
            # A cancel of another turn leaves it; a seal covers every message.
            return event.type == TurnSealedData.kind or (
                event.type == TurnCancelledData.kind and event.context_struct().turn_id == self._own_turn
            )
        return self._seen or event.type == TurnCancelledData.kind
