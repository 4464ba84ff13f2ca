"""What the audit log shows of a value: no secrets, and never very much."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from perdure.domain.log_lines import LogSecrets
from perdure.domain.messages import JsonObject, JsonValue
from perdure.domain.visible import visible_line

Digest = Callable[[bytes], str]
"""Returns a digest that tells nothing about the value to those who do not have the key."""

MAX_TEXT = 1000
"""Characters of a text that are shown."""
MAX_FIELD = 8000
"""Bytes of a field that are shown, as JSON."""
_DEEPEST = 12
"""Levels of objects and lists that are shown."""
_SECRET = re.compile(
    r"secret|token|passw|passphrase|api[-_]?key|private[-_]?key|access[-_]?key|authori[sz]ation|credential"
    r"|cookie|signature|bearer|^headers$|^env$|^environment$|^key$|^auth$",
    re.IGNORECASE,
)
_COUNTED = re.compile(r"tokens|_set$", re.IGNORECASE)
"""Numbers of such names are no secrets."""
_URL = re.compile(r"^([a-z][a-z0-9+.-]*://[^\s?#]*)([?#].+)$", re.IGNORECASE | re.DOTALL)
_USER = re.compile(r"^([a-z][a-z0-9+.-]*://)[^\s/?#]*@", re.IGNORECASE)
_ASKED = re.compile(r"^([a-z][a-z0-9+.-]*://[^?#]*)[?#].*", re.IGNORECASE | re.DOTALL)
_LOOKS_LIKE = LogSecrets()


def is_secret(name: str) -> bool:
    """Whether a field's name says that its value is secret."""
    return _SECRET.search(name) is not None


def changed_fields(before: JsonObject | None, after: JsonObject | None) -> tuple[JsonObject, JsonObject]:
    """Return the fields that differ, before and after. One that is null is like a missing one."""
    old, new = before or {}, after or {}
    names = [name for name in dict.fromkeys((*old, *new)) if _exact(old.get(name)) != _exact(new.get(name))]
    return {name: old.get(name) for name in names}, {name: new.get(name) for name in names}


def _exact(value: JsonValue) -> bytes:
    return msgspec.json.encode(value)  # 1 and true are equal otherwise


def shown_fields(fields: JsonObject, digest: Digest, *, whole: bool = False) -> JsonObject:
    """Return an entity's fields as people may see them.

    Args:
        digest: replaces secrets.
        whole: whether long values are left as they are.
    """
    found: JsonObject = {}
    for name, value in fields.items():
        shown = _shown(name, value, digest, whole, 0)
        encoded = _exact(shown)
        if len(encoded) > MAX_FIELD and not whole:
            shown = {"bytes": len(_exact(value)), "digest": digest(_exact(value))}
        found[name] = shown
    return found


def hidden_fields(fields: JsonObject, digest: Digest) -> JsonObject:
    """Return the fields of what only one user reads: which ones, and nothing of their values."""
    return {name: None if value is None else digest(_exact(value)) for name, value in fields.items()}


def _shown(name: str, value: JsonValue, digest: Digest, whole: bool, level: int) -> JsonValue:
    if isinstance(value, dict):
        if level >= _DEEPEST:
            return digest(_exact(value))
        secret = is_secret(name)
        return {
            each: _shown(name if secret else each, inner, digest, whole, level + 1)
            for each, inner in value.items()
        }
    if isinstance(value, list | tuple):
        if level >= _DEEPEST:
            return digest(_exact(value))
        return [_shown(name, inner, digest, whole, level + 1) for inner in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return digest(_exact(value)) if is_secret(name) and not _COUNTED.search(name) else value
    if not isinstance(value, str) or not value:
        return value
    if is_secret(name):
        return digest(value.encode())
    return _text(value, digest, whole)


def _text(text: str, digest: Digest, whole: bool) -> str:
    url = _URL.match(text)
    if url is not None and "\n" not in text:
        text = f"{url[1]}?{digest(url[2].encode())}"
    clean = _LOOKS_LIKE.remove(text)
    if len(clean) <= MAX_TEXT or whole:
        return clean
    return f"{clean[:MAX_TEXT]}... ({len(text)} characters, {digest(text.encode())})"


def shown_name(name: str) -> str:
    """Return a name from a denied request: in one line, and if it is a URL, without its secrets."""
    plain = _USER.sub(r"\1...@", _ASKED.sub(r"\1?...", name))
    return visible_line(_LOOKS_LIKE.remove(plain))
