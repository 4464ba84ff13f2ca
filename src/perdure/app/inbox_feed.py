"""Followers of the inbox: what was added and removed since they began.

They look at the rows of the sessions that wait, so they find what every process writes, and need no signal
that could be lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from perdure.app.context import App
from perdure.app.feed import Frame
from perdure.app.inbox_lists import InboxFilter, Waiting, agent_named, counted, views, waiting_items
from perdure.app.inbox_snapshots import FRESH, Snapshot, State
from perdure.domain.accounts import Caller
from perdure.domain.ids import AgentId, SessionId
from perdure.domain.inbox import InboxCount, InboxItem, InboxItemId, InboxKind
from perdure.store.database import Tx
from perdure.store.inbox import state_of_waiting

LISTENING, ADDED, REMOVED = "inbox.listening", "inbox.item_added", "inbox.item_removed"

AT_ONCE = 50
"""Items that are added or removed in one batch of frames."""


class Listening(Struct, frozen=True):
    """What is in the inbox. From now on, nothing that is added or removed is missed."""

    count: InboxCount


class Added(Struct, frozen=True):
    item: InboxItem


class Removed(Struct, frozen=True):
    id: InboxItemId
    kind: InboxKind
    session_id: SessionId


async def open_inbox_follower(
    app: App, caller: Caller, filters: InboxFilter, *, initial: bool
) -> InboxFollower:
    """Begin to follow the inbox; `initial`: what is in it now comes first, as added."""
    agent_id = await app.database.read(lambda tx: agent_named(tx, caller.organization_id, filters))
    return InboxFollower(app, caller, filters, agent_id, initial=initial)


class InboxFollower:
    """One follower: compares what it has reported with the organization's inbox. Never `gone`."""

    gone = False

    def __init__(
        self, app: App, caller: Caller, filters: InboxFilter, agent_id: AgentId | None, *, initial: bool
    ) -> None:
        self._app = app
        self._caller = caller
        self._filters = filters
        self._agent_id = agent_id
        self._initial = initial
        self._known: dict[str, Waiting] = {}
        """What the client knows of."""
        self._listening = False
        self._seen = 0
        """The number of the snapshot that was reported completely."""
        self._hurry = asyncio.Event()
        app.inboxes.follow(caller.organization_id)

    @property
    def behind(self) -> bool:
        """Whether the frame `inbox.listening` has not been returned."""
        return not self._listening

    def hurry(self) -> None:
        """Look again at once."""
        self._hurry.set()

    def close(self) -> None:
        """End the following."""
        self._app.inboxes.leave(self._caller.organization_id)

    async def frames(self, timeout: float) -> list[Frame]:
        """Return the next frames, after waiting up to `timeout` seconds; an empty list if none came."""
        until = time.monotonic() + timeout
        while True:
            snapshot = await self._look(now=not self._listening or self._hurry.is_set())
            if not self._listening and not self._initial:
                self._known, self._seen = self._wanted(snapshot), snapshot.number
            frames = await self._changes(snapshot) if snapshot.number != self._seen else []
            if not self._listening and not frames:
                self._listening = True
                return [_frame(LISTENING, Listening(counted(self._caller, list(self._known.values()))))]
            left = until - time.monotonic()
            if frames or left <= 0 or self._hurry.is_set():
                self._hurry.clear()
                return frames
            try:
                async with asyncio.timeout(min(left, FRESH)):
                    await self._hurry.wait()
            except TimeoutError:
                pass

    async def _look(self, *, now: bool) -> Snapshot[Waiting]:
        app, org_id = self._app, self._caller.organization_id

        async def state() -> State:
            return await app.database.read(lambda tx: state_of_waiting(tx, org_id), long=True)

        async def read() -> Mapping[str, Waiting]:
            items = await app.database.read(lambda tx: waiting_items(app, tx, org_id), long=True)
            return {each.id: each for each in items}

        return await app.inboxes.look(org_id, state, read, now=now)

    def _wanted(self, snapshot: Snapshot[Waiting]) -> dict[str, Waiting]:
        return {
            key: each
            for key, each in snapshot.items.items()
            if each.fits(self._filters, self._agent_id, self._caller)
        }

    async def _changes(self, snapshot: Snapshot[Waiting]) -> list[Frame]:
        """Return some of the changes, and note those as reported; the rest is found again."""
        known, wanted = self._known, self._wanted(snapshot)
        removed = [key for key in known if key not in wanted]
        added = [key for key in wanted if key not in known]
        if len(removed) <= AT_ONCE and len(added) <= AT_ONCE:
            self._seen = snapshot.number
        removed, added = removed[:AT_ONCE], added[:AT_ONCE]
        frames = [
            _frame(REMOVED, Removed(each.id, each.kind, each.session.id))
            for each in (known.pop(key) for key in removed)
        ]
        items = await self._read([wanted[key] for key in added]) if added else []
        known.update((key, wanted[key]) for key in added)
        frames += [_frame(ADDED, Added(item)) for item in items]
        return frames

    async def _read(self, found: list[Waiting]) -> list[InboxItem]:
        """Read items in parts, because a part ends when it is large."""
        items: list[InboxItem] = []
        while found:

            async def work(tx: Tx, rest: list[Waiting] = found) -> tuple[list[InboxItem], int]:
                return await views(self._app, tx, self._caller, rest)

            part, count = await self._app.database.read(work, long=True)
            items += part
            found = found[count:]
        return items


def _frame(kind: str, data: Struct) -> Frame:
    return Frame("", kind, msgspec.json.encode(data))
