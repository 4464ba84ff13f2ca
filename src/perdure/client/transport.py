"""HTTP with patience.

One connection pool, credentials on every request, and retries where they cannot do harm.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count

import httpx
import msgspec
from msgspec import Struct

from perdure import __version__
from perdure.client.errors import ApiError, BadAnswer, Unreachable, error_of
from perdure.domain.backoff import backoff

Params = Sequence[tuple[str, str | int | bool | None]]
"""Query parameters; those that are None are left out, a name may come more than once."""

RETRIES = 7
"""How often a request is sent again unless the caller says otherwise: with their pauses, over some ten
seconds."""

FIRST_WAIT = 0.1
MOST_WAIT = 10.0
"""Seconds before a request is sent, or a stream opened, again: doubling from the first to the most."""

LONGEST_WAIT = 30.0
"""Seconds. A server that asks for more than this gets its error handed to the caller instead."""

_IDEMPOTENT = frozenset({"GET", "PUT", "DELETE"})
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_BUSY = frozenset({429, 502, 503, 504})
CUT = (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError)
"""What a connection breaks with, now or before it stood; trying again may help."""


class Transport:
    """Sends requests to one server.

    Args:
        base_url: of the server, with or without the path `/api`.
        token: sent as `Authorization: Bearer ...`.
        organization: sent as `X-Org-Id`.
        timeout: seconds for connecting and for each read and write.
        retries: how often a request is sent again, at most.
    """

    def __init__(
        self, base_url: str, token: str | None, organization: str | None, *, timeout: float, retries: int
    ) -> None:
        url = _checked_url(base_url)
        headers = {"User-Agent": f"perdure-python/{__version__}", "Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if organization:
            headers["X-Org-Id"] = organization
        self.base_url = str(url).rstrip("/")
        self._timeout = timeout
        self._retries = retries
        self._http = httpx.AsyncClient(
            base_url=url,
            headers=headers,
            timeout=timeout,
            # One connection for every follower: their number is the caller's decision.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            # Certificates take a while to load, and plain HTTP never looks at them.
            verify=url.scheme == "https",
            # A proxy is not on the way to this machine.
            trust_env=url.host not in ("localhost", "::1") and not url.host.startswith("127."),
        )

    async def close(self) -> None:
        """Give the connections back."""
        await self._http.aclose()

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Params = (),
        body: Struct | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool | None = None,
    ) -> bytes:
        """The body of the answer.

        Args:
            repeatable: whether the request may be sent again when nobody knows whether it took effect. By
                default the method says so. One that was certainly not sent, or was turned away with 429, is
                sent again in any case.

        Raises:
            ApiError: the server refused.
            Unreachable: nobody answered.
        """
        again = method in _IDEMPOTENT if repeatable is None else repeatable
        content = None if body is None else msgspec.json.encode(body)
        sent_headers = {
            **(headers or {}),
            **({"Content-Type": "application/json"} if body is not None else {}),
        }
        for attempt in count():
            try:
                response = await self._http.request(
                    method, path, params=_present(params), content=content, headers=sent_headers
                )
            except httpx.TransportError as error:
                may = isinstance(error, _NEVER_SENT) or (again and isinstance(error, CUT))
                if attempt >= self._retries or not may:
                    raise self.unreachable(error) from error
                wait = _pause(attempt)
            else:
                if response.is_success:
                    return response.content
                refusal = error_of(response.status_code, response.headers, response.content)
                if method == "DELETE" and refusal.status == 404 and attempt:
                    return b""  # an earlier attempt did it, and its answer was lost
                may = refusal.status == 429 or (again and refusal.status in _BUSY)
                wait = _pause(attempt) if refusal.retry_after is None else refusal.retry_after
                if attempt >= self._retries or not may or wait > LONGEST_WAIT:
                    raise refusal
            await asyncio.sleep(wait)
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def stream(
        self, path: str, params: Params, *, idle_timeout: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The pieces of an event stream as they come. One attempt: reconnecting is the caller's.

        Raises:
            ApiError: the server refused.
            BadAnswer: the answer is no event stream.
            httpx.TransportError: the connection broke, or was silent for `idle_timeout` seconds.
        """
        timeout = httpx.Timeout(self._timeout, read=idle_timeout)
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        async with self._http.stream(
            "GET", path, params=_present(params), headers=headers, timeout=timeout
        ) as response:
            if not response.is_success:
                raise error_of(response.status_code, response.headers, await response.aread())
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise BadAnswer(f"{path} did not answer with an event stream")
            yield response.aiter_bytes()

    def unreachable(self, error: Exception) -> Unreachable:
        """The error that says so, with the reason in words."""
        reason = str(error) or type(error).__name__
        return Unreachable(f"no answer from {self.base_url}: {reason}")


def is_busy(error: ApiError) -> bool:
    """Whether the server may answer otherwise a little later."""
    return error.status in _BUSY


def _pause(attempt: int) -> float:
    return backoff(attempt + 1, first=FIRST_WAIT, most=MOST_WAIT)


def _present(params: Params) -> httpx.QueryParams:
    return httpx.QueryParams([(name, value) for name, value in params if value is not None])


def _checked_url(base_url: str) -> httpx.URL:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ValueError(f"not a URL: {base_url!r}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"not a URL that begins with http:// or https://: {base_url!r}")
    return url
