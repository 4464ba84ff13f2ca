"""Loaded tools: deferred tools that a session's model has found, and is offered from then on."""

from __future__ import annotations

from collections.abc import Iterable

MAX_LOADED = 100
"""Loaded tools of one session; more push out the first ones. Vendors accept 128 tools in a call."""


def with_loaded(loaded: tuple[str, ...], names: Iterable[str]) -> tuple[str, ...]:
    """The session's loaded tools once these are loaded, too, in the order of loading.

    A tool that is loaded already keeps its place: what a model is offered grows at its end only, so that
    vendors can reuse their caches of the beginning.
    """
    known = set(loaded)
    new = [name for name in dict.fromkeys(names) if name not in known]
    return (*loaded, *new)[-MAX_LOADED:] if new else loaded
