"""The settings of a request's body, and how to leave out those that a server refused."""

from __future__ import annotations

from collections.abc import Iterable

from perdure.domain.messages import JsonObject


def without(settings: JsonObject, left_out: Iterable[str]) -> JsonObject:
    """Return a request's settings without these parameters; `a.b` is the field `b` of `a`."""
    kept = dict(settings)
    for name in left_out:
        head, _, field = name.partition(".")
        inner = kept.get(head)
        if field and isinstance(inner, dict):
            inner = {key: value for key, value in inner.items() if key != field}
        if field and inner:
            kept[head] = inner
        else:
            kept.pop(head, None)
    return kept


def sent_of(settings: JsonObject, optional: Iterable[str]) -> frozenset[str]:
    """Return which of these parameters the settings have."""
    sent = set()
    for name in optional:
        head, _, field = name.partition(".")
        inner = settings.get(head)
        if head in settings and (not field or (isinstance(inner, dict) and field in inner)):
            sent.add(name)
    return frozenset(sent)
