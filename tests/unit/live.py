"""What followers of an answer get while it is written."""

from __future__ import annotations

from perdure.domain.ids import MessageId, SessionId, TurnId
from perdure.domain.redaction import Redactor
from perdure.engine.live import LiveText
from perdure.store.bus import LocalBus

SESSION = SessionId("session_1")


def live_text(bus: LocalBus) -> LiveText:
    """A new answer of `SESSION`, of which pieces within a minute are published together."""
    return LiveText(
        bus,
        session_id=SESSION,
        turn_id=TurnId("turn_1"),
        message_id=MessageId("message_1"),
        sequence=1,
        interval=60.0,
        context="{}",
        redactor=Redactor({}),
    )
