"""Redacts secrets in texts, in streamed text, and in events before they are logged."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus

import msgspec
from msgspec import Struct

from perdure.domain.events import NewEvent
from perdure.domain.storage import SHORTEST_REDACTED

S = TypeVar("S", bound=Struct)

MAX_MATCHES = 1_000
"""Places that look like the beginning of a secret, and are looked at one by one."""

COMPILE_AFTER = 100_000
"""Characters, once for each prefix of a secret's forms, that are searched before the prefixes are compiled to
one pattern. Compiling takes about as long, and most runs search less."""


_UNSAFE = re.compile(r"[^\w.-]")


def mark_of(name: str) -> str:
    """The mark that replaces a secret's value. No character of it needs escaping, in JSON or elsewhere."""
    return f"[secret {_UNSAFE.sub('_', name)}]"


def is_mark(value: object) -> bool:
    """Whether a value is a mark and nothing else."""
    return isinstance(value, str) and value.startswith("[secret ") and value.endswith("]")


class Redactor:
    """Replaces secret values by marks, also if they are escaped, percent-encoded or in base64.

    Attributes:
        known: texts that are not secret (tool names). A text that equals one of them is not changed.
        longest: characters of the longest form of a secret.
    """

    def __init__(self, secrets: dict[str, str]) -> None:
        self.known: frozenset[str] = frozenset()
        self.longest = 0
        self._values: set[str] = set()
        self._marks: dict[str, str] = {}
        self._heads: dict[str, list[str]] = {}
        self._pattern: Any = None
        self._fingerprint: bytes | None = None
        self._searched = 0
        """The characters that were searched without a pattern, once for each prefix."""
        self.learn(secrets)

    def __bool__(self) -> bool:
        return bool(self._marks)

    @property
    def fingerprint(self) -> bytes:
        """A digest of the secrets and their names: redactors with the same one redact alike."""
        if self._fingerprint is None:
            pairs = sorted((self._marks.get(value, ""), value) for value in self._values)
            text = "".join(f"{len(mark)},{len(value)}:{mark}{value}" for mark, value in pairs)
            self._fingerprint = hashlib.sha256(text.encode(errors="surrogatepass")).digest() if pairs else b""
        return self._fingerprint

    def learn(self, secrets: dict[str, str]) -> None:
        """Add secrets. Secrets that are known already stay, including old values of the same name."""
        for name, value in secrets.items():
            if len(value) < SHORTEST_REDACTED or value in self._values:
                continue
            self._values.add(value)
            self._fingerprint = None
            mark = mark_of(name)
            for form in forms_of(value):
                if form not in self._marks:
                    self._marks[form] = mark
                    self._heads.setdefault(form[:SHORTEST_REDACTED], []).append(form)
                    self.longest = max(self.longest, len(form))
            self._pattern = None

    def text(self, text: str, *, cut: bool = False) -> str:
        """Redact a text, which may be JSON within JSON. Returns the same object if it contains no secret.

        Searches the original text only: marks are not searched again.

        Args:
            cut: the text was truncated, so the beginning of a secret at its end is redacted as well.
        """
        if not self._marks:
            return text
        spans = self.spans(text, cut=cut)
        return text if not spans or text in self.known else _replace_spans(text, spans, 0, len(text))[0]

    def value(self, value: Any) -> Any:
        """Redact a JSON value: its texts, its keys, and its numbers, which become texts.

        Returns the same object if it contains no secret. Works without recursion, at any nesting depth.
        """
        if not self._marks:
            return value
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
        """The positions of secrets in a text, sorted."""
        heads = list(self._heads_in(text))
        found = [
            (at, at + len(form), self._marks[form])
            for head in heads
            for form in self._heads[head]
            for at in _positions(text, form)
        ]
        if cut:
            tail = text[max(len(text) - self.longest, 0) :]
            found += [
                (len(text) - len(tail) + at, len(text), self._marks[form])
                for head in heads
                for at in _positions(tail, head)
                for form in self._heads[head]
                if form.startswith(tail[at:])
            ]
        found.sort(key=lambda span: (span[0], -span[1]))
        return found

    def _heads_in(self, text: str) -> Iterable[str]:
        """The prefixes of forms that occur in a text, found in one pass for all secrets if it is worth it."""
        if len(text) < SHORTEST_REDACTED or not self._heads:
            return ()
        if self._pattern is None:
            self._searched += len(text) * len(self._heads)
            if self._searched <= COMPILE_AFTER:
                return [head for head in self._heads if head in text]
            self._pattern = _compile_any(self._heads)
        heads = set()
        try:
            for count, match in enumerate(self._pattern.finditer(text)):
                if count == MAX_MATCHES:  # crafted: searching for each prefix is faster now
                    return [head for head in self._heads if head in heads or head in text]
                begin = match.start()
                # Further prefixes may begin inside this match; the regular expression does not report them.
                for at in range(begin, begin + SHORTEST_REDACTED):
                    if (head := text[at : at + SHORTEST_REDACTED]) in self._heads:
                        heads.add(head)
        except UnicodeEncodeError:  # RE2 cannot search text with lone surrogates
            return self._heads
        return heads


