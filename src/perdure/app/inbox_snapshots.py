"""The inboxes that somebody follows, as this process saw them last."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

from msgspec import Struct

from perdure.domain.ids import OrgId

T = TypeVar("T")

FRESH = 1.0
"""Seconds for which a look at an inbox is good enough."""

WHOLE = 15.0
"""Seconds after which an inbox is read whole, even if its sessions do not seem to have changed."""

State = tuple[int, int, int]


class Snapshot(Struct, Generic[T], frozen=True):
    """An inbox at some time.

    Attributes:
        number: another one for each change.
        items: the items by id.
    """

    number: int
    items: Mapping[str, T]


class _Inbox:
    """One inbox: all its followers in this process share one look at the database."""

    def __init__(self) -> None:
        self.followers = 0
        self.lock = asyncio.Lock()
        self.snapshot: Snapshot[object] | None = None
        self.state: State = (0, 0, 0)
        self.looked = self.read = float("-inf")


class Inboxes:
    """The followed inboxes. They cost nothing while nobody follows one."""

    def __init__(self) -> None:
        self._inboxes: dict[OrgId, _Inbox] = {}

    def follow(self, org_id: OrgId) -> None:
        """Keep an organization's inbox from now on. End it with `leave`."""
        self._inboxes.setdefault(org_id, _Inbox()).followers += 1

    def leave(self, org_id: OrgId) -> None:
        """One follower has left."""
        inbox = self._inboxes[org_id]
        inbox.followers -= 1
        if not inbox.followers:
            del self._inboxes[org_id]

    async def look(
        self,
        org_id: OrgId,
        state: Callable[[], Awaitable[State]],
        read: Callable[[], Awaitable[Mapping[str, T]]],
        *,
        now: bool = False,
    ) -> Snapshot[T]:
        """Return the inbox, not older than `FRESH`.

        Args:
            state: reads numbers that differ once the inbox may have changed, which is cheap.
            read: reads the items by id.
            now: whether it must not be older than this call.
        """
        inbox, asked = self._inboxes[org_id], time.monotonic()
        async with inbox.lock:
            began = time.monotonic()
            known = inbox.snapshot
            if known is None or inbox.looked < (asked if now else began - FRESH):
                numbers = await state()  # first: a change after it is found by the next look
                if known is None or numbers != inbox.state or began - inbox.read > WHOLE:
                    items = await read()
                    if known is None or items != known.items:
                        known = Snapshot((0 if known is None else known.number) + 1, items)
                    inbox.snapshot, inbox.state, inbox.read = known, numbers, began
                inbox.looked = began
            return known  # type: ignore[return-value]  # what `read` returned
