"""Key-values and secrets of a session, and how secrets are kept out of sight."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Annotated
from urllib.parse import quote

import msgspec
from msgspec import Meta, Struct

from perdure.domain.times import Timestamp

MAX_KEY = 200
MAX_VALUE = 256 * 1024
"""Characters of one value."""
MAX_KEYS = 1_000
MAX_SECRETS = 100
MAX_SECRET = 32 * 1024

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


def mark_of(name: str) -> str:
    """What stands where a secret's value would: nothing in it needs escaping, in JSON or elsewhere."""
    safe = "".join(ch if ch.isalnum() or ch in "_.-" else "_" for ch in name)
    return f"[secret {safe}]"


def is_mark(value: object) -> bool:
    """Whether a value is nothing but such a mark."""
    return isinstance(value, str) and value.startswith("[secret ") and value.endswith("]")


class Redactor:
    """Replaces secret values by their names, wherever and however they stand: plain, as JSON, percent-encoded, as base64."""

    def __init__(self, secrets: dict[str, str]) -> None:
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
        for form in forms_of(value):
            self._needles.append((form, mark))
        # The longest first: one secret may be part of another.
        self._needles.sort(key=lambda pair: -len(pair[0]))

    def learn(self, secrets: dict[str, str]) -> None:
        """Look for these as well; what is looked for already stays, a value that was replaced included."""
        known = {needle for needle, _ in self._needles}
        for name, value in secrets.items():
            if value not in known:
                self.add(name, value)

    def text(self, text: str) -> str:
        """The text without secrets. It may be JSON: the replacement needs no escaping there."""
        for needle, mark in self._needles:
            if needle in text:
                text = text.replace(needle, mark)
        return text


NESTED = 5
"""How deep in strings of JSON within JSON a secret is still found: a tool's arguments inside a message inside an event is three."""


def forms_of(value: str) -> Iterable[str]:
    """The ways in which a value may stand in a text."""
    raw = value.encode()
    forms = {value, quote(value, safe=""), quote(value), base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()}
    forms |= {form.rstrip("=") for form in forms if form.endswith("=")}
    for escaped in (msgspec.json.encode(value).decode()[1:-1], json.dumps(value)[1:-1]):
        form = escaped
        for _ in range(NESTED):
            forms.add(form)
            form = msgspec.json.encode(form).decode()[1:-1]
    return {form for form in forms if len(form) >= SHORTEST_REDACTED}
