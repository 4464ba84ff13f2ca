"""Where model calls may not go: the addresses at which clouds hand out a machine's own credentials.

Everything else may be reached, this machine and private networks too: that is where local model servers are. Providers are
set up by admins (docs/decisions/0013-where-model-calls-may-go.md).
"""

from __future__ import annotations

import ipaddress
import socket
from ipaddress import IPv4Address, IPv6Address

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from perdure.domain.errors import ModelError

_METADATA_NAMES = frozenset({"metadata", "metadata.google.internal", "metadata.goog", "instance-data"})
_METADATA_ADDRESSES = frozenset(
    {
        IPv4Address("100.100.100.200"),  # Alibaba Cloud
        IPv4Address("168.63.129.16"),  # Azure
        IPv4Address("192.0.0.192"),  # Oracle Cloud
        IPv6Address("fd00:ec2::254"),  # AWS
        IPv6Address("fd20:ce::254"),  # Google Cloud
    }
)
_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))


def is_refused_host(host: str) -> bool:
    """Whether a host, as it stands in a URL, is one of those; a name is looked at again once it is resolved."""
    host = host.strip("[]").rstrip(".").lower()
    return host in _METADATA_NAMES or is_refused_address(host)


def is_refused_address(text: str) -> bool:
    """Whether an IP address, in any of its spellings, is one of those. What is no address is not."""
    address = _parsed(text)
    if address is None:
        return False
    if isinstance(address, IPv6Address):
        inner = _inside(address)
        if inner is not None:
            address = inner
    return address.is_link_local or address in _METADATA_ADDRESSES


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        pass
    try:
        # Decimal, hexadecimal and shortened forms, as the system's resolver takes them.
        return IPv4Address(socket.inet_aton(text)) if text[:1].isdigit() else None
    except (OSError, ValueError):
        return None


def _inside(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 address stands for."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if any(address in network for network in _NAT64) or int(address) >> 32 == 0:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None


class GuardedResolver(AbstractResolver):
    """The system's resolver, without the addresses that may not be reached: a name can change where it points at any time."""

    def __init__(self) -> None:
        self._inner = ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        """The addresses of a host.

        Raises:
            ModelError: they may not be reached.
            OSError: there is no such host.
        """
        found = await self._inner.resolve(host, port, family)
        allowed = [each for each in found if not is_refused_address(each["host"])]
        if found and not allowed:
            raise refused(host)
        return allowed

    async def close(self) -> None:
        await self._inner.close()


def refused(host: str) -> ModelError:
    """The error for a host that may not be reached."""
    return ModelError(f"{host} is not a place for a model: it hands out a cloud's credentials", code="provider_unavailable")
