"""Host names in `Host` and `Origin` headers and in settings."""

from __future__ import annotations

import ipaddress
from functools import lru_cache


@lru_cache(maxsize=64)  # called for every request, nearly always with the same name
def is_loopback(host: str) -> bool:
    """Return whether a host name or address, in lower case, always means this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_name(host: str) -> str:
    """Return the name or address in a `Host` header, in lower case and without the port.

    An empty text if the header is anything else, such as the list to which some proxies join two headers.
    """
    name, mark, rest = host.lower().partition("]") if host.startswith("[") else ("", "", host.lower())
    if not mark:
        name, mark, rest = rest.partition(":")
        rest = mark + rest
    port = rest.removeprefix(":")
    return name.removeprefix("[") if rest == "" or (rest != port and (port.isdecimal() or not port)) else ""


@lru_cache(maxsize=64)
def same_origin(origin: str, host: str) -> bool:
    """Return whether an `Origin` header names the origin that a `Host` header of plain HTTP stands for."""
    scheme, _, rest = origin.lower().partition("://")
    return scheme == "http" and _with_port(rest) == _with_port(host.lower())


def _with_port(host: str) -> str:
    return host if ":" in host.rpartition("]")[2] else f"{host}:80"
