"""The bus: wake-ups, live text and stop signals between the processes of one installation.

Correctness does not depend on the bus: a follower that misses a wake-up finds the event at its next poll of
the log, and a runner that misses a stop is fenced at its next append. With SQLite this module is the whole
bus; `postgres.bus` carries the same signals between processes and delivers them through a `LocalBus` in each.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Literal, Protocol

from msgspec import Struct

from perdure.domain.events import Event
from perdure.domain.ids import SessionId, TaskId, TurnId

LiveKind = Literal["text", "thinking", "stdout", "stderr", "progress"]


class Appended(Struct, frozen=True):
    """The log of a session has grown to `head`; 0 means that the session was deleted.

    `events` are the new events; they are empty if another process sent the signal.
    """

    session_id: SessionId
    head: int
    events: tuple[Event, ...] = ()


class Live(Struct):
    """A delta of live text: of a message, of thinking, or of a tool's output.

    Attributes:
        key: the message's id, or the tool call's id.
        sequence: the sequence of the log's last event when the runner sent the delta.
        offset: where `text` begins in the whole text, in characters; 0 starts a new text.
        accumulated: the whole text so far, `text` included.
        frames: encoded wire forms by cache key, so that a process encodes each once for all followers.
    """

    session_id: SessionId
    turn_id: TurnId
    key: str
    kind: LiveKind
    sequence: int
    offset: int
    text: str
    accumulated: str
    name: str = ""
    context: str = "{}"
    frames: dict[str, bytes] | None = None


class Stop(Struct, frozen=True):
    """Runners of this session with an older epoch must stop: it was cancelled, deleted or claimed again.

    Attributes:
        gone: it was deleted.
        task_id: what must stop is only the tool that runs in the background for this task of the session.
    """

    session_id: SessionId
    epoch: int
    gone: bool = False
    task_id: TaskId | None = None


Signal = Appended | Live | Stop

SUBSCRIPTION_LIMIT = 256
SUBSCRIPTION_SIZE = 512 * 1024
"""The most signals, and characters in them, that wait for a follower, to bound memory. Beyond these limits
signals are dropped, and the follower reads the log again."""


class Subscription:
    """A follower's bounded queue of the signals of one session.

    Args:
        live: whether live text is wanted, too.
    """

    __slots__ = ("_ready", "_size", "live", "lost", "session_id", "signals")

    def __init__(self, session_id: SessionId, *, live: bool = True) -> None:
        self.session_id = session_id
        self.live = live
        self.signals: deque[Appended | Live] = deque()
        self.lost = False
        """Whether signals were dropped since the last `drain`, so that the log must be read again."""
        self._size = 0
        self._ready: asyncio.Future[None] | None = None

    def push(self, signal: Appended | Live) -> None:
        """Add a signal and wake the follower."""
        size = _size_of(signal)
        if len(self.signals) >= SUBSCRIPTION_LIMIT or (
            self.signals and self._size + size > SUBSCRIPTION_SIZE
        ):
            self.signals.clear()
            self._size = 0
            self.lost = True
        self.signals.append(signal)
        self._size += size
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)

    def lose(self) -> None:
        """Mark signals as possibly lost, and wake the follower, which then reads the log again."""
        self.lost = True
        if self._ready is not None:
            _finish(self._ready)

    def drain(self) -> tuple[list[Appended | Live], bool]:
        """Take the signals since the last call, and return whether some were dropped."""
        signals, lost = list(self.signals), self.lost
        self.signals.clear()
        self._size = 0
        self.lost = False
        return signals, lost

    async def wait(self, timeout: float) -> bool:
        """Wait for a signal, up to `timeout` seconds; return whether one came or was lost."""
        if self.signals or self.lost:
            return True
        loop = asyncio.get_running_loop()
        self._ready = ready = loop.create_future()
        timer = loop.call_later(timeout, _finish, ready)
        try:
            await ready
        finally:
            timer.cancel()
            self._ready = None
        return bool(self.signals or self.lost)


def _size_of(signal: Appended | Live) -> int:
    return (
        len(signal.accumulated)
        if isinstance(signal, Live)
        else sum(len(event.data) for event in signal.events)
    )


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


DRAFTED = ("text", "thinking")
"""The kinds of live text that are kept for followers who join later; a tool's output is not kept."""


