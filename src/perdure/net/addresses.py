"""Where calls to the outside may not go.

Model calls may go nearly anywhere, this machine and private networks included: that is where local model
servers are, and providers are set up by admins. Only the addresses at which clouds hand out a machine's own
credentials are refused (docs/decisions/0013-where-model-calls-may-go.md). Tools go where a model says, so for
them `is_public_address` counts.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from ipaddress import IPv4Address, IPv6Address

from aiohttp.abc import AbstractResolver, ResolveResult

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
    """Whether a host, as it stands in a URL, is one of those.

    A name is looked at again once it is resolved.
    """
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


def plain_address(text: str) -> str | None:
    """An IP address in its usual spelling, out of any of its spellings.

    An IPv6 address that stands for an IPv4 one as the latter.

    None for what is no address.
    """
    address = _parsed(text.strip("[]").rstrip("."))
    if isinstance(address, IPv6Address):
        address = _inside(address) or address
    return None if address is None else str(address)


def is_public_address(text: str) -> bool:
    """Whether everybody on the internet reaches an IP address, in any of its spellings, at the same place.

    Private, loopback, link-local, shared, multicast, unspecified, reserved and documentation addresses are
    not, nor are clouds' metadata services, nor any address that only stands for one of these. What is no
    address is not either.
    """
    plain = plain_address(text)
    if plain is None or is_refused_address(plain):
        return False
    address = ipaddress.ip_address(plain)
    if isinstance(address, IPv6Address) and (address.is_site_local or address.teredo is not None):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


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


class SystemResolver(AbstractResolver):
    """The system's look-ups, each in a thread of its own.

    One that takes long keeps no other waiting, and not the process's end.

    The event loop's own would share a few threads between the pages that tools ask for and calls to models.
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a host.

        Raises OSError when there is no such host, and UnicodeError for what cannot be one.
        """
        answer: Future[list[ResolveResult]] = Future()
        answer.set_running_or_notify_cancel()  # nobody can call a look-up back

        def work() -> None:
            try:
                answer.set_result(_look_up(host, port, family))
            except (OSError, UnicodeError) as error:
                answer.set_exception(error)

        threading.Thread(target=work, name="look-up", daemon=True).start()
        return await asyncio.wrap_future(answer)

    async def close(self) -> None:
        """There is nothing to close."""


def _look_up(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return [
        ResolveResult(
            hostname=host, host=str(place[0]), port=port, family=kind, proto=protocol, flags=numeric
        )
        for kind, _, protocol, _, place in found
    ]


class CheckedResolver(AbstractResolver):
    """A resolver that gives only addresses that may be reached.

    The connector connects to those and looks nothing up again.

    Args:
        inner: where names are looked up.
        permits: whether an address may be reached.
        refuse: the error of a host none of whose addresses may.
    """

    def __init__(
        self, inner: AbstractResolver, permits: Callable[[str], bool], refuse: Callable[[str], Exception]
    ) -> None:
        self._inner = inner
        self._permits = permits
        self._refuse = refuse

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a host. Raises what `refuse` makes, and OSError when there is no such host."""
        try:
            found = await self._inner.resolve(host, port, family)
        except UnicodeError:  # a part of the name is empty, or too long
            raise OSError(f"{host} cannot be the name of a host") from None
        allowed = [each for each in found if self._permits(each["host"])]
        if not allowed:
            raise self._refuse(host)
        return allowed

    async def close(self) -> None:
        await self._inner.close()


class GuardedResolver(CheckedResolver):
    """The system's resolver, for calls to models: a name can change where it points at any time.

    It raises ModelError.
    """

    def __init__(self) -> None:
        super().__init__(SystemResolver(), lambda address: not is_refused_address(address), refused)


def refused(host: str) -> ModelError:
    """The error for a host that may not be reached."""
    return ModelError(
        f"{host} is not a place for a model: it hands out a cloud's credentials", code="provider_unavailable"
    )
