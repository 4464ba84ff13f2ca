"""What the data of every kind of event has in common."""

from __future__ import annotations

from typing import ClassVar

from msgspec import Struct


class EventData(Struct, frozen=True):
    """The data of one kind of event.

    The class is the key: it names its kind, so that an event's type and its data cannot disagree.
    """

    kind: ClassVar[str]
    """The event's type in the log and on the wire."""
