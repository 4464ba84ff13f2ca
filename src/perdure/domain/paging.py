"""Links in responses: URLs, pages and allowed actions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Generic, TypeVar

from msgspec import Meta, Struct

T = TypeVar("T")


class AllowedAction(Struct, frozen=True, omit_defaults=True):
    """An action that the caller may perform on a resource now."""

    rel: Annotated[str, Meta(description="The relation of the action to the resource.", examples=["self"])]
    method: Annotated[str | None, Meta(description="The HTTP method of the request.")] = None
    href: Annotated[str | None, Meta(description="The path of the request.")] = None
    operation_id: Annotated[
        str | None, Meta(description="The `operationId` of the operation in this document.")
    ] = None
    hint: Annotated[str | None, Meta(description="What the action does.")] = None


SelfUrl = Annotated[str, Meta(description="The URL of the resource in this API.")]
ViewUrl = Annotated[str, Meta(description="The URL of the page that shows the resource.")]
UiLink = Annotated[str, Meta(description="The URL of the page that shows the resource.")]
AllowedActions = Annotated[
    tuple[AllowedAction, ...], Meta(description="What the caller may do with the resource now.")
]


class Page(Struct, Generic[T], frozen=True, omit_defaults=True):
    """A page of a list."""

    data: Annotated[tuple[T, ...], Meta(description="The items of this page.")]
    total: Annotated[int, Meta(description="The number of items that match, on all pages.", examples=[1])]
    offset: Annotated[int, Meta(description="The number of items skipped before this page.", examples=[0])]
    limit: Annotated[
        int,
        Meta(
            description=(
                "The maximum number of items on this page. It is smaller than the requested one if the page"
                " ended early because of its size in bytes; the next page begins at `offset` + `limit`."
            ),
            examples=[20],
        ),
    ]
    next_url: Annotated[
        str | None,
        Meta(description="The URL of the next page, with the same filters. Absent on the last page."),
    ] = None
    prev_url: Annotated[
        str | None,
        Meta(description="The URL of the previous page, with the same filters. Absent on the first page."),
    ] = None


def page_of(items: Sequence[T], total: int, offset: int, limit: int) -> Page[T]:
    """Build a page. One that ended before its limit, because of its size in bytes, has a smaller `limit`.

    So a client that adds `limit` to `offset`, or follows `next_url`, misses nothing.
    """
    short = 0 < len(items) < limit and offset + len(items) < total
    return Page(tuple(items), total, offset, len(items) if short else limit)


class Listing(Struct, Generic[T], frozen=True):
    """A whole list, or a part of it selected by a cursor."""

    data: Annotated[tuple[T, ...], Meta(description="The items.")]
