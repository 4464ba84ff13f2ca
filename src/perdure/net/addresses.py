"""Which addresses outgoing requests must not reach.

Model calls may reach nearly every address, including this machine and private networks: local model servers
run there, and only admins configure providers. Link-local addresses and cloud metadata services, which
hand out a machine's own credentials, are refused to everyone under every setting
(docs/decisions/0013-where-model-calls-may-go.md). Tools connect to addresses that a model chooses, so they
are restricted to `is_public_address`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from aiohttp.abc import AbstractResolver, ResolveResult

from perdure.domain.errors import ModelError
from perdure.domain.network import PrivateAddresses

_METADATA_NAMES = frozenset({"metadata", "metadata.google.internal", "metadata.goog", "instance-data"})
_METADATA_ADDRESSES = frozenset(
    {
        IPv4Address("100.100.100.200"),  # Alibaba Cloud
        IPv4Address("168.63.129.16"),  # Azure
        IPv4Address("192.0.0.192"),  # Oracle Cloud
        IPv4Address("169.254.169.254"),  # most clouds
        IPv4Address("169.254.170.2"),  # AWS: credentials of containers
        IPv6Address("fd20:ce::254"),  # Google Cloud
        IPv6Address("fd00:42::42"),  # Scaleway
    }
)
_METADATA_NETWORK = ipaddress.IPv6Network("fd00:ec2::/32")
"""AWS: instance metadata (`::254`), credentials of pods (`::23`) and others."""

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")
_TRANSLATED = ipaddress.IPv6Network("::ffff:0:0:0/96")
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})


def is_refused_host(host: str) -> bool:
    """Whether a URL's host names a cloud metadata service.

    Names are checked again after resolution, by their addresses.
    """
    host = host.strip("[]").rstrip(".").lower()
    return host in _METADATA_NAMES or is_refused_address(host)


def is_refused_address(text: str) -> bool:
    """Whether the text is the IP address of a metadata service, in any spelling. False for other text."""
    address = _parsed(text)
    if address is None:
        return False
    if isinstance(address, IPv6Address):
        if address.is_link_local or address in _METADATA_ADDRESSES or address in _METADATA_NETWORK:
            return True
        # Networks choose prefixes of their own for translation to IPv4, and clouds spell out the usual
        # address in their IPv6 ones (Oracle: fd00:c1::a9fe:a9fe).
        if IPv4Address(int(address) & 0xFFFFFFFF) in _METADATA_ADDRESSES:
            return True
        return any(each.is_link_local or each in _METADATA_ADDRESSES for each in _embedded_ipv4(address))
    return address.is_link_local or address in _METADATA_ADDRESSES


def plain_address(text: str) -> str | None:
    """Normalize any spelling of an IP address.

    Returns the IPv4 address for an IPv6 address that embeds one, and None for text that is not an address.
    """
    address = _parsed(text.strip("[]").rstrip("."))
    if isinstance(address, IPv6Address):
        embedded = _embedded_ipv4(address)
        worst = (each for each in embedded if is_refused_address(str(each)))
        address = next(worst, embedded[0]) if embedded else address
    return None if address is None else str(address)


def is_public_address(text: str) -> bool:
    """Whether the text is a globally routable unicast IP address, in any spelling.

    False for private, loopback, link-local, shared, multicast, unspecified, reserved and documentation
    addresses, for cloud metadata services, for IPv6 addresses that embed one of these, and for text that is
    not an address.
    """
    address = _parsed(text.strip("[]").rstrip("."))
    if address is None or is_refused_address(str(address)):
        return False
    embedded = _embedded_ipv4(address) if isinstance(address, IPv6Address) else ()
    return all(map(_is_global, embedded)) if embedded else _is_global(address)


def is_reachable(text: str, private: PrivateAddresses) -> bool:
    """Whether tools and MCP servers may be at this address, in any spelling; False for other text.

    An IPv6 address that embeds IPv4 addresses is reachable if each of them is.
    """
    address = _parsed(text.strip("[]").rstrip("."))
    if address is None or is_refused_address(str(address)):
        return False
    if private is True or is_public_address(text):
        return True
    if not private:
        return False
    embedded = _embedded_ipv4(address) if isinstance(address, IPv6Address) else ()
    networks = _networks(private)
    return all(
        _is_global(each) or any(each in network for network in networks) for each in embedded or (address,)
    )


@lru_cache(maxsize=16)  # a server has one such setting
def _networks(private: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(map(ipaddress.ip_network, private))


def _is_global(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address) and (address.is_site_local or address.teredo is not None):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        pass
    try:
        # Decimal, hexadecimal and shortened forms, which the system's resolver accepts.
        return IPv4Address(socket.inet_aton(text)) if text[:1].isdigit() else None
    except (OSError, ValueError):
        return None


def _embedded_ipv4(address: IPv6Address) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses that an IPv6 address may embed, in the forms that routers and translators know.

    These are: mapped, translated, compatible, 6to4, ISATAP and NAT64. A local NAT64 prefix may have one at
    two places (RFC 6052, section 2.2).
    """
    value = int(address)
    last = IPv4Address(value & 0xFFFFFFFF)
    if address.ipv4_mapped is not None or address in _NAT64 or address in _TRANSLATED or value >> 32 == 0:
        return (last,)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address in _LOCAL_NAT64:
        return (last, IPv4Address((value >> 64 & 0xFFFF) << 16 | value >> 40 & 0xFFFF))
    return (last,) if value >> 32 & 0xFFFFFFFF in _ISATAP else ()


