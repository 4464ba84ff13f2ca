"""What responses say about where to go next: URLs and allowed actions."""

from __future__ import annotations

from typing import Generic, TypeVar

from msgspec import Struct

T = TypeVar("T")


class AllowedAction(Struct, frozen=True, omit_defaults=True):
    """Something that the caller may do with a resource now."""

    rel: str
    method: str | None = None
    href: str | None = None
    operation_id: str | None = None
    hint: str | None = None


class Page(Struct, Generic[T], frozen=True, omit_defaults=True):
    """A slice of a list: `total` counts all that match, `offset` and `limit` are those of the request.

    `next_url` and `prev_url` lead to the slices beside it, where there is something.
    """

    data: tuple[T, ...]
    total: int
    offset: int
    limit: int
    next_url: str | None = None
    prev_url: str | None = None


class Listing(Struct, Generic[T], frozen=True):
    """A whole list, or a slice by cursor."""

    data: tuple[T, ...]
