"""Pages and statistics of a session's log."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.domain.events import WireEvent
from perdure.domain.times import Timestamp


class EventPage(Struct, frozen=True, omit_defaults=True):
    """A page of events."""

    data: Annotated[tuple[WireEvent, ...], Meta(description="The events.")]
    has_more: Annotated[
        bool,
        Meta(
            description=(
                "True if the page ended before its limit, because of its size in bytes or because the search "
                "took long: continue after its last event. Otherwise absent."
            )
        ),
    ] = False


class KindCount(Struct, frozen=True):
    """The number of events of one type."""

    event_type: Annotated[str, Meta(description="The type of event.", examples=["turn.started"])]
    count: Annotated[int, Meta(description="The number of events of this type.", examples=[1])]


class EventsSummary(Struct, frozen=True, omit_defaults=True):
    """Statistics of a log."""

    total: Annotated[int, Meta(description="The number of events.", examples=[9])]
    turn_count: Annotated[int, Meta(description="The number of turns that started.", examples=[1])]
    error_count: Annotated[int, Meta(description="The number of turns that failed.", examples=[0])]
    by_type: Annotated[tuple[KindCount, ...], Meta(description="The number of events of each type.")]
    first_ts: Annotated[
        Timestamp | None,
        Meta(description="The time of the first event.", examples=["2026-03-14T09:26:53.589793Z"]),
    ] = None
    last_ts: Annotated[
        Timestamp | None,
        Meta(description="The time of the last event.", examples=["2026-03-14T09:26:54.731204Z"]),
    ] = None
