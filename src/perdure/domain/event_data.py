"""The base class of the data of events."""

from __future__ import annotations

from typing import ClassVar

from msgspec import Struct


class EventData(Struct, frozen=True):
    """The data of one kind of event.

    The class names its kind, so that an event's type and data always match.
    """

    kind: ClassVar[str]
    """The event's type in the log and on the wire."""
