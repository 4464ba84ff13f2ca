"""Which hosts a session's tools may reach: the combined lists of all layers."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from msgspec import Struct, UnsetType

from perdure.domain.errors import InvalidInput
from perdure.domain.sessions import NetworkAccess
from perdure.domain.visible import exact

PrivateAddresses = bool | tuple[str, ...]
"""Which addresses of private networks and of this machine may be reached: all, none, or these networks, each
as `network/length`. Addresses of metadata services are never reached."""


def read_private(text: str) -> PrivateAddresses:
    """Read a setting: `true`, `false`, or networks and addresses that are separated by commas.

    Raises:
        ValueError: a part is neither a network nor an address; the error's text is the part.
    """
    plain = text.strip().lower()
    if plain in ("true", "1"):
        return True
    if plain in ("false", "0"):
        return False
    return tuple(dict.fromkeys(_network(part.strip()) for part in text.split(",") if part.strip()))


def _network(part: str) -> str:
    """Spell a network in the usual way; IPv4 addresses that are written as IPv6 ones become IPv4."""
    try:
        network = ipaddress.ip_network(part)
        mapped = getattr(network.network_address, "ipv4_mapped", None)
        if mapped is not None and network.prefixlen >= _MAPPED:
            network = ipaddress.ip_network(f"{mapped}/{network.prefixlen - _MAPPED}")
    except ValueError:
        raise ValueError(part) from None
    return str(network)


_MAPPED = 96
"""Bits before the IPv4 address in an IPv6 address that is mapped from one."""


class NetworkRules(Struct, frozen=True):
    """The combined lists of all layers.

    A host is permitted if no layer blocks it and every layer with an allow list allows it.

    Attributes:
        allowed: the allow lists, one for each layer that has one. Without any, every host is allowed.
        blocked: the blocked hosts of all layers.
        private: which addresses of private networks and of this machine may be reached (a server setting).
    """

    allowed: tuple[tuple[str, ...], ...] = ()
    blocked: tuple[str, ...] = ()
    private: PrivateAddresses = False

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
    from yarl import URL  # as the client of the tools converts names: another way could find another host

    try:
        return URL.build(scheme="http", host=text).raw_host or text
    except ValueError:
        return text


def check_network(access: NetworkAccess | UnsetType | None) -> None:
    """Check that each entry is a host, an address, or `*.` and a host.

    Another entry would match nothing, so that a host which somebody meant to block could be reached.

    Raises:
        InvalidInput: names the entry.
    """
    if not isinstance(access, NetworkAccess):
        return
    for field, entries in (("allowed", access.allowed), ("blocked", access.blocked)):
        for index, entry in enumerate(entries):
            if not _is_pattern(entry):
                where = f"network_access.{field}[{index}]"
                raise InvalidInput(
                    f"`{where}` must be one host (example.com), all hosts below one (*.example.com), one "
                    f"address, or *, not {exact(entry)}",
                    field=where,
                )


_LABEL = r"[a-z0-9_][a-z0-9_-]{0,62}"
# A name that ends in a number is an address, as browsers read it: here in a spelling that nothing is compared
# to, or a range.
_HOST = re.compile(rf"(?!(.*\.)?([0-9]+|0x[0-9a-f]*)$){_LABEL}(\.{_LABEL}){{0,126}}")
_PORT = re.compile(r"(:[0-9]{1,5})?")


def _is_pattern(entry: str) -> bool:
    text, port = _split(entry)
    name = plain_host(text.removeprefix("*."))
    if _PORT.fullmatch(port) is None:
        return False
    return text == "*" or _HOST.fullmatch(name) is not None or _is_address(name)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _patterns(entries: Iterable[str]) -> tuple[str, ...]:
    return tuple(pattern for pattern in map(_pattern, entries) if pattern)


def _pattern(entry: str) -> str:
    """Normalize an entry to a host or `*.` with a host. The entry may be a URL with scheme, port and path."""
    text, _ = _split(entry)
    wildcard = text.startswith("*.")
    name = plain_host(text.removeprefix("*."))
    return f"*.{name}" if wildcard and name else name


_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]{0,20}://")
_END_OF_HOST = re.compile(r"[/?#\\]")


def _split(entry: str) -> tuple[str, str]:
    """Return an entry's host, and what follows it up to the path: the port."""
    text = entry.strip()
    scheme = _SCHEME.match(text)
    text = _END_OF_HOST.split(text[scheme.end() if scheme else 0 :], maxsplit=1)[0].rpartition("@")[2]
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        return host, port
    if text.count(":") == 1:
        host, mark, port = text.partition(":")
        return host, mark + port
    return text, ""


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
