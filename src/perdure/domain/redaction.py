"""Secrets are blanked wherever they stand.

In texts, in text that comes in pieces, and in events before they are logged.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Struct

from perdure.domain.events import NewEvent

SHORTEST_REDACTED = 4
"""Characters: a shorter secret is no secret, and blanking it would tear ordinary text apart."""


def mark_of(name: str) -> str:
    """What stands where a secret's value would: nothing in it needs escaping, in JSON or elsewhere."""
    safe = "".join(ch if ch.isalnum() or ch in "_.-" else "_" for ch in name)
    return f"[secret {safe}]"


def is_mark(value: object) -> bool:
    """Whether a value is nothing but such a mark."""
    return isinstance(value, str) and value.startswith("[secret ") and value.endswith("]")


class Redactor:
    """Replaces secret values by their names, wherever and however they stand.

    Plain, as JSON, percent-encoded, as base64.

    Attributes:
        known: words that are nobody's secret (the names of tools): a text that is one of them, and nothing
            else, stays.
        longest: characters of the longest form that is looked for.
    """

    def __init__(self, secrets: dict[str, str]) -> None:
        self.known: frozenset[str] = frozenset()
        self.longest = 0
        self._values: set[str] = set()
        self._marks: dict[str, str] = {}
        self._heads: dict[str, list[str]] = {}
        self._pattern: Any = None
        self.learn(secrets)

    def __bool__(self) -> bool:
        return bool(self._marks)

    def learn(self, secrets: dict[str, str]) -> None:
        """Look for these as well; what is looked for already stays, a value that was replaced included."""
        for name, value in secrets.items():
            if len(value) < SHORTEST_REDACTED or value in self._values:
                continue
            self._values.add(value)
            for form in forms_of(value):
                if form not in self._marks:
                    self._marks[form] = mark_of(name)
                    self._heads.setdefault(form[:SHORTEST_REDACTED], []).append(form)
                    self.longest = max(self.longest, len(form))
            self._pattern = None

    def text(self, text: str, *, cut: bool = False) -> str:
        """The text without secrets, the very same if there are none.

        It may be JSON within JSON: marks need no escaping there.

        Secrets are found in the text as it was given: what is put in their place is not looked at again.
        `cut`: somebody has cut off what came after it, so the beginning of a secret at its end is one as
        well.
        """
        spans = self.spans(text, cut=cut)
        return text if not spans or text in self.known else blanked(text, spans, 0, len(text))[0]

    def value(self, value: Any) -> Any:
        """What JSON can hold, without secrets: in its texts and keys, and in its numbers, which become texts.

        The very same if there are none. However deep it is nested, none of our own calls are.
        """
        root, changed = [value], False
        waiting: list[tuple[Any, Any]] = [(root, 0)]
        while waiting:
            holder, key = waiting.pop()
            before = holder[key]
            if isinstance(before, dict):
                after: Any = {self.text(name): each for name, each in before.items()}
                changed = changed or any(name not in before for name in after)
                waiting += [(after, name) for name in after]
            elif isinstance(before, list | tuple):
                after = list(before)
                waiting += [(after, index) for index in range(len(after))]
            else:
                after = self._plain(before)
                changed = changed or after is not before
            holder[key] = after
        return root[0] if changed else value

    def _plain(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            clean = self.text(written := str(value))
            return value if clean is written else clean
        return value

    def spans(self, text: str, *, cut: bool = False) -> list[Span]:
        """Where secrets stand in a text, from its beginning on."""
        heads = list(self._heads_in(text))
        found = [
            (at, at + len(form), self._marks[form])
            for head in heads
            for form in self._heads[head]
            for at in _places(text, form)
        ]
        if cut:
            tail = text[max(len(text) - self.longest, 0) :]
            found += [
                (len(text) - len(tail) + at, len(text), self._marks[form])
                for head in heads
                for at in _places(tail, head)
                for form in self._heads[head]
                if form.startswith(tail[at:])
            ]
        found.sort(key=lambda span: (span[0], -span[1]))
        return found

    def _heads_in(self, text: str) -> Iterable[str]:
        """The beginnings of forms that occur in a text.

        A pass over it for all of them, where one for each would take long.
        """
        if len(text) < SHORTEST_REDACTED or not self._heads:
            return ()
        if self._pattern is None:
            self._pattern = _any_of(self._heads)
        heads = set()
        try:
            for match in self._pattern.finditer(text):
                begin = match.start()
                # Others may begin inside of it: those are not told.
                for at in range(begin, begin + SHORTEST_REDACTED):
                    if (head := text[at : at + SHORTEST_REDACTED]) in self._heads:
                        heads.add(head)
        except UnicodeEncodeError:  # halves of surrogate pairs
            return self._heads
        return heads


class Blanking:
    """Text that comes in pieces, without secrets.

    Its end is held back while it may be the beginning of one.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = ""
        self._done = 0
        """Characters of what is held that belong to a secret which has been replaced."""

    def feed(self, text: str, *, last: bool = False, cut: bool = False) -> str:
        """What can be shown after this piece.

        Args:
            last: nothing more comes, so nothing is held back.
            cut: there may have been more.
        """
        held = self._held + text
        ready = len(held) if last else max(len(held) - max(self._redactor.longest - 1, 0), 0)
        clean, done = blanked(held, self._redactor.spans(held, cut=cut), self._done, ready)
        self._held, self._done = held[ready:], max(done - ready, 0)
        return clean


Span = tuple[int, int, str]
"""Where something begins and ends in a text, and what is put in its place."""


def blanked(text: str, spans: Iterable[Span], done: int, end: int) -> tuple[str, int]:
    """A text from `done` to `end` with marks in the places of secrets, and where the last of those that begin
    in it ends.
    """
    pieces: list[str] = []
    for begin, after, mark in spans:
        if begin >= end:
            break
        if begin >= done:
            pieces += (text[done:begin], mark)
        # One secret may be part of another, or overlap it: what is left of it goes as well.
        done = max(done, after)
    return "".join([*pieces, text[done:end]]), done


def _any_of(words: Iterable[str]) -> Any:
    import re2  # it takes a moment to load

    options = re2.Options()
    options.never_capture, options.log_errors = True, False
    try:
        return re2.compile("|".join(map(re2.escape, words)), options)
    finally:
        re2.purge()  # else the library keeps the beginnings of everybody's secrets


def _places(text: str, needle: str) -> Iterator[int]:
    at = text.find(needle)
    while at >= 0:
        yield at
        at = text.find(needle, at + len(needle))


NESTED = 5
"""How deep in strings of JSON within JSON a secret is still found: a tool's arguments inside a message inside
an event is three."""

LONGEST_FORM = 128 * 1024
"""Characters: quotation marks double with every level. Longer forms are not looked for."""

SHORTEST_INSIDE = 8
"""Characters of base64: fewer in the middle of longer base64 may be anything."""


def forms_of(value: str) -> Iterable[str]:
    """The ways in which a value may stand in a text."""
    raw = value.encode()
    forms = {value, quote(value, safe=""), quote(value), *_base64_forms(raw)}
    forms |= {value.lower(), quote(value, safe="").lower()}  # as the name of a host
    for escaped in (msgspec.json.encode(value).decode()[1:-1], json.dumps(value)[1:-1]):
        form = escaped
        for _ in range(NESTED):
            if len(form) > LONGEST_FORM or form in forms:
                break
            forms.add(form)
            form = msgspec.json.encode(form).decode()[1:-1]
    return {form for form in forms if len(form) >= SHORTEST_REDACTED}


def _base64_forms(raw: bytes) -> Iterator[str]:
    """The value as base64.

    By itself, and as it stands in the middle of something longer, such as `user:password`.
    """
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        whole = encode(raw).decode()
        yield whole
        yield whole.rstrip("=")
        for before in range(3):
            # Letters at either end that also hold bits of what stands beside the value are left out.
            first = -(-before * 8 // 6)
            inside = encode(bytes(before) + raw).decode()[first : (before + len(raw)) * 8 // 6]
            if len(inside) >= SHORTEST_INSIDE:
                yield inside


_FIXED = ("id", "ts", "sequence", "thinking_signature")
_FIXED_ENDS = ("_id", "_ids", "_at", "_token")
"""Fields that are no free text: they tie events together, or mean something only as they are. A secret of
four letters or digits
would be found in many an id."""


def redact_event(event: NewEvent, redactor: Redactor) -> NewEvent:
    """The event with every secret replaced by its name, in its data, metadata and tags."""
    data = _clean(event.data, redactor)
    metadata = redactor.value(event.metadata)
    tags = None if event.tags is None else tuple(redactor.text(tag) for tag in event.tags)
    if data is event.data and metadata is event.metadata and tags == event.tags:
        return event
    return msgspec.structs.replace(event, data=data, metadata=metadata, tags=tags)


def _clean(value: Any, redactor: Redactor) -> Any:
    """A struct, or what is in one, without secrets; the very same if there are none."""
    if isinstance(value, Struct):
        changes = {}
        for name in _texts(type(value)):
            before = getattr(value, name)
            after = _clean(before, redactor)
            if after is not before:
                changes[name] = after
        return msgspec.structs.replace(value, **changes) if changes else value
    if isinstance(value, tuple):
        cleaned = tuple(_clean(each, redactor) for each in value)
        return (
            value if all(after is before for after, before in zip(cleaned, value, strict=True)) else cleaned
        )
    if isinstance(value, str | dict | list):
        return redactor.value(value)
    return value


@lru_cache(maxsize=256)
def _texts(kind: type[Struct]) -> tuple[str, ...]:
    """The fields of a struct in which somebody's words can stand."""
    about = msgspec.inspect.type_info(kind)
    fields = about.fields if isinstance(about, msgspec.inspect.StructType) else ()
    return tuple(field.name for field in fields if not _is_fixed(field.name, field.type))


def _is_fixed(name: str, kind: msgspec.inspect.Type) -> bool:
    kinds = kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)
    plain = (
        msgspec.inspect.LiteralType,
        msgspec.inspect.NoneType,
        msgspec.inspect.BoolType,
        msgspec.inspect.IntType,
    )
    return (
        name in _FIXED
        or name.endswith(_FIXED_ENDS)
        or all(isinstance(each, (*plain, msgspec.inspect.FloatType)) for each in kinds)
    )
