"""Live text: collected for a moment, then published; never logged."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Literal

from perdure.domain.held_text import HeldText
from perdure.domain.ids import MessageId, SessionId, TurnId
from perdure.domain.messages import MAX_TEXT, storable
from perdure.domain.redaction import Redactor, StreamRedactor
from perdure.store.bus import Bus, Live, LiveKind

TextKind = Literal["text", "thinking"]

MAX_ACCUMULATED_PER_SECOND = 1_000_000
"""Characters per second. Each delta repeats the whole text so far, so the longer the text, the rarer its
deltas: this bounds the traffic."""


MAX_LINE = 2_000
"""Characters of a line of progress."""
MAX_WAITING = 1_000
"""Pieces of one call that may wait for the event loop."""


class ToolText:
    """Publishes what a tool writes while it runs, without secrets.

    Holds back the end of a stream while it may be the start of a secret.

    Args:
        publish: publishes a piece: its kind, its offset in the stream in characters, and its text. It is
            called in the event loop's thread only, although a tool may write from others.
        hold: makes what holds back a stream until it is checked; None if nothing is checked.
        line: checks a line of progress, and whether its end is cut off.
    """

    def __init__(
        self,
        redactor: Redactor,
        publish: Callable[[LiveKind, int, str], None],
        hold: Callable[[], HeldText] | None = None,
        line: Callable[[str, bool], str] | None = None,
    ) -> None:
        self._redactor = redactor
        self._publish = publish
        self._hold, self._line = hold, line
        self._holds: dict[LiveKind, HeldText] = {}
        self._streams: dict[LiveKind, StreamRedactor] = {}
        self._sent: dict[LiveKind, int] = {}
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._waiting = 0
        """Pieces from other threads that the event loop has not taken yet."""

    def progress(self, text: str) -> None:
        """Publish a line of progress. Raises TypeError if it is no text."""
        self._take(self._progress, _checked(text)[: MAX_LINE + 1])

    def output(self, stream: str, text: str) -> None:
        """Publish a piece of `stdout` or `stderr`. Raises TypeError if it is no text."""
        self._take(self._output, "stderr" if stream == "stderr" else "stdout", _checked(text))

    def _take(self, publish: Callable[..., None], *args: str) -> None:
        """Call this in the event loop's thread. A thread that is faster than the loop loses pieces."""
        if threading.get_ident() == self._thread:
            publish(*args)
        elif self._waiting < MAX_WAITING:
            self._waiting += 1
            self._loop.call_soon_threadsafe(self._take_waiting, publish, args)

    def _take_waiting(self, publish: Callable[..., None], args: tuple[str, ...]) -> None:
        self._waiting -= 1
        publish(*args)

    def _progress(self, text: str) -> None:
        cut = len(text) > MAX_LINE
        text = self._redactor.text(text, cut=cut)[:MAX_LINE]
        self._send("progress", text if self._line is None else self._line(text, cut))

    def _output(self, kind: LiveKind, text: str) -> None:
        if kind not in self._streams:
            self._streams[kind] = StreamRedactor(self._redactor)
        if self._hold is not None:
            if kind not in self._holds:
                self._holds[kind] = self._hold()
            text = self._holds[kind].feed(text)
        self._send(kind, self._streams[kind].feed(text))

    def finish(self) -> None:
        """Publish what was held back, but for what is not checked: the result will have it."""
        for kind, stream in self._streams.items():
            hold = self._holds.get(kind)
            self._send(kind, stream.feed("" if hold is None else hold.finish(), last=True, cut=True))

    def _send(self, kind: LiveKind, text: str) -> None:
        if text:
            offset = self._sent.get(kind, 0)
            self._sent[kind] = offset + len(text)
            self._publish(kind, offset, text)


def _checked(text: object) -> str:
    """A text of a tool as JSON can contain it."""
    if not isinstance(text, str):
        raise TypeError(f"a tool can show texts, not {type(text).__name__}")
    return storable(text)


