"""The URLs of the next and the previous page."""

from __future__ import annotations

from typing import TypeVar
from urllib.parse import parse_qsl, urlencode

import msgspec

from perdure.domain.paging import Page

T = TypeVar("T")


def linked(page: Page[T], path: str, query: bytes) -> Page[T]:
    """Add the URLs of the next and the previous page. They keep the query's other parameters."""
    rest = [
        pair for pair in parse_qsl(query.decode("latin-1"), keep_blank_values=True) if pair[0] != "offset"
    ]

    def url(offset: int) -> str:
        return f"{path}?{urlencode([*rest, ('offset', offset)])}"

    following = page.offset + page.limit
    return msgspec.structs.replace(
        page,
        next_url=url(following) if following < page.total else None,
        prev_url=url(max(0, page.offset - page.limit)) if page.offset else None,
    )
