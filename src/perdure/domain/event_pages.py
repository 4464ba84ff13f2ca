"""Pages of a session's log."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.domain.events import WireEvent


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