class LiveText:
    """Publishes the text of one message while the model writes it.

    Publishes the first piece at once, and then collects pieces for `interval` seconds.

    Args:
        hold: makes what holds back the text of a kind until it is checked; None if nothing is checked.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        session_id: SessionId,
        turn_id: TurnId,
        message_id: MessageId,
        sequence: int,
        interval: float,
        context: str,
        redactor: Redactor,
        hold: Callable[[], HeldText] | None = None,
    ) -> None:
        self._bus = bus
        self._hold = hold
        self._holds: dict[TextKind, HeldText] = {}
        self._session_id = session_id
        self._turn_id = turn_id
        self._message_id = message_id
        self.sequence = sequence
        """The sequence of the log's newest event, which the live text follows."""
        self._interval = interval
        self._context = context
        self._redactor = redactor
        self._timer: asyncio.TimerHandle | None = None
        self._pending: dict[TextKind, list[str]] = {}
        self._streams: dict[TextKind, StreamRedactor] = {}
        self._accumulated: dict[TextKind, str] = {}

    def add(self, kind: TextKind, text: str) -> None:
        """Add a piece, to be published soon."""
        if not text:
            return
        self._pending.setdefault(kind, []).append(text)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            if kind not in self._accumulated:
                self.flush()
            size = max((len(accumulated) for accumulated in self._accumulated.values()), default=0)
            self._timer = loop.call_later(
                max(self._interval, size / MAX_ACCUMULATED_PER_SECOND), self._on_timer
            )

    def _on_timer(self) -> None:
        self._timer = None
        self.flush()

    def flush(self, *, final: bool = False) -> None:
        """Publish what has been collected, but for what is held back."""
        for kind, pieces in self._pending.items():
            # What the log will not contain is not published.
            short = len(self._accumulated.get(kind, "")) < MAX_TEXT
            text = storable("".join(pieces)) if short else ""
            if self._hold is not None:
                if kind not in self._holds:
                    self._holds[kind] = self._hold()
                text = self._holds[kind].feed(text)
            if text or final:
                self._publish(kind, text, final=final)
            else:  # held back
                self._accumulated.setdefault(kind, "")
        self._pending.clear()

    def _publish(self, kind: TextKind, text: str, *, final: bool) -> None:
        before = self._accumulated.get(kind, "")
        if kind not in self._streams:
            self._streams[kind] = StreamRedactor(self._redactor)
        accumulated = before + self._streams[kind].feed(text, last=final)
        self._accumulated[kind] = accumulated
        if len(accumulated) > len(before):
            live = Live(
                self._session_id,
                self._turn_id,
                self._message_id,
                kind,
                self.sequence,
                len(before),
                accumulated[len(before) :],
                accumulated,
            )
            live.context = self._context
            self._bus.publish(live)

    def take_back(self, kind: TextKind) -> None:
        """Start over with one kind of text."""
        for kept in (self._pending, self._streams, self._accumulated, self._holds):
            kept.pop(kind, None)

    def restart(self) -> None:
        """Start over, for the next attempt."""
        for kept in (self._pending, self._streams, self._accumulated, self._holds):
            kept.clear()

    def finish(self) -> None:
        """Publish the rest at once."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for kind in self._streams:
            self._pending.setdefault(kind, [])
        self.flush(final=True)

    def clean(self, kind: TextKind, text: str) -> int:
        """The characters at the beginning of a text that were searched while it streamed, without a match."""
        hold = self._holds.get(kind)
        return hold.clean if hold is not None and hold.clean and text.startswith(hold.shown) else 0

    def finish_checked(self, texts: Mapping[TextKind, str]) -> None:
        """Publish the rest of the texts, which are checked: as the log will have them.

        What followers have seen of a text that continues differently is taken back.
        """
        if self._hold is None:
            self.finish()
            return
        self.stop()
        for kind, text in texts.items():
            hold = self._holds.get(kind)
            shown = "" if hold is None else hold.shown
            if not text.startswith(shown):
                self.take_back(kind)
                shown = ""
            self._publish(kind, text[len(shown) :], final=True)

    def stop(self) -> None:
        """Publish nothing more, and discard the rest."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pending.clear()
