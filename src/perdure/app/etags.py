"""Entity tags: a resource's version, for caches (`If-None-Match`) and for writers who must not overwrite (`If-Match`)."""

from __future__ import annotations

import re
from hashlib import blake2b

import msgspec
from msgspec import Struct

from perdure.domain.errors import InvalidInput, PreconditionFailed

_TAGS = re.compile(r'\s*(?:W/)?"([\x21\x23-\x7e]*)"\s*(?:,|$)')


def etag_of(body: bytes) -> str:
    """The tag of a resource's JSON, without quotes."""
    return blake2b(body, digest_size=12).hexdigest()


def parse_tags(header: str) -> frozenset[str]:
    """The tags of an If-Match or If-None-Match header; `*` stands for any.

    Raises:
        InvalidInput: the header is malformed.
    """
    if header.strip() == "*":
        return frozenset("*")
    found: list[str] = []
    position = 0
    while position < len(header) or not found:
        match = _TAGS.match(header, position)
        if match is None:
            raise InvalidInput('an entity tag looks like "0123abcd"', code="invalid_etag")
        found.append(match[1])
        position = match.end()
    return frozenset(found)


def check_match(wanted: frozenset[str] | None, current: Struct) -> None:
    """Accept a change only of the version that the caller has seen.

    Raises:
        PreconditionFailed: the resource has changed since.
    """
    if wanted is None or "*" in wanted:
        return
    if etag_of(msgspec.json.encode(current)) not in wanted:
        raise PreconditionFailed("the resource has changed since it was read: read it again")
