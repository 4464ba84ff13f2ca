"""Names of hosts, as `Host` and `Origin` headers and settings have them."""

from __future__ import annotations

import ipaddress
from functools import lru_cache


@lru_cache(maxsize=64)  # asked for every request, nearly always the same name
def is_loopback(host: str) -> bool:
    """Whether a name or address, in lower case, can only mean this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_name(host: str) -> str:
    """The name or address in a `Host` header, in lower case, without the port."""
    host = host.lower()
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