class StreamRedactor:
    """Redacts streamed text. Holds back the end of the text while it may be the beginning of a secret."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = ""
        self._done = 0
        """Characters at the beginning of `_held` that belong to a secret already replaced."""

    def feed(self, text: str, *, last: bool = False, cut: bool = False) -> str:
        """Add a piece; returns the redacted text that can be shown now.

        Args:
            last: this is the last piece, so nothing is held back.
            cut: the text was truncated after this piece.
        """
        held = self._held + text
        ready = len(held) if last else max(len(held) - max(self._redactor.longest - 1, 0), 0)
        clean, done = _replace_spans(held, self._redactor.spans(held, cut=cut), self._done, ready)
        self._held, self._done = held[ready:], max(done - ready, 0)
        return clean


Span = tuple[int, int, str]
"""The beginning and end of a secret in a text, and the mark that replaces it."""


def _replace_spans(text: str, spans: Iterable[Span], done: int, end: int) -> tuple[str, int]:
    """Replace the spans in `text[done:end]` by their marks; also returns where the last of them ends."""
    pieces: list[str] = []
    for begin, after, mark in spans:
        if begin >= end:
            break
        if begin >= done:
            pieces += (text[done:begin], mark)
        # Secrets may overlap or contain each other: the rest of an overlapping one is removed as well.
        done = max(done, after)
    return "".join([*pieces, text[done:end]]), done


def _compile_any(words: Iterable[str]) -> Any:
    import re2  # imported here because loading it is slow

    options = re2.Options()
    options.never_capture, options.log_errors = True, False
    try:
        return re2.compile("|".join(map(re2.escape, words)), options)
    finally:
        re2.purge()  # otherwise the library would cache prefixes of secrets


def _positions(text: str, needle: str) -> Iterator[int]:
    at = text.find(needle)
    while at >= 0:
        yield at
        at = text.find(needle, at + len(needle))


NESTED = 5
"""Levels of JSON within JSON at which a secret is still found. A tool's arguments inside a message inside an
event are three levels."""

LONGEST_FORM = 128 * 1024
"""Characters of the longest form that is searched for: escaping grows exponentially with each level."""

SHORTEST_INSIDE = 8
"""Characters of base64 that identify a secret in the middle of longer base64; fewer would match by chance."""


def forms_of(value: str) -> Iterable[str]:
    """The forms in which a value may occur in a text: plain, escaped and encoded."""
    raw = value.encode()
    forms = {value, quote(value, safe=""), quote(value), quote_plus(value), *_base64_forms(raw)}
    forms |= {value.lower(), quote(value, safe="").lower()}  # as the name of a host
    for escaped in (
        msgspec.json.encode(value).decode()[1:-1],
        json.dumps(value)[1:-1],
        *_python_forms(value),
    ):
        form = escaped
        for _ in range(NESTED):
            if len(form) > LONGEST_FORM or form in forms:
                break
            forms.add(form)
            form = msgspec.json.encode(form).decode()[1:-1]
    return {form for form in forms if len(form) >= SHORTEST_REDACTED}


def _python_forms(value: str) -> Iterator[str]:
    """The value as Python shows it, for example in a dict or in the message of a `KeyError`."""
    both = "'\""  # a text with both quotes stands in single ones
    for shown in (repr(value + both), ascii(value + both), repr((value + both).encode())[1:]):
        inside = shown[1:-4]
        yield inside
        yield inside.replace("\\'", "'")  # in double quotes


def _base64_forms(raw: bytes) -> Iterator[str]:
    """The value in base64, alone and in the middle of a longer text, such as `user:password`."""
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        whole = encode(raw).decode()
        yield whole
        yield whole.rstrip("=")
        for before in range(3):
            # Leave out the characters at both ends that also encode bits of the neighbouring text.
            first = -(-before * 8 // 6)
            inside = encode(bytes(before) + raw).decode()[first : (before + len(raw)) * 8 // 6]
            if len(inside) >= SHORTEST_INSIDE:
                yield inside


_FIXED = ("id", "ts", "sequence", "thinking_signature", "effect_key")
_FIXED_ENDS = ("_id", "_ids", "_at", "_token")
"""Fields that are not free text: ids, times and signatures must stay intact. A secret of four letters or
digits would occur in many ids by chance."""


def redact_event(event: NewEvent, redactor: Redactor) -> NewEvent:
    """Redact an event's data, metadata and tags. Returns the same object if it contains no secret."""
    data = _redact(event.data, redactor)
    metadata = redactor.value(event.metadata)
    tags = None if event.tags is None else tuple(redactor.text(tag) for tag in event.tags)
    if data is event.data and metadata is event.metadata and tags == event.tags:
        return event
    return msgspec.structs.replace(event, data=data, metadata=metadata, tags=tags)


