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
    """

    def __init__(self, secrets: dict[str, str]) -> None:
        self.known: frozenset[str] = frozenset()
        self._needles: list[tuple[str, str]] = []
        for name, value in secrets.items():
            self.add(name, value)

    def __bool__(self) -> bool:
        return bool(self._needles)

    @property
    def longest(self) -> int:
        """Characters of the longest form that is looked for."""
        return max((len(needle) for needle, _ in self._needles), default=0)

    def add(self, name: str, value: str) -> None:
        """Look for one more."""
        if len(value) < SHORTEST_REDACTED:
            return
        mark = mark_of(name)
        self._needles += [(form, mark) for form in forms_of(value)]

    def learn(self, secrets: dict[str, str]) -> None:
        """Look for these as well; what is looked for already stays, a value that was replaced included."""
        known = {needle for needle, _ in self._needles}
        for name, value in secrets.items():
            if value not in known:
                self.add(name, value)

    def text(self, text: str) -> str:
        """The text without secrets. It may be JSON within JSON: the replacement needs no escaping there.

        Secrets are found in the text as it was given: what is put in their place is not looked at again.
        """
        spans = [(at, at + len(needle), mark) for needle, mark in self._needles for at in _places(text, needle)]
        if not spans or text in self.known:
            return text
        spans.sort(key=lambda span: (span[0], -span[1]))
        pieces: list[str] = []
        done = 0
        for begin, end, mark in spans:
            if begin >= done:
                pieces += (text[done:begin], mark)
            # One secret may be part of another, or overlap it: what is left of it goes as well.
            done = max(done, end)
        return "".join([*pieces, text[done:]])

    def value(self, value: Any) -> Any:
        """What JSON can hold, without secrets: in its texts and keys, and in its numbers, which become texts."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self.value(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(each) for each in value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            clean = self.text(written := str(value))
            return value if clean == written else clean
        return value


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
