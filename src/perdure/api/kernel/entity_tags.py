"""Entity tags over HTTP, for caches (`If-None-Match`) and for writers who must not overwrite (`If-Match`).

A tag has two parts. The first is the version: it changes with what clients can change. The second changes
with anything that is shown. A cache needs both; a writer is held up by other writers only, not by a turn that
runs or by what is counted.
"""

from __future__ import annotations

import re
from hashlib import blake2b

from perdure.api.kernel.asgi import Header, Headers
from perdure.app.etags import version_of
from perdure.domain.errors import InvalidInput

_TAGS = re.compile(r'\s*(?:W/)?"([\x21\x23-\x7e]*)"\s*(?:,|$)')


def tag_of(resource: object, body: bytes) -> str:
    """The tag of a resource with its JSON, without quotes.

    What nobody changes as a whole, such as a list, has the second part only: it has no method `editable`.
    """
    shown = blake2b(body, digest_size=12).hexdigest()
    editable = getattr(resource, "editable", None)
    return shown if editable is None else f"{version_of(editable())}-{shown}"


def parse_tags(header: bytes) -> frozenset[str]:
    """The tags of an If-Match or If-None-Match header; `*` stands for any.

    Raises:
        InvalidInput: the header is malformed.
    """
    text = header.decode("latin-1")
    if text.strip() == "*":
        return frozenset("*")
    found: list[str] = []
    position = 0
    while position < len(text) or not found:
        match = _TAGS.match(text, position)
        if match is None:
            raise InvalidInput('an entity tag looks like "0123abcd"', code="invalid_etag")
        found.append(match[1])
        position = match.end()
    return frozenset(found)


def is_known(headers: Headers, tag: str) -> bool:
    """Whether the client has this version already, by its If-None-Match. Raises InvalidInput."""
    known = headers.get(b"if-none-match")
    return known is not None and bool({tag, "*"} & parse_tags(known))


def etag_header(tag: str | None) -> tuple[Header, ...]:
    """The ETag header; none without a tag."""
    return () if tag is None else ((b"etag", f'"{tag}"'.encode()),)
