"""Base URLs as people have them: with or without a version, with the path of a call, with a query."""

from __future__ import annotations

import re
from urllib.parse import quote

from perdure.net.addresses import is_public_address, plain_address

_VERSION = re.compile(r"/v\d+[a-z0-9]*(/|$)", re.IGNORECASE)
_CALLS = re.compile(r"(/chat/completions|/completions|/responses|/messages|(?<=\d)/chat)$", re.IGNORECASE)
_VERSIONED_LIST = re.compile(r"(/v\d+[a-z0-9]*)/models$", re.IGNORECASE)
_SLASHES = re.compile(r"/{2,}")
_NEAR_NAMES = (".local", ".localhost", ".internal", ".lan", ".home.arpa", ".intranet", ".svc")


def base_urls(given: str, *, versioned: bool = False, version: str = "v1") -> tuple[str, str | None]:
    """Return the base URL to call, and another form of it to try if the server has no such address.

    A path that is given is kept, without the path of a call at its end. The version is added to a bare host.

    Args:
        given: the provider's base URL.
        versioned: the protocol's base URLs omit the version by convention, so it is added to every path
            without a version.
        version: the version of the protocol's paths.
    """
    head, mark, query = given.strip().partition("#")[0].partition("?")
    scheme, slashes, rest = head.rstrip("/").partition("://")
    host, slash, path = rest.partition("/")
    path = _CALLS.sub("", _SLASHES.sub("/", slash + path)).rstrip("/")
    path = _VERSIONED_LIST.sub(r"\1", path)

    def url(path: str) -> str:
        return scheme + slashes + host + path + mark + query

    if _VERSION.search(path):
        return url(path), None
    plain, numbered = url(path), url(f"{path}/{version}")
    return (numbered, plain) if versioned or not path else (plain, numbered)


def path_segment(name: str) -> str:
    """Encode a name as one segment of a path, which it cannot leave."""
    return quote(name, safe="") if name.strip(".") else name.replace(".", "%2E")


def is_near(host: str) -> bool:
    """Whether a host, in lower case, is this machine or in a private network, by its address or its name."""
    host = host.strip("[]").rstrip(".")
    address = plain_address(host)
    if address is not None:
        return not is_public_address(address)
    return "." not in host or host.endswith(_NEAR_NAMES)
