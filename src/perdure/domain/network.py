"""Which hosts a session's tools may reach: the lists of every layer, taken together."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from msgspec import Struct

from perdure.domain.sessions import NetworkAccess


class NetworkRules(Struct, frozen=True):
    """The lists of all layers.

    Blocked hosts add up, and every layer that allows only some hosts narrows what is left.

    Attributes:
        allowed: one list for each layer that has one; a host has to be on all of them. Without any, every
            host is allowed.
        blocked: hosts that no layer can allow again.
        private: whether addresses of private networks and of this machine may be reached (a setting of the
            server).
    """

    allowed: tuple[tuple[str, ...], ...] = ()
    blocked: tuple[str, ...] = ()
    private: bool = False

    def blocks(self, host: str) -> bool:
        """Whether a host, or an address in its usual spelling, is on a list of blocked ones."""
        return _on(plain_host(host), self.blocked)

    def permits(self, host: str) -> bool:
        """Whether a host may be asked for. What its name resolves to is another question."""
        name = plain_host(host)
        return not _on(name, self.blocked) and all(_on(name, patterns) for patterns in self.allowed)

    def named(self) -> tuple[str, ...]:
        """The hosts that are allowed by name, patterns aside.

        What can be told to somebody who knows no patterns.
        """
        names = dict.fromkeys(name for patterns in self.allowed for name in patterns if "*" not in name)
        return tuple(name for name in names if self.permits(name))


def combine(layers: Iterable[NetworkAccess | None]) -> NetworkRules:
    """The rules that layers come to, in any order."""
    given = [layer for layer in layers if layer is not None]
    allowed = tuple(_patterns(layer.allowed) for layer in given if layer.allowed)
    blocked = dict.fromkeys(pattern for layer in given for pattern in _patterns(layer.blocked))
    return NetworkRules(allowed, tuple(blocked))


def plain_host(host: str) -> str:
    """A host in the one form in which hosts are compared.

    Lower case, ASCII, no brackets, no dot at its end.
    """
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
    """A host, or `*.` and a host, out of what people write.

    An address with its scheme, port and path as well.
    """
    text = entry.strip().rpartition("://")[2].partition("/")[0].rpartition("@")[2]
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    wildcard = text.startswith("*.")
    name = plain_host(text.removeprefix("*."))
    return f"*.{name}" if wildcard and name else name


def _on(name: str, patterns: Iterable[str]) -> bool:
    return any(
        pattern in ("*", name) or (pattern.startswith("*.") and name.endswith(pattern[1:]))
        for pattern in patterns
    )
