"""Live text: gathered for a moment, then published; never logged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from perdure.domain.ids import MessageId, SessionId, TurnId
from perdure.domain.redaction import Redactor, StreamRedactor
from perdure.llm.driver import DeltaKind
from perdure.store.bus import Bus, Live, LiveKind

SLOWDOWN = 1_000_000
"""Characters a second. A delta shows followers the whole text so far, so long texts are shown less often:
this bounds the traffic."""


MAX_LINE = 2_000
"""Characters of a line about how a tool is getting on."""


class ToolText:
    """What a tool shows while it runs, without secrets.

    The end of a stream is held back while it may be the beginning of one.

    Args:
        publish: sends a piece on its way: its kind, its offset in the stream, and the text.
    """

    def __init__(self, redactor: Redactor, publish: Callable[[LiveKind, int, str], None]) -> None:
        self._redactor = redactor
        self._publish = publish
        self._streams: dict[LiveKind, StreamRedactor] = {}
        self._sent: dict[LiveKind, int] = {}

    def progress(self, text: str) -> None:
        """Show a line."""
        self._send("progress", self._redactor.text(text)[:MAX_LINE])

    def output(self, stream: str, text: str) -> None:
        """Show a piece of `stdout` or `stderr`."""
        kind: LiveKind = "stderr" if stream == "stderr" else "stdout"
        if kind not in self._streams:
            self._streams[kind] = StreamRedactor(self._redactor)
        self._send(kind, self._streams[kind].feed(text))

    def finish(self) -> None:
        """Show what was held back."""
        for kind, stream in self._streams.items():
            self._send(kind, stream.feed("", last=True, cut=True))

    def _send(self, kind: LiveKind, text: str) -> None:
        if text:
            offset = self._sent.get(kind, 0)
            self._sent[kind] = offset + len(text)
            self._publish(kind, offset, text)


class LiveText:
    """The text of one message while it is being written.

    The first piece goes out at once; after it, pieces are gathered for `interval` seconds.
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
    ) -> None:
        self._bus = bus
        self._session_id = session_id
        self._turn_id = turn_id
        self._message_id = message_id
        self.sequence = sequence
        """Of the newest event in the log: live text follows it."""
        self._interval = interval
        self._context = context
        self._redactor = redactor
        self._timer: asyncio.TimerHandle | None = None
        self._pending: dict[DeltaKind, list[str]] = {}
        self._streams: dict[DeltaKind, StreamRedactor] = {}
        self._whole: dict[DeltaKind, str] = {}

    def add(self, kind: DeltaKind, text: str) -> None:
        """Take in a piece."""
        if not text:
            return
        self._pending.setdefault(kind, []).append(text)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            if kind not in self._whole:
                self._flush()
            size = max((len(whole) for whole in self._whole.values()), default=0)
            self._timer = loop.call_later(max(self._interval, size / SLOWDOWN), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._flush()

    def _flush(self, *, final: bool = False) -> None:
        for kind, pieces in self._pending.items():
            before = self._whole.get(kind, "")
            if kind not in self._streams:
                self._streams[kind] = StreamRedactor(self._redactor)
            whole = before + self._streams[kind].feed("".join(pieces), last=final)
            self._whole[kind] = whole
            if len(whole) > len(before):
                live = Live(
                    self._session_id,
                    self._turn_id,
                    self._message_id,
                    kind,
                    self.sequence,
                    len(before),
                    whole[len(before) :],
                    whole,
                )
                live.context = self._context
                self._bus.publish(live)
        self._pending.clear()

    def restart(self) -> None:
        """The attempt failed: what comes next begins anew."""
        self._pending.clear()
        self._streams.clear()
        self._whole.clear()

    def finish(self) -> None:
        """Publish what is left; the completed message follows."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for kind in self._streams:
            self._pending.setdefault(kind, [])
        self._flush(final=True)

    def stop(self) -> None:
        """No more, not even what is left."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pending.clear()