async def look_up_all(
    hosts: Iterable[str], resolver: AbstractResolver, seconds: float
) -> dict[str, tuple[str, ...]]:
    """The addresses of the hosts that resolve within so many seconds."""
    few, found = asyncio.Semaphore(16), dict[str, tuple[str, ...]]()

    async def look_up(host: str) -> None:
        async with few:
            with contextlib.suppress(OSError, UnicodeError):
                answers = await resolver.resolve(host, 0, socket.AF_UNSPEC)
                found[host] = tuple(answer["host"] for answer in answers)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(*map(look_up, hosts))
    return dict(found)


MAX_LOOKUPS = 64
"""Lookups of one resolver that run at the same time, each in a thread."""
LOOKUP_WAIT = 10.0
"""Seconds that a further lookup waits for its turn."""

_Name = tuple[str, int, socket.AddressFamily]


class SystemResolver(AbstractResolver):
    """Resolves names with the system's resolver, each lookup in its own daemon thread.

    A slow lookup therefore blocks neither other lookups nor the process's exit. The event loop's default
    resolver would share a few threads between the tools' fetches and model calls.

    A name server that does not answer holds a thread for up to half a minute, so their number is limited, and
    concurrent lookups of the same name share one.
    """

    def __init__(self, at_once: int = MAX_LOOKUPS) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._running: dict[_Name, asyncio.Future[list[ResolveResult]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Resolve a host.

        Raises:
            OSError: the host does not exist, or too many lookups wait for an answer.
            UnicodeError: the text cannot be a host name.
        """
        key = (host, port, family)
        if key not in self._running:
            try:
                async with asyncio.timeout(LOOKUP_WAIT):
                    await self._free.acquire()
            except TimeoutError:
                raise OSError(f"{host} cannot be looked up: the name servers do not answer") from None
            if key in self._running:
                self._free.release()
            else:
                self._running[key] = self._start(key)
        return await asyncio.shield(self._running[key])

    def _start(self, key: _Name) -> asyncio.Future[list[ResolveResult]]:
        """Look a name up in a thread of its own, which occupies one of the places until it ends."""
        answer: Future[list[ResolveResult]] = Future()
        answer.set_running_or_notify_cancel()  # a lookup that has started cannot be cancelled

        def work() -> None:
            try:
                answer.set_result(_look_up(*key))
            except (OSError, UnicodeError) as error:
                answer.set_exception(error)

        def end(ended: asyncio.Future[list[ResolveResult]]) -> None:
            ended.exception()  # all who waited for it may have left
            self._running.pop(key, None)
            self._free.release()

        running = asyncio.wrap_future(answer)
        running.add_done_callback(end)
        threading.Thread(target=work, name="lookup", daemon=True).start()
        return running

    async def close(self) -> None:
        """Do nothing: the resolver holds no resources."""


def _look_up(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    entries = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return [
        ResolveResult(
            hostname=host, host=str(address[0]), port=port, family=kind, proto=protocol, flags=numeric
        )
        for kind, _, protocol, _, address in entries
    ]


class CheckedResolver(AbstractResolver):
    """A resolver that returns only permitted addresses.

    The connector connects to exactly these addresses and does not resolve again, so a name that changes in
    between (DNS rebinding) has no effect.

    Args:
        inner: resolves the names.
        permits: whether an address may be reached.
        refuse: makes the error for a host without a permitted address.
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
        """Resolve a host to its permitted addresses.

        Raises:
            OSError: the host does not exist.
            Exception: `refuse`'s error, if no address is permitted.
        """
        try:
            addresses = await self._inner.resolve(host, port, family)
        except UnicodeError:  # a label of the name is empty or too long
            raise OSError(f"{host} is not a valid host name") from None
        allowed = [address for address in addresses if self._permits(address["host"])]
        if not allowed:
            raise self._refuse(host)
        return allowed

    async def close(self) -> None:
        await self._inner.close()


class GuardedResolver(CheckedResolver):
    """The system's resolver for model calls: checks the addresses at every lookup. Raises ModelError."""

    def __init__(self) -> None:
        super().__init__(SystemResolver(), lambda address: not is_refused_address(address), refused)


def refused(host: str) -> ModelError:
    """The error for a model host that must not be reached."""
    return ModelError(
        f"{host} must not be used for models: it is a cloud metadata service, which hands out credentials",
        code="provider_unavailable",
    )