def redact_events(events: list[NewEvent], redactor: Redactor) -> list[NewEvent]:
    """The events without secrets; the same list if there are none to blank."""
    return [redact_event(event, redactor) for event in events] if redactor else events


def redact_struct(value: S, redactor: Redactor) -> S:
    """Redact a struct. Returns the same object if it contains no secret."""
    if not redactor:
        return value
    redacted: S = _redact(value, redactor)
    return redacted


def _redact(value: Any, redactor: Redactor) -> Any:
    """Redact a struct or a field's value. Returns the same object if it contains no secret."""
    if isinstance(value, Struct):
        changes = {}
        for name in _free_text_fields(type(value)):
            before = getattr(value, name)
            after = _redact(before, redactor)
            if after is not before:
                changes[name] = after
        return msgspec.structs.replace(value, **changes) if changes else value
    if isinstance(value, tuple):
        cleaned = tuple(_redact(each, redactor) for each in value)
        return (
            value if all(after is before for after, before in zip(cleaned, value, strict=True)) else cleaned
        )
    # A number is a JSON value here: fields that only hold numbers are left out.
    return redactor.value(value) if isinstance(value, str | dict | list | int | float) else value


@lru_cache(maxsize=256)
def _free_text_fields(kind: type[Struct]) -> tuple[str, ...]:
    """The names of a struct's fields that may contain free text."""
    about = msgspec.inspect.type_info(kind)
    fields = about.fields if isinstance(about, msgspec.inspect.StructType) else ()
    return tuple(field.name for field in fields if not _is_fixed(field.name, field.type))


def _is_fixed(name: str, kind: msgspec.inspect.Type) -> bool:
    fixed = (
        msgspec.inspect.LiteralType,
        msgspec.inspect.NoneType,
        msgspec.inspect.BoolType,
        msgspec.inspect.IntType,
        msgspec.inspect.FloatType,
    )
    return (
        name in _FIXED
        or name.endswith(_FIXED_ENDS)
        or all(isinstance(each, fixed) for each in _alternatives(kind))
    )


def _alternatives(kind: msgspec.inspect.Type) -> Iterator[msgspec.inspect.Type]:
    """The types that a field's value may have, without the descriptions that annotate them."""
    if isinstance(kind, msgspec.inspect.Metadata):
        yield from _alternatives(kind.type)
    elif isinstance(kind, msgspec.inspect.UnionType):
        for each in kind.types:
            yield from _alternatives(each)
    else:
        yield kind
