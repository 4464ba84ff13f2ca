"""Build the client's methods that are one request each from their path, body and result.

A method takes exactly the fields of its body's struct, so that a field is defined once, in the domain.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Struct

from perdure.client.errors import BadAnswer
from perdure.client.transport import Params, Transport, reason_header
from perdure.domain.paging import Listing, Page

P = ParamSpec("P")
R = TypeVar("R")


class Caller:
    """Makes the requests; the client's base class."""

    transport: Transport

    async def call(
        self,
        method: str,
        path: str,
        result: type[R],
        *,
        params: Params = (),
        body: Struct | None = None,
        once: str | None = None,
        if_match: str | None = None,
        reason: str | None = None,
    ) -> R:
        """Send one request and decode its answer.

        Args:
            method: the HTTP method.
            path: the path below the base URL.
            result: the type of the answer.
            params: the query parameters.
            body: the request body.
            once: an idempotency key: the server processes the request once, even if it arrives several times.
            reason: why something is changed, for the audit log.
            if_match: the hash of what the request may change; the server refuses it (412) for another one.

        Raises:
            BadAnswer: the answer is not a valid `result`.
        """
        given = {"Idempotency-Key": once, "If-Match": None if if_match is None else f'"{if_match}"'}
        headers = {name: text for name, text in given.items() if text is not None} | reason_header(reason)
        repeatable = None if once is None else True
        answer = await self.transport.request(
            method, path, params=params, body=body, headers=headers, repeatable=repeatable, has_answer=True
        )
        try:
            return msgspec.json.decode(answer, type=result)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadAnswer(f"the answer to {method} {path} is not valid: {error}") from error


def new_key() -> str:
    """Generate an idempotency key."""
    return uuid.uuid4().hex


def path_of(template: str, *ids: str) -> str:
    """Insert the ids into the path's `{}`, quoted, so that an id cannot change the route."""
    if not all(ids):
        raise ValueError(f"empty id for {template}: pass the resource's id")
    return template.format(*(quote(part, safe="") for part in ids))


def creates(
    path: str, body: Callable[P, Struct], result: type[R], about: str, params: Params = ()
) -> Callable[Concatenate[Caller, P], Coroutine[Any, Any, R]]:
    """Build a method that posts the fields of `body`, with these query parameters."""

    async def call(self: Caller, /, *args: P.args, **kwargs: P.kwargs) -> R:
        fields = body(*args, **kwargs)
        return await self.call("POST", path, result, params=params, body=fields, once=new_key())

    call.__doc__ = f"{about}\n\nTakes the fields of `{body.__name__}`."
    return call


def creates_under(
    path: str, body: Callable[P, Struct], result: type[R], about: str, *, once: bool = True
) -> Callable[Concatenate[Caller, str, P], Coroutine[Any, Any, R]]:
    """Build a method that takes an id and posts the fields of `body` below it.

    Args:
        once: whether the route takes an idempotency key.
    """

    async def call(self: Caller, parent_id: str, /, *args: P.args, **kwargs: P.kwargs) -> R:
        key = new_key() if once else None
        return await self.call("POST", path_of(path, parent_id), result, body=body(*args, **kwargs), once=key)

    call.__doc__ = f"{about}\n\nTakes an id, then the fields of `{body.__name__}`."
    return call


def updates(
    path: str, body: Callable[P, Struct], result: type[R], about: str, params: Params = ()
) -> Callable[Concatenate[Caller, str, P], Coroutine[Any, Any, R]]:
    """Build a method that changes the fields that are passed; None clears a field."""

    async def call(self: Caller, resource_id: str, /, *args: P.args, **kwargs: P.kwargs) -> R:
        fields = body(*args, **kwargs)
        return await self.call("PATCH", path_of(path, resource_id), result, params=params, body=fields)

    call.__doc__ = (
        f"{about}\n\nTakes an id, then the fields of `{body.__name__}` to change; None clears a field."
    )
    return call


def reads(path: str, result: type[R], about: str) -> Callable[[Caller, str], Coroutine[Any, Any, R]]:
    """Build a method that gets the resource with an id."""

    async def call(self: Caller, resource_id: str, /) -> R:
        return await self.call("GET", path_of(path, resource_id), result)

    call.__doc__ = about
    return call


def acts(
    method: str, path: str, result: type[R], about: str, *, creates: bool = False
) -> Callable[[Caller, str], Coroutine[Any, Any, R]]:
    """Build a method that takes an id and sends a request without a body.

    Args:
        creates: whether the request creates something. It then carries an idempotency key.
    """

    async def call(self: Caller, resource_id: str, /) -> R:
        once = new_key() if creates else None
        return await self.call(method, path_of(path, resource_id), result, once=once)

    call.__doc__ = about
    return call


def posts(
    path: str, body: Callable[P, Struct], result: type[R], about: str
) -> Callable[Concatenate[Caller, P], Coroutine[Any, Any, R]]:
    """Build a method that posts the fields of `body` to a route without idempotency keys."""

    async def call(self: Caller, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self.call("POST", path, result, body=body(*args, **kwargs))

    call.__doc__ = f"{about}\n\nTakes the fields of `{body.__name__}`."
    return call


def fetches(path: str, result: type[R], about: str) -> Callable[[Caller], Coroutine[Any, Any, R]]:
    """Build a method that gets what there is once."""

    async def call(self: Caller, /) -> R:
        return await self.call("GET", path, result)

    call.__doc__ = about
    return call


def lists(path: str, item: type[R], about: str) -> Callable[[Caller], Coroutine[Any, Any, tuple[R, ...]]]:
    """Build a method that gets a whole list."""

    async def call(self: Caller, /) -> tuple[R, ...]:
        return await listed(self, path, item)

    call.__doc__ = about
    return call


async def listed(caller: Caller, path: str, item: type[R], params: Params = ()) -> tuple[R, ...]:
    """Get a whole list."""
    listing: Listing[R] = await caller.call("GET", path, Listing[item], params=params)  # type: ignore[valid-type]
    return listing.data


def lists_under(
    path: str, item: type[R], about: str
) -> Callable[[Caller, str], Coroutine[Any, Any, tuple[R, ...]]]:
    """Build a method that takes an id and gets the whole list below it."""

    async def call(self: Caller, parent_id: str, /) -> tuple[R, ...]:
        return await listed(self, path_of(path, parent_id), item)

    call.__doc__ = about
    return call


def sends(method: str, path: str, about: str) -> Callable[[Caller, str], Coroutine[Any, Any, None]]:
    """Build a method that takes an id and sends a request without a body or a result."""

    async def call(self: Caller, resource_id: str, /) -> None:
        await self.transport.request(method, path_of(path, resource_id))

    call.__doc__ = about
    return call


async def every(
    fetch: Callable[[int], Coroutine[Any, Any, Page[R]]], id_of: Callable[[R], str]
) -> AsyncGenerator[R, None]:
    """Iterate over the items of all pages.

    Args:
        fetch: returns the page at an offset.
        id_of: returns an item's id, or what else tells it from the others.
    """
    offset = 0
    before: frozenset[str] = frozenset()
    while True:
        page = await fetch(offset)
        for item in page.data:
            # A new item moves the last one of this page to the next page.
            if id_of(item) not in before:
                yield item
        offset += len(page.data)
        before = frozenset(id_of(item) for item in page.data)
        if not page.data or offset >= page.total:
            return
