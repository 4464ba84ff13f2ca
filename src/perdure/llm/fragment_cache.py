"""Caches of what drivers have encoded: messages and lists of tools.

A hit is checked against the message's content, so a message that the caller shortened is encoded again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

from perdure.domain.ids import MessageId
from perdure.domain.messages import ContentPart, JsonObject, Message
from perdure.llm.driver import ToolSpec
from perdure.llm.wire import Fragment

CACHE_BYTES = 16 << 20
"""Capacity of a `FragmentCache` in bytes: about 25,000 messages of a few sentences."""
_ENTRY_OVERHEAD = 400


class _Entry(Struct, frozen=True, gc=False):
    content: tuple[ContentPart, ...]
    items: tuple[JsonObject, ...] | None
    fragment: Fragment
    size: int


class Encoding(Struct, frozen=True):
    """A way to encode messages: see `FragmentCache.fragments`."""

    variant: str
    encode: Callable[[Message], Fragment]


class FragmentCache:
    """A cache of encoded messages, bounded by bytes.

    Two generations approximate least-recently-used eviction, so that a hit costs one lookup.

    Args:
        limit: capacity in estimated bytes. Each fragment counts twice, because the content that it is
            checked against is kept too.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._half = limit // 2
        self._young: dict[str, dict[MessageId, _Entry]] = {}
        self._old: dict[str, dict[MessageId, _Entry]] = {}
        self._young_size = 0
        self._old_size = 0

    @property
    def size(self) -> int:
        """The estimated bytes held."""
        return self._young_size + self._old_size

    def fragments(
        self, variant: str, messages: Iterable[Message], encode: Callable[[Message], Fragment]
    ) -> list[Fragment]:
        """Return the messages' fragments, from the cache where possible.

        Args:
            variant: names everything besides the message that affects the bytes: protocol, model, options.
            messages: the messages to send.
            encode: encodes one message.
        """
        young = self._young.get(variant, {})
        out: list[Fragment] = []
        for message in messages:
            entry = young.get(message.id)
            if entry is None or (
                (entry.content is not message.content or entry.items is not message.reasoning_items)
                and (entry.content != message.content or entry.items != message.reasoning_items)
            ):
                entry = self._old_or_new(variant, message, encode)
                young = self._young.get(variant, {})
            out.append(entry.fragment)
        return out

    def split(
        self, messages: Sequence[Message], bare: int, first: Encoding, rest: Encoding
    ) -> list[Fragment]:
        """Return the messages' fragments; the first `bare` ones are encoded in another way than the rest."""
        if not bare:
            return self.fragments(rest.variant, messages, rest.encode)
        before = self.fragments(first.variant, messages[:bare], first.encode)
        return before + self.fragments(rest.variant, messages[bare:], rest.encode)

    def _old_or_new(self, variant: str, message: Message, encode: Callable[[Message], Fragment]) -> _Entry:
        key, old, young = message.id, self._old.get(variant), self._young.get(variant)
        entry = None if old is None else old.get(key)
        if entry is None or entry.content != message.content or entry.items != message.reasoning_items:
            fragment = encode(message)
            size = 2 * (len(fragment.data) + len(fragment.late)) + _ENTRY_OVERHEAD
            entry = _Entry(message.content, message.reasoning_items, fragment, size)
        before = None if young is None else young.pop(key, None)
        if before is not None:
            self._young_size -= before.size
        if self._young_size + entry.size > self._half:
            self._old, self._old_size = self._young, self._young_size
            self._young, self._young_size, young = {}, 0, None
        if entry.size <= self._half:
            if young is None:
                young = self._young[variant] = {}
            young[key] = entry
            self._young_size += entry.size
        return entry


class ToolCache:
    """A driver's most recent encoded tool lists: agents offer the same tools call after call."""

    _CAPACITY = 8

    def __init__(self, encode: Callable[[Sequence[ToolSpec]], bytes]) -> None:
        self._encode = encode
        self._entries: list[tuple[Sequence[ToolSpec], bytes]] = []

    def encoded(self, tools: Sequence[ToolSpec]) -> bytes:
        """Return the tool list in the vendor's encoding."""
        for cached, data in self._entries:
            if cached is tools or cached == tools:
                return data
        data = self._encode(tools)
        self._entries.append((tools, data))
        del self._entries[: -self._CAPACITY]
        return data
