"""Entity tags: a resource's version, for caches (`If-None-Match`) and for writers who must not overwrite
(`If-Match`).

A tag has two parts. The first changes with what clients can change, the second with anything that is shown. A
cache needs both; a writer is held up by other writers only, not by a turn that runs or by what is counted.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Any, Protocol

import msgspec

from perdure.domain.errors import InvalidInput, PreconditionFailed
from perdure.domain.paging import Listing

_TAGS = re.compile(r'\s*(?:W/)?"([\x21\x23-\x7e]*)"\s*(?:,|$)')


class Editable(Protocol):
    """A resource with a tag."""

    def editable(self) -> object:
        """What clients can change of it, to be compared as JSON."""
        ...


def etag_of(resource: Editable | Listing[Any], body: bytes) -> str:
    """The tag of a resource with its JSON, without quotes.

    A listing's has the second part only: nobody changes it as a whole.
    """
    shown = blake2b(body, digest_size=12).hexdigest()
    return shown if isinstance(resource, Listing) else f"{_version(resource)}-{shown}"


def _version(resource: Editable) -> str:
    return blake2b(msgspec.json.encode(resource.editable()), digest_size=8).hexdigest()


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


def check_match(wanted: frozenset[str] | None, current: Editable) -> None:
    """Accept a change only of what the caller has seen, as far as clients can change it.

    Raises:
        PreconditionFailed: the resource has changed since.
    """
    if wanted is None or "*" in wanted:
        return
    if _version(current) not in {tag.partition("-")[0] for tag in wanted}:
        raise PreconditionFailed("the resource has changed since it was read: read it again")
