"""HTTP with one connection pool, credentials on every request, and retries where they are safe."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count

import httpx
import msgspec
from msgspec import Struct

from perdure import __version__
from perdure.client.errors import ApiError, BadAnswer, Unreachable, error_of
from perdure.domain.audits import REASON_HEADER
from perdure.domain.backoff import backoff
from perdure.domain.tool_functions import ToolFunction

Params = Sequence[tuple[str, str | int | bool | None]]
"""Query parameters: a None value is left out, a name may repeat."""


class Text(Struct, frozen=True):
    """A request body that is text instead of JSON."""

    text: str
    media_type: str


class Streamed(Struct, frozen=True):
    """A request body of bytes, read while it is sent.

    Attributes:
        open: returns the bytes from the beginning; called again for a retry.
        size: the number of bytes; None for bytes that can be read only once, and are so many as there are.
    """

    open: Callable[[], AsyncIterator[bytes]]
    size: int | None
    media_type: str = "application/octet-stream"


UNREAD = 64 * 1024 * 1024
"""Bytes of a request that a server still reads after it has answered."""


class Binary(Struct, frozen=True):
    """A request body of bytes."""

    data: bytes
    media_type: str


RETRIES = 7
"""Default number of retries per request; with their pauses, about ten seconds."""

FIRST_WAIT = 0.1
MOST_WAIT = 10.0
"""Seconds before a request or a stream is retried: doubles from the first to the most."""

LONGEST_WAIT = 30.0
"""The longest `Retry-After` that is honoured, in seconds. With a longer one the caller gets the error."""

PROGRAM = "perdure-python"
_IDEMPOTENT = frozenset({"GET", "PUT", "DELETE"})
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_BUSY = frozenset({429, 502, 503, 504})
CUT = (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError)
"""The exceptions of a connection that broke or was never established; a retry may succeed."""


class Transport:
    """Sends requests to one server.

    Args:
        base_url: the server's URL, with or without the path `/api`.
        token: sent as `Authorization: Bearer ...`.
        organization: sent as `X-Org-Id`.
        timeout: timeout in seconds for connecting and for each read and write.
        retries: the maximum number of retries per request.
        program: the name that is sent as `User-Agent`, before this version.
        reason: why things are changed, for the audit log: sent with every request.
    """

    def __init__(
        self,
        base_url: str,
        token: str | None,
        organization: str | None,
        *,
        timeout: float,
        retries: int,
        program: str = PROGRAM,
        reason: str | None = None,
    ) -> None:
        url = _checked_url(base_url)
        headers = {"User-Agent": f"{program}/{__version__}", "Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if organization:
            headers["X-Org-Id"] = organization
        headers |= reason_header(reason)
        self.base_url = str(url).rstrip("/")
        self._timeout = timeout
        self._retries = retries
        self._http = httpx.AsyncClient(
            base_url=url,
            headers=httpx.Headers(headers, encoding="utf-8"),
            timeout=timeout,
            # Every follower holds a connection, and the caller decides how many followers there are.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            # Loading certificates is slow, and plain HTTP does not need them.
            verify=url.scheme == "https",
            # Connections to this machine need no proxy.
            trust_env=url.host not in ("localhost", "::1") and not url.host.startswith("127."),
        )

    async def close(self) -> None:
        """Close all connections."""
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
        has_answer: bool = False,
    ) -> bytes:
        """Send a request, with retries, and return the body of the answer.

        Args:
            method: the HTTP method.
            path: the path below the base URL.
            params: the query parameters.
            body: the request body, sent as JSON if it is not `Text`, `Binary` or `Streamed`.
            headers: additional headers.
            repeatable: whether to retry if the request may have taken effect already. The default depends on
                the method. A request that certainly was not sent, or got a 429, is always retried.
            has_answer: whether the caller needs the answer. A DELETE without one has succeeded if a retry
                finds nothing.

        Raises:
            ApiError: the server refused the request.
            Unreachable: no server answered.
        """
        idempotent = method in _IDEMPOTENT if repeatable is None else repeatable
        once = isinstance(body, Streamed) and body.size is None
        content, media_type = _encoded(body)
        sent_headers = httpx.Headers({**(headers or {}), **media_type}, encoding="utf-8")
        for attempt in count():
            try:
                sent = body.open() if isinstance(body, Streamed) else content
                response = await self._http.request(
                    method, path, params=_present(params), content=sent, headers=sent_headers
                )
            except httpx.TransportError as error:
                may_retry = isinstance(error, _NEVER_SENT) or (
                    idempotent and not once and isinstance(error, CUT)
                )
                if attempt >= self._retries or not may_retry:
                    raise self.unreachable(error, body) from error
                wait = _pause(attempt)
            else:
                if response.is_success:
                    return response.content
                refusal = error_of(response.status_code, response.headers, response.content)
                if method == "DELETE" and refusal.status == 404 and attempt and not has_answer:
                    return b""  # an earlier attempt deleted it, and its answer was lost
                may_retry = not once and (refusal.status == 429 or (idempotent and refusal.status in _BUSY))
                wait = _pause(attempt) if refusal.retry_after is None else refusal.retry_after
                if attempt >= self._retries or not may_retry or wait > LONGEST_WAIT:
                    raise refusal
            await asyncio.sleep(wait)
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def stream(
        self, path: str, params: Params, *, idle_timeout: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open an event stream and yield its bytes as they arrive. The caller must reconnect.

        Raises:
            ApiError: the server refused the request.
            BadAnswer: the answer is not an event stream.
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
                raise BadAnswer(f"{path} did not return an event stream")
            yield response.aiter_bytes()

    async def download(self, path: str) -> AsyncIterator[bytes]:
        """Read bytes while they arrive. A connection that breaks is replaced, and goes on where it ended.

        Raises:
            ApiError: the server refused the request, or what it sends has changed meanwhile (412).
            Unreachable: no server answered.
        """
        got, tag, attempt = 0, "", 0
        while True:
            headers = {"Range": f"bytes={got}-", "If-Match": tag} if got else {}
            before, wait = got, _pause(attempt)
            try:
                async with self._http.stream("GET", path, headers=headers) as response:
                    if response.is_success:
                        tag = response.headers.get("etag", "")
                        async for chunk in response.aiter_raw():
                            got += len(chunk)
                            yield chunk
                        return
                    refusal = error_of(response.status_code, response.headers, await response.aread())
                if refusal.status not in _BUSY or attempt >= self._retries:
                    raise refusal
                wait = wait if refusal.retry_after is None else min(refusal.retry_after, LONGEST_WAIT)
            except httpx.TransportError as error:
                attempt = 0 if got > before else attempt
                if attempt >= self._retries or not isinstance(error, (*_NEVER_SENT, *CUT)):
                    raise self.unreachable(error) from error
            attempt += 1
            await asyncio.sleep(wait)

    def unreachable(self, error: Exception, body: Struct | None = None) -> Unreachable:
        """Build the error for a server that does not answer."""
        reason = str(error) or type(error).__name__
        large = isinstance(body, Streamed) and (body.size is None or body.size > UNREAD)
        if large and isinstance(error, httpx.NetworkError) and not isinstance(error, httpx.ConnectError):
            # The server answers before it has read all, and reads only so much more: the answer is lost.
            return Unreachable(
                f"{self.base_url} ended the connection while the content was being sent: it may be "
                "more than it takes (100 MB, unless its setting PERDURE_MAX_UPLOAD_BYTES says otherwise)",
                code="upload_cut",
            )
        return Unreachable(f"no answer from {self.base_url}: {reason}")


def reason_header(reason: str | None) -> dict[str, str]:
    """Return the header that says why something is changed; none without a reason."""
    text = " ".join((reason or "").split())
    return {REASON_HEADER: text} if text else {}


def is_busy(error: ApiError) -> bool:
    """Whether the same request may succeed a little later."""
    return error.status in _BUSY


def _encoded(body: Struct | None) -> tuple[bytes | None, dict[str, str]]:
    """Encode a body, with the header that names its type."""
    match body:
        case None:
            return None, {}
        case Text(text, media_type):
            return text.encode(), {"Content-Type": media_type}
        case Streamed(size=None, media_type=media_type):
            return None, {"Content-Type": media_type}
        case Streamed(size=size, media_type=media_type):
            return None, {"Content-Type": media_type, "Content-Length": str(size)}
        case Binary(data, media_type):
            return data, {"Content-Type": media_type}
        case _:
            return msgspec.json.encode(body, enc_hook=_refused), {"Content-Type": "application/json"}


def _refused(value: object) -> object:
    """Raise TypeError for a value that JSON cannot express, with the fix of a known mistake."""
    if isinstance(value, ToolFunction):
        raise TypeError(
            f"the tool {value.name} is a function: pass `client_side_tool({value.name})`, its definition"
        )
    raise TypeError(f"a value of the type {type(value).__name__} cannot be sent as JSON")


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
        raise ValueError(f"not a URL with http:// or https:// and a host: {base_url!r}")
    return url