def completes(signal: Appended) -> bool:
    """Return whether the session's live text has ended: it is now in the log, or never will be."""
    if not signal.events:
        return True
    return any(
        e.type in ("output.message.completed", "reason.completed", "session.idled") for e in signal.events
    )


class Bus(Protocol):
    """The port that runners, followers and use cases see."""

    def publish(self, signal: Signal) -> None:
        """Send a signal to all subscribers. Returns at once; the signal may be lost."""
        ...

    def subscribe(self, session_id: SessionId, *, live: bool = True) -> Subscription:
        """Subscribe to a session's signals from now on. End it with `unsubscribe`.

        Args:
            live: whether live text is wanted, too.
        """
        ...

    def unsubscribe(self, subscription: Subscription) -> None: ...

    def on_stop(self, call: Callable[[Stop], None]) -> None:
        """Register a function (the worker's) to be called with every `Stop`."""
        ...

    def on_grown(self, call: Callable[[SessionId, int], None]) -> None:
        """Register a function to be called when another process has made a log grow, with the new head."""
        ...

    def discard(self, session_id: SessionId) -> None:
        """Discard the session's live text: its runner in this process has stopped before the end."""
        ...

    async def drafts(self, session_id: SessionId) -> list[Live]:
        """Return the live text of the session: one `Live` with the whole text for each incomplete message.

        Subscribe first. Signals that arrive meanwhile may repeat a part of the text: skip a `Live` whose end
        (offset and text) is not beyond the text that you have.
        """
        ...

    async def close(self) -> None: ...


class LocalBus:
    """The bus within one process; with SQLite, the whole bus."""

    def __init__(self) -> None:
        self._subscriptions: dict[SessionId, set[Subscription]] = {}
        self._drafts: dict[SessionId, dict[str, Live]] = {}
        self._stops: list[Callable[[Stop], None]] = []

    def publish(self, signal: Signal) -> None:
        if isinstance(signal, Stop):
            for call in self._stops:
                call(signal)
            return
        if isinstance(signal, Live):
            if signal.kind in DRAFTED:
                self._drafts.setdefault(signal.session_id, {})[f"{signal.kind}/{signal.key}"] = signal
        elif signal.session_id in self._drafts and completes(signal):
            del self._drafts[signal.session_id]
        self.deliver(signal)

    def deliver(self, signal: Appended | Live) -> None:
        """Deliver a signal to the followers in this process only."""
        logged = not isinstance(signal, Live)
        for subscription in self._subscriptions.get(signal.session_id, ()):
            if logged or subscription.live:
                subscription.push(signal)

    def wants_live(self, session_id: SessionId) -> bool:
        """Whether a follower in this process wants the session's live text."""
        return any(each.live for each in self._subscriptions.get(session_id, ()))

    def lose(self) -> None:
        """Tell every follower in this process that signals may be missing."""
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.lose()

    def subscribe(self, session_id: SessionId, *, live: bool = True) -> Subscription:
        subscription = Subscription(session_id, live=live)
        self._subscriptions.setdefault(session_id, set()).add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        subscriptions = self._subscriptions.get(subscription.session_id)
        if subscriptions is not None:
            subscriptions.discard(subscription)
            if not subscriptions:
                del self._subscriptions[subscription.session_id]

    def on_stop(self, call: Callable[[Stop], None]) -> None:
        self._stops.append(call)

    def on_grown(self, call: Callable[[SessionId, int], None]) -> None:
        """Do nothing: there is no other process."""

    def discard(self, session_id: SessionId) -> None:
        self._drafts.pop(session_id, None)

    async def drafts(self, session_id: SessionId) -> list[Live]:
        return list(self._drafts.get(session_id, {}).values())

    async def close(self) -> None:
        self._subscriptions.clear()
        self._drafts.clear()
