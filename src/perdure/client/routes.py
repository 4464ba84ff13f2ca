"""Build the client's methods that are one request each from their path, body and result.

A method takes exactly the fields of its body's struct, so that a field is defined once, in the domain.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Struct

from perdure.client.errors import BadAnswer
from perdure.client.transport import Params, Transport
from perdure.domain.paging import Listing

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
    ) -> R:
        """Send one request and decode its answer.

        Args:
            method: the HTTP method.
            path: the path below the base URL.
            result: the type of the answer.
            params: the query parameters.
            body: the request body.
            once: an idempotency key: the server processes the request once, even if it arrives several times.

        Raises:
            BadAnswer: the answer is not a valid `result`.
        """
        headers = None if once is None else {"Idempotency-Key": once}
        repeatable = None if once is None else True
        answer = await self.transport.request(
            method, path, params=params, body=body, headers=headers, repeatable=repeatable
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
    path: str, body: Callable[P, Struct], result: type[R], about: str
) -> Callable[Concatenate[Caller, P], Coroutine[Any, Any, R]]:
    """Build a method that posts the fields of `body`."""

    async def call(self: Caller, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self.call("POST", path, result, body=body(*args, **kwargs), once=new_key())

    call.__doc__ = f"{about}\n\nTakes the fields of `{body.__name__}`."
    return call


def creates_under(
    path: str, body: Callable[P, Struct], result: type[R], about: str
) -> Callable[Concatenate[Caller, str, P], Coroutine[Any, Any, R]]:
    """Build a method that takes an id and posts the fields of `body` below it."""

    async def call(self: Caller, parent_id: str, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self.call(
            "POST", path_of(path, parent_id), result, body=body(*args, **kwargs), once=new_key()
        )

    call.__doc__ = f"{about}\n\nTakes an id, then the fields of `{body.__name__}`."
    return call


def updates(
    path: str, body: Callable[P, Struct], result: type[R], about: str
) -> Callable[Concatenate[Caller, str, P], Coroutine[Any, Any, R]]:
    """Build a method that changes the fields that are passed; None clears a field."""

    async def call(self: Caller, resource_id: str, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self.call("PATCH", path_of(path, resource_id), result, body=body(*args, **kwargs))

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


def lists(path: str, item: type[R], about: str) -> Callable[[Caller], Coroutine[Any, Any, tuple[R, ...]]]:
    """Build a method that gets a whole list."""

    async def call(self: Caller, /) -> tuple[R, ...]:
        listing: Listing[R] = await self.call("GET", path, Listing[item])  # type: ignore[valid-type]
        return listing.data

    call.__doc__ = about
    return call


def lists_under(
    path: str, item: type[R], about: str
) -> Callable[[Caller, str], Coroutine[Any, Any, tuple[R, ...]]]:
    """Build a method that takes an id and gets the whole list below it."""

    async def call(self: Caller, parent_id: str, /) -> tuple[R, ...]:
        kind = Listing[item]  # type: ignore[valid-type]
        listing: Listing[R] = await self.call("GET", path_of(path, parent_id), kind)
        return listing.data

    call.__doc__ = about
    return call


def sends(method: str, path: str, about: str) -> Callable[[Caller, str], Coroutine[Any, Any, None]]:
    """Build a method that takes an id and sends a request without a body or a result."""

    async def call(self: Caller, resource_id: str, /) -> None:
        await self.transport.request(method, path_of(path, resource_id))

    call.__doc__ = about
    return call
