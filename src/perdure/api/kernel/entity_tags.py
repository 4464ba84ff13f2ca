"""Entity tags: caching with `If-None-Match`, optimistic locking with `If-Match`.

A tag has two parts. The first is the version: a hash of the fields that clients can change. The second is a
hash of the whole response. A cache compares both. A writer compares the version only, so that running turns
and counters do not make its write fail.
"""

from __future__ import annotations

import re
from hashlib import blake2b

from perdure.api.kernel.asgi import Header, Headers
from perdure.app.etags import version_of
from perdure.domain.errors import InvalidInput

_TAGS = re.compile(r'\s*(?:W/)?"([\x21\x23-\x7e]*)"\s*(?:,|$)')


def tag_of(resource: object, body: bytes) -> str:
    """Return a resource's entity tag, without quotes.

    A resource without a method `editable`, such as a list, has no version: its tag is the second part only.

    Args:
        body: the resource's JSON.
    """
    content_hash = blake2b(body, digest_size=12).hexdigest()
    editable = getattr(resource, "editable", None)
    return content_hash if editable is None else f"{version_of(editable())}-{content_hash}"


def parse_tags(header: bytes) -> frozenset[str]:
    """Parse the tags of an If-Match or If-None-Match header. `*` matches any tag.

    Raises:
        InvalidInput: the header is malformed.
    """
    text = header.decode("latin-1")
    if text.strip() == "*":
        return frozenset("*")
    tags: list[str] = []
    position = 0
    while position < len(text) or not tags:
        match = _TAGS.match(text, position)
        if match is None:
            raise InvalidInput(
                'If-Match and If-None-Match take entity tags such as "0123abcd", with their quotes',
                code="invalid_etag",
            )
        tags.append(match[1])
        position = match.end()
    return frozenset(tags)


def is_known(headers: Headers, tag: str) -> bool:
    """Return whether the request's If-None-Match names this tag. Raises InvalidInput."""
    known = headers.get(b"if-none-match")
    return known is not None and bool({tag, "*"} & parse_tags(known))


def etag_header(tag: str | None) -> tuple[Header, ...]:
    """Return the ETag header, or nothing without a tag."""
    return () if tag is None else ((b"etag", f'"{tag}"'.encode()),)
