"""Which hosts a session's tools may reach: the combined lists of all layers."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from msgspec import Struct

from perdure.domain.sessions import NetworkAccess


class NetworkRules(Struct, frozen=True):
    """The combined lists of all layers.

    A host is permitted if no layer blocks it and every layer with an allow list allows it.

    Attributes:
        allowed: the allow lists, one for each layer that has one. Without any, every host is allowed.
        blocked: the blocked hosts of all layers.
        private: whether addresses of private networks and of this machine may be reached (a server setting).
    """

    allowed: tuple[tuple[str, ...], ...] = ()
    blocked: tuple[str, ...] = ()
    private: bool = False

    def blocks(self, host: str) -> bool:
        """Whether a host, or an address in its usual spelling, is blocked."""
        return _matches(plain_host(host), self.blocked)

    def permits(self, host: str) -> bool:
        """Whether a host name may be used. The addresses that it resolves to are checked separately."""
        name = plain_host(host)
        return not _matches(name, self.blocked) and all(_matches(name, patterns) for patterns in self.allowed)

    def within(self, other: NetworkRules) -> bool:
        """Whether these rules allow no host that the other rules do not allow."""
        return all(_covers(self.blocked, pattern) for pattern in other.blocked) and all(
            any(all(_covers(limit, pattern) for pattern in patterns) for patterns in self.allowed)
            for limit in other.allowed
        )

    def named(self) -> tuple[str, ...]:
        """The hosts that are allowed by name, without patterns: for tools that do not support patterns."""
        names = dict.fromkeys(name for patterns in self.allowed for name in patterns if "*" not in name)
        return tuple(name for name in names if self.permits(name))


def combine(layers: Iterable[NetworkAccess | None]) -> NetworkRules:
    """Combine the lists of all layers; their order does not matter."""
    lists = [layer for layer in layers if layer is not None]
    allowed = tuple(_patterns(layer.allowed) for layer in lists if layer.allowed)
    blocked = dict.fromkeys(pattern for layer in lists for pattern in _patterns(layer.blocked))
    return NetworkRules(allowed, tuple(blocked))


def plain_host(host: str) -> str:
    """Normalize a host for comparison: lower case, ASCII, without brackets and trailing dot."""
    text = host.strip().strip("[]").rstrip(".").lower()
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    if text.isascii():
        return text
    try:
        return text.encode("idna").decode()
    except UnicodeError:
        return text


def _patterns(entries: Iterable[str]) -> tuple[str, ...]:
    return tuple(pattern for pattern in map(_pattern, entries) if pattern)


def _pattern(entry: str) -> str:
    """Normalize an entry to a host or `*.` with a host. The entry may be a URL with scheme, port and path."""
    text = entry.strip().rpartition("://")[2].partition("/")[0].rpartition("@")[2]
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    wildcard = text.startswith("*.")
    name = plain_host(text.removeprefix("*."))
    return f"*.{name}" if wildcard and name else name


def _covers(patterns: Iterable[str], pattern: str) -> bool:
    """Whether every host of a pattern matches one of the others."""
    return any(
        each in ("*", pattern)
        or (each.startswith("*.") and pattern != "*" and pattern.removeprefix("*").endswith(each[1:]))
        for each in patterns
    )


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(
        pattern in ("*", name) or (pattern.startswith("*.") and name.endswith(pattern[1:]))
        for pattern in patterns
    )
