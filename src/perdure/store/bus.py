"""The bus: wake-ups, live text and stop signals between the processes of one installation.

Nothing on the bus is needed for correctness: a follower that misses a wake-up finds the event at its next
look at the log, a runner that misses a stop is fenced at its next append. On one machine the bus is this
module alone; `postgres_bus` carries the same signals between processes and hands them out through a
`LocalBus` in each.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Literal, Protocol

from msgspec import Struct

from perdure.domain.events import Event
from perdure.domain.ids import SessionId, TurnId

LiveKind = Literal["text", "thinking", "stdout", "stderr", "progress"]


class Appended(Struct, frozen=True):
    """The log of a session has grown to `head` (0: it was deleted).

    `events` are the new ones, where the sender is in this process.
    """

    session_id: SessionId
    head: int
    events: tuple[Event, ...] = ()


class Live(Struct):
    """A piece of live text: a delta of a message, of thinking, of a tool's output.

    Attributes:
        key: the message's id, or the tool call's id.
        sequence: that of the log's last event when the runner sent it.
        offset: where `text` begins in the whole, in characters; 0 begins anew.
        accumulated: the whole so far, `text` included.
        frames: wire forms that followers have made of it, by name, so that they are made once a process.
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
    """Whoever runs this session with an older epoch has lost it: cancelled, deleted, or taken over."""

    session_id: SessionId
    epoch: int


Signal = Appended | Live | Stop

SUBSCRIPTION_LIMIT = 256
SUBSCRIPTION_SIZE = 512 * 1024
"""Signals, and characters in them, that a follower may fall behind before they are dropped (it re-reads the
log then): bounds memory."""


class Subscription:
    """A follower's ear: a bounded queue of signals of one session."""

    __slots__ = ("_ready", "_size", "lost", "session_id", "signals")

    def __init__(self, session_id: SessionId) -> None:
        self.session_id = session_id
        self.signals: deque[Appended | Live] = deque()
        self.lost = False
        """Whether signals were dropped since the last `drain`: the log has to be read again."""
        self._size = 0
        self._ready: asyncio.Future[None] | None = None

    def push(self, signal: Appended | Live) -> None:
        """Hand in a signal; wakes the follower."""
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
        """Say that signals may be missing: the follower wakes and reads the log again."""
        self.lost = True
        if self._ready is not None:
            _finish(self._ready)

    def drain(self) -> tuple[list[Appended | Live], bool]:
        """What has come in since the last call, and whether something was dropped."""
        signals, lost = list(self.signals), self.lost
        self.signals.clear()
        self._size = 0
        self.lost = False
        return signals, lost

    async def wait(self, timeout: float) -> bool:
        """Wait until there is a signal, at most `timeout` seconds; whether there is one."""
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
"""The kinds of live text that are kept for who joins in the middle; a tool's output only passes by."""


def completes(signal: Appended) -> bool:
    """Whether what was being said is now in the log (or will never be)."""
    if not signal.events:
        return True
    return any(
        e.type in ("output.message.completed", "reason.completed", "session.idled") for e in signal.events
    )


class Bus(Protocol):
    """The port."""

    def publish(self, signal: Signal) -> None:
        """Send to everybody who listens; returns at once, and may be lost."""
        ...

    def subscribe(self, session_id: SessionId) -> Subscription:
        """Listen to a session, from now on. Give it back with `unsubscribe`."""
        ...

    def unsubscribe(self, subscription: Subscription) -> None: ...

    def on_stop(self, call: Callable[[Stop], None]) -> None:
        """Have every `Stop` handed to this function (the worker's)."""
        ...

    async def drafts(self, session_id: SessionId) -> list[Live]:
        """What is being said right now: one `Live` with the whole text for each message that is not complete.

        Subscribe first. Signals that come in meanwhile may repeat a part of this: skip a `Live` whose end
        (offset and text) is not beyond the text that you have.
        """
        ...

    async def close(self) -> None: ...


class LocalBus:
    """The bus within one process; the whole bus of the embedded default."""

    def __init__(self) -> None:
        self._ears: dict[SessionId, set[Subscription]] = {}
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
        """Hand a signal to the followers in this process, and do nothing else with it."""
        for ear in self._ears.get(signal.session_id, ()):
            ear.push(signal)

    def lose(self) -> None:
        """Tell every follower in this process that signals may be missing."""
        for ears in self._ears.values():
            for ear in ears:
                ear.lose()

    def subscribe(self, session_id: SessionId) -> Subscription:
        subscription = Subscription(session_id)
        self._ears.setdefault(session_id, set()).add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        ears = self._ears.get(subscription.session_id)
        if ears is not None:
            ears.discard(subscription)
            if not ears:
                del self._ears[subscription.session_id]

    def on_stop(self, call: Callable[[Stop], None]) -> None:
        self._stops.append(call)

    async def drafts(self, session_id: SessionId) -> list[Live]:
        return list(self._drafts.get(session_id, {}).values())

    async def close(self) -> None:
        self._ears.clear()
        self._drafts.clear()
