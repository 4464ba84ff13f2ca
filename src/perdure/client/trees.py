"""Follow a tree of sessions: a session, and all that it and its sub-agents begin.

Each session has a stream of its own, which resumes by itself; a stream of a tree needs no other cursor.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any

from msgspec import Struct

from perdure.client.errors import NotFound
from perdure.client.events import data_of
from perdure.client.tasks import TaskMethods
from perdure.domain.events import WireEvent
from perdure.domain.ids import sequence_of
from perdure.domain.tasks import SessionTask, TaskState

OPEN: tuple[TaskState, ...] = ("queued", "running", "awaiting_input")
"""The states of tasks that go on."""
DONE = ("session.idled", "turn.sealed")
"""The types of event with which a sub-agent is done with its task."""
BEGUN = ("input.message", "turn.started")
"""The types of event with which a sub-agent has work again."""
AHEAD = 100
"""How many events are read ahead of whoever takes them."""

Open = Callable[[str, str | None], AsyncGenerator[WireEvent, None]]
"""Follows the session with this id, from the event after this one."""


class _End(Struct, frozen=True):
    """A session is not followed any more."""

    session_id: str


class TreeFollower:
    """Merges the events of the sessions of a tree.

    Those of each session come in order, and those of a sub-agent's task before its end is told above it.

    Args:
        client: lists what had been begun before.
        session_id: the session at the top of what is followed.
        open_session: follows a session below it.
    """

    def __init__(self, client: TaskMethods, session_id: str, open_session: Open) -> None:
        self._client = client
        self._top = session_id
        self._open = open_session
        self._events: asyncio.Queue[WireEvent | _End] = asyncio.Queue(AHEAD)
        self._followers: dict[str, asyncio.Task[None]] = {}
        self._ended: set[str] = set()
        """The sessions whose tasks have ended, as their parents say."""
        self._read: set[str] = set()
        """The sessions whose events up to the end of the task were returned, or that are gone."""
        self._reads: dict[str, asyncio.Event] = {}
        """Those events of sub-agents were returned, by session."""

    async def merged(
        self, events: AsyncGenerator[WireEvent, None], since_id: str | None
    ) -> AsyncGenerator[WireEvent, None]:
        """Yield these events of the session at the top, and those of all sessions below it.

        This ends with `events`, once the events of all tasks that have ended by then were yielded.

        Args:
            events: the events of the session at the top.
            since_id: the event after which they begin. What goes on below the session is followed from now.

        Raises:
            ApiError, Unreachable: a session cannot be followed. One that is deleted is left out.
        """
        try:
            self._begin(self._top, events)
            await self._adopt(self._top, since_id)
            while self._top not in self._read or not self._ended <= self._read:
                item = await self._events.get()
                if isinstance(item, _End):
                    await self._followers[item.session_id]
                    self._has_read(item.session_id)
                    continue
                self._note(item)
                yield item
        finally:
            for follower in self._followers.values():
                follower.cancel()
            await asyncio.gather(*self._followers.values(), return_exceptions=True)

    async def _adopt(self, session_id: str, since_id: str | None) -> None:
        """Follow the sub-agents that work for a session, unless its events after `since_id` have them."""
        tasks = await self._client.list_tasks(session_id, state=OPEN)
        if not tasks:
            return
        after = 0 if since_id is None else sequence_of(since_id)
        begun = await self._client.list_events(
            session_id, types=("task.created",), after_sequence=after, limit=1000
        )
        announced = {data_of(event).task.id for event in begun}
        for task in tasks:
            child_id = task.links.child_session_id
            if child_id is None or task.id in announced:
                continue
            try:
                last = await self._client.last_event_id(child_id)
                self._begin(child_id, self._open(child_id, last))
                if await self._is_done(child_id, last):
                    self._has_read(child_id)  # its end is on the way to its parent
                await self._adopt(child_id, last)
            except NotFound:
                continue  # deleted meanwhile

    async def _is_done(self, session_id: str, last_id: str | None) -> bool:
        """Whether a sub-agent was done with its task at this event."""
        after = 0 if last_id is None else sequence_of(last_id)
        found = await self._client.list_events(
            session_id, types=(*DONE, *BEGUN), before_sequence=after + 1, newest_first=True, limit=1
        )
        return bool(found) and found[0].type in DONE

    def _has_read(self, session_id: str) -> None:
        self._read.add(session_id)
        self._reads.setdefault(session_id, asyncio.Event()).set()

    def _begin(self, session_id: str, events: AsyncGenerator[WireEvent, None]) -> None:
        follower = self._follow_top(events) if session_id == self._top else self._follow(events)
        self._followers[session_id] = asyncio.create_task(self._reporting(session_id, follower))

    def _note(self, event: WireEvent) -> None:
        """Follow a sub-agent that begins; remember what has ended."""
        if event.type in DONE:
            if event.session_id != self._top:
                self._has_read(event.session_id)
        elif event.type in ("task.created", "task.updated"):
            task: SessionTask = data_of(event).task
            child_id = task.links.child_session_id
            if child_id is None or task.session_id != event.session_id:
                return  # a tool's task; or the history of a fork, whose tasks are the original's
            if task.ended:
                if child_id in self._followers:
                    self._ended.add(child_id)
            elif event.type == "task.created" and child_id not in self._followers:
                self._begin(child_id, self._open(child_id, None))

    async def _reporting(self, session_id: str, follower: Coroutine[Any, Any, None]) -> None:
        """Run a follower, and say that it has ended, unless it is cancelled."""
        try:
            await follower
        except Exception:
            await self._events.put(_End(session_id))  # whoever takes it finds the error
            raise
        await self._events.put(_End(session_id))

    async def _follow_top(self, events: AsyncGenerator[WireEvent, None]) -> None:
        async with aclosing(events):
            async for event in events:
                await self._put(event)

    async def _put(self, event: WireEvent) -> None:
        """Pass on an event, the end of a sub-agent's task after the sub-agent's own events."""
        if event.type in ("task.created", "task.updated"):
            task: SessionTask = data_of(event).task
            child_id = task.links.child_session_id
            if child_id is not None and task.session_id == event.session_id:
                if event.type == "task.created":
                    self._reads.setdefault(child_id, asyncio.Event())
                elif task.ended and child_id in self._reads:
                    await self._reads[child_id].wait()
        await self._events.put(event)

    async def _follow(self, events: AsyncGenerator[WireEvent, None]) -> None:
        """Pass on the events of a sub-agent until it is done and nothing that it has begun goes on."""
        life = _Life()
        with suppress(NotFound):  # it was deleted
            async with aclosing(events):
                async for event in events:
                    await self._put(event)
                    if life.is_over_with(event):
                        return


class _Life:
    """Whether a sub-agent's session is done for good, as its events tell. Its own tasks can wake it."""

    def __init__(self) -> None:
        self._idle = False
        self._tasks: set[str] = set()

    def is_over_with(self, event: WireEvent) -> bool:
        """Note the event; return whether none that matters follows."""
        if event.type in DONE:
            self._idle = True
        elif event.type in BEGUN:
            self._idle = False
        elif event.type == "task.created":
            self._tasks.add(data_of(event).task.id)
        elif event.type == "task.updated":
            task: SessionTask = data_of(event).task
            if task.ended and task.id in self._tasks:
                self._tasks.discard(task.id)
                self._idle = self._idle and task.wake_policy == "silent"
        return self._idle and not self._tasks
