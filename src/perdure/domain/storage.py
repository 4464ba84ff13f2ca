"""Key-values and secrets of a session, and how secrets are kept out of sight."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from msgspec import Meta, Struct

from perdure.domain.errors import InvalidInput
from perdure.domain.times import Timestamp

MAX_KEY = 200
MAX_VALUE = 256 * 1024
"""Characters of one value."""
MAX_KEYS = 1_000
MAX_SECRETS = 100
MAX_SECRET = 32 * 1024
"""Characters of one secret."""
MAX_SECRETS_SIZE = 256 * 1024
"""Bytes of a session's secrets together: whatever happens in it is searched for all of them."""

SHORTEST_REDACTED = 4
"""Characters: a shorter secret is no secret, and blanking it would tear ordinary text apart."""

StorageKey = Annotated[str, Meta(min_length=1, max_length=MAX_KEY, pattern=r"^[^\x00-\x1f\x7f]+$", examples=["customer_id"])]
SecretValue = Annotated[str, Meta(min_length=1, max_length=MAX_SECRET)]


class KeyValue(Struct, frozen=True):
    """A value under a key."""

    key: str
    value: str
    created_at: Timestamp
    updated_at: Timestamp


class SecretInfo(Struct, frozen=True):
    """That there is a secret of this name; its value is never shown."""

    name: str
    created_at: Timestamp
    updated_at: Timestamp


class SetSecrets(Struct, frozen=True):
    """The body of `PUT /v1/sessions/{session_id}/storage/secrets`: names and values; the others stay."""

    secrets: Annotated[dict[StorageKey, SecretValue], Meta(min_length=1, max_length=MAX_SECRETS)]


class SecretsSet(Struct, frozen=True):
    """How many secrets were written."""

    count: int


def check_room(held: dict[str, int], given: dict[str, str]) -> None:
    """See whether a session may hold these secrets as well.

    Args:
        held: the bytes that each of its secrets takes, by name.

    Raises:
        InvalidInput: they are too many, or too long together.
    """
    sizes = held | {name: len(value.encode()) for name, value in given.items()}
    if len(sizes) > MAX_SECRETS:
        raise InvalidInput(f"a session holds at most {MAX_SECRETS} secrets", code="too_many_secrets", field="secrets")
    if sum(sizes.values()) > MAX_SECRETS_SIZE:
        raise InvalidInput(
            f"a session's secrets hold at most {MAX_SECRETS_SIZE} bytes together", code="too_many_secrets", field="secrets"
        )


def mark_of(name: str) -> str:
    """What stands where a secret's value would: nothing in it needs escaping, in JSON or elsewhere."""
    safe = "".join(ch if ch.isalnum() or ch in "_.-" else "_" for ch in name)
    return f"[secret {safe}]"


def is_mark(value: object) -> bool:
    """Whether a value is nothing but such a mark."""
    return isinstance(value, str) and value.startswith("[secret ") and value.endswith("]")


class Redactor:
    """Replaces secret values by their names, wherever and however they stand: plain, as JSON, percent-encoded, as base64.

    Attributes:
        known: words that are nobody's secret (the names of tools): a text that is one of them, and nothing else, stays.
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
        """The text without secrets, the very same if there are none. It may be JSON within JSON: marks need no escaping there.

        Secrets are found in the text as it was given: what is put in their place is not looked at again. `cut`: somebody has
        cut off what came after it, so the beginning of a secret at its end is one as well.
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
            (at, at + len(form), self._marks[form]) for head in heads for form in self._heads[head] for at in _places(text, form)
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
        """The beginnings of forms that occur in a text: a pass over it for all of them, where one for each would take long."""
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
    """Text that comes in pieces, without secrets. Its end is held back while it may be the beginning of one."""

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
    """A text from `done` to `end` with marks in the places of secrets, and where the last of those that begin in it ends."""
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
"""How deep in strings of JSON within JSON a secret is still found: a tool's arguments inside a message inside an event is three."""

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
    """The value as base64: by itself, and as it stands in the middle of something longer, such as `user:password`."""
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
