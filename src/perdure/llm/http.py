"""The HTTP client for model vendors.

One connection pool per process, streaming answers, every failure a `ModelError`.

The client follows no redirect (it would send the key to another host) and stores no cookie (organizations
share the pool). No error contains a key or a URL with credentials.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import time
from collections.abc import Callable, Mapping

from aiohttp import (
    ClientConnectorCertificateError,
    ClientConnectorError,
    ClientError,
    ClientOSError,
    ClientResponse,
    ClientSession,
    ClientSSLError,
    ClientTimeout,
    DummyCookieJar,
    ServerDisconnectedError,
    TCPConnector,
)
from multidict import CIMultiDict
from yarl import URL

from perdure.domain.errors import InvalidInput, ModelError
from perdure.domain.sse import SseParser, StreamTooLong
from perdure.llm.failures import bad_response, disguised, redacted, refusal
from perdure.net.addresses import GuardedResolver, is_refused_host

Feed = Callable[[bytes], bool]
"""Parses one SSE payload; returns True when the answer is complete, so that reading can stop."""

CONNECT_TIMEOUT = 10.0
"""Timeout for TCP and TLS connection setup, in seconds."""

READ_TIMEOUT = 300.0
"""Maximum seconds between bytes: reasoning models may send nothing for minutes before the first one."""

LIST_TIMEOUT = 30.0
"""Timeout for a whole answer of a list endpoint, in seconds."""

MAX_BODY = 16 << 20
"""Maximum bytes of an answer that is not a stream."""

MAX_EVENT = 16 << 20
"""Maximum bytes of one stream event: an image or a whole answer fits, an endless line does not."""

MAX_STREAM = 64 << 20
"""Maximum bytes of a streamed answer, framing included: about ten times the longest answer of any model,
streamed token by token."""

_KEEP_ALIVE = 60.0
_ERROR_BODY = 64 << 10
_ERROR_TIMEOUT = 10.0
# A connection can be reused only if its response was read to the end. The last bytes have usually arrived.
_DRAIN_TIMEOUT = 0.1
# A dead connection fails at once. After this many seconds, the vendor may have started to process the call.
_STALE_WITHIN = 1.0
# aiohttp warns about larger bodies unless they are file objects.
_LARGE_BODY = 1 << 20


class Endpoint:
    """A driver's base URL, credentials and headers.

    Attributes:
        base: the base URL, without a trailing slash.
        host: its host name, in lower case.
    """

    __slots__ = ("_headers", "_query", "_secrets", "base", "host")

    def __init__(
        self, base: str, credentials: Mapping[str, str], headers: Mapping[str, str] | None = None
    ) -> None:
        """Validate the URL and the headers.

        Args:
            base: an `http` or `https` URL; its query, if any, is sent with every call.
            credentials: header -> secret value. Secrets are redacted in every error.
            headers: additional headers; their values count as secrets too.

        Raises:
            InvalidInput: the URL, or a header's name or value, is invalid.
        """
        try:
            url = URL(base)
            usable = url.scheme in {"http", "https"} and bool(url.host)
        except ValueError:
            usable, url = False, URL()
        if not usable:
            raise InvalidInput("`base_url` must be an http or https URL", field="base_url")
        self.host = (url.host or "").lower()
        if is_refused_host(self.host):
            raise InvalidInput(
                "`base_url` is the address of a cloud's metadata service; use a model server's address",
                field="base_url",
            )
        self._query = url.query_string
        self.base = str(url.with_query(None).with_fragment(None)).rstrip("/")
        duplicates = {name.lower() for name in credentials} & {name.lower() for name in headers or {}}
        if duplicates:
            raise InvalidInput(
                f"both `api_key` and `headers` set the header {duplicates.pop()!r}: remove one of them",
                field="options.headers",
            )
        all_headers = {**credentials, **(headers or {})}
        if url.user is not None and any(name.lower() == "authorization" for name in all_headers):
            raise InvalidInput(
                "both `base_url` and a header contain credentials: remove one of them", field="base_url"
            )
        for name, value in all_headers.items():
            if not (name.isascii() and value.isascii() and value.isprintable() and name.isprintable()):
                raise InvalidInput(
                    "an API key or header contains characters that HTTP does not allow: use printable ASCII",
                    field="api_key",
                )
        self._headers = CIMultiDict(
            {
                "Accept-Encoding": "identity",
                "Content-Type": "application/json",
                "User-Agent": "perdure",
                **all_headers,
            }
        )
        secrets = [value.removeprefix("Bearer ") for value in all_headers.values()]
        secrets += [url.password or "", *url.query.values()]
        # Short values ("beta", "1") are no secrets, and redacting them would garble the text.
        self._secrets = tuple(
            sorted({secret for secret in secrets if len(secret) >= 6}, key=len, reverse=True)
        )

    def url(self, path: str, query: Mapping[str, str] | None = None) -> URL:
        """Return the URL of `path` (which begins with a slash) under the base."""
        url = URL(self.base + path)
        if self._query:
            url = url.with_query(self._query)
        return url.update_query(query) if query else url

    @property
    def headers(self) -> CIMultiDict[str]:
        """The headers of every call. Do not modify."""
        return self._headers

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values that must not appear in an error, longest first."""
        return self._secrets

    def clean(self, error: ModelError) -> ModelError:
        """Return the error with all secrets in its message redacted."""
        text = redacted(error.message, self._secrets)
        if text == error.message:
            return error
        return ModelError(
            text,
            code=error.code,
            transient=error.transient,
            retry_after=error.retry_after,
            status=error.status,
        )


class Http:
    """The connection pool. Create one per process; it opens on first use, inside the running loop.

    Args:
        connect_timeout: timeout for connecting, in seconds.
        read_timeout: maximum seconds until the first byte, and between bytes.
        max_event: maximum bytes of one stream event.
        max_stream: maximum bytes of a whole stream.
    """

    def __init__(
        self,
        *,
        connect_timeout: float = CONNECT_TIMEOUT,
        read_timeout: float = READ_TIMEOUT,
        max_event: int = MAX_EVENT,
        max_stream: int = MAX_STREAM,
    ) -> None:
        self._timeout = ClientTimeout(total=None, sock_connect=connect_timeout, sock_read=read_timeout)
        self._max_event = max_event
        self._max_stream = max_stream
        self._sessions: dict[bool, ClientSession] = {}

    def _session(self, *, fresh: bool = False) -> ClientSession:
        """Return the pooled session, or with `fresh` one that opens a new connection for every call."""
        session = self._sessions.get(fresh)
        if session is None or session.closed:
            connector = (
                TCPConnector(limit=0, ttl_dns_cache=60, resolver=GuardedResolver(), force_close=True)
                if fresh
                else TCPConnector(
                    limit=0, ttl_dns_cache=60, resolver=GuardedResolver(), keepalive_timeout=_KEEP_ALIVE
                )
            )
            session = ClientSession(connector=connector, cookie_jar=DummyCookieJar(), timeout=self._timeout)
            self._sessions[fresh] = session
        return session

    async def close(self) -> None:
        """Close all connections; a later call opens new ones."""
        sessions = list(self._sessions.values())
        self._sessions.clear()
        for session in sessions:
            await session.close()

    async def _post(self, endpoint: Endpoint, url: URL, body: bytes) -> ClientResponse:
        """POST; retry once on a new connection if the pooled one turns out to be closed by the server."""
        began = time.monotonic()
        for fresh in (False, True):
            data: bytes | io.BytesIO = body if len(body) < _LARGE_BODY else io.BytesIO(body)
            try:
                return await self._session(fresh=fresh).post(
                    url, data=data, headers=endpoint.headers, allow_redirects=False
                )
            except (ServerDisconnectedError, ClientOSError) as error:
                known = isinstance(error, ClientConnectorError) or time.monotonic() - began > _STALE_WITHIN
                if fresh or known:
                    raise
        raise AssertionError("unreachable")

    async def stream(self, endpoint: Endpoint, url: URL, body: bytes, feed: Feed) -> None:
        """POST `body` and pass every SSE payload to `feed`, until it returns True or the stream ends.

        The caller must check whether the answer is complete. Cancelling closes the connection at once.

        Raises:
            ModelError: the call failed, in whatever way.
        """
        response: ClientResponse | None = None
        try:
            response = await self._post(endpoint, url, body)
            if not 200 <= response.status < 300:
                raise await _refused(endpoint, response)
            if response.content_type in {"text/html", "application/json"}:
                raise await _no_stream(endpoint, response)
            await self._pump(response, feed)
        except ModelError as error:
            raise endpoint.clean(error) from None
        except StreamTooLong as error:
            raise bad_response(f"the provider's answer cannot be read: {error}", transient=False) from None
        except TimeoutError as error:
            raise _timed_out(error, answering=response is not None) from None
        except (ClientError, OSError) as error:
            raise endpoint.clean(_broken(error, answering=response is not None)) from None
        finally:
            # This has no effect on a response that was read to its end: its connection is back in the pool.
            if response is not None:
                response.close()

    async def _pump(self, response: ClientResponse, feed: Feed) -> None:
        parser = SseParser(self._max_event, self._max_stream)
        content = response.content
        while chunk := await content.readany():
            for frame in parser.feed(chunk):
                if feed(frame.data):
                    if not content.at_eof():
                        await _drain(response)
                    return
        for frame in parser.flush():
            if feed(frame.data):
                return

    async def get_json(self, endpoint: Endpoint, url: URL) -> bytes:
        """GET a JSON document of up to `MAX_BODY` bytes, within `LIST_TIMEOUT` seconds.

        Raises:
            ModelError: the call failed, in whatever way.
        """
        response: ClientResponse | None = None
        try:
            async with asyncio.timeout(LIST_TIMEOUT):
                response = await self._session().get(url, headers=endpoint.headers, allow_redirects=False)
                if not 200 <= response.status < 300:
                    raise await _refused(endpoint, response)
                body = await _limited(response, MAX_BODY + 1)
                if len(body) > MAX_BODY:
                    raise bad_response(
                        f"the provider's list is larger than {MAX_BODY >> 20} MB", transient=False
                    )
                return body
        except ModelError as error:
            raise endpoint.clean(error) from None
        except TimeoutError as error:
            raise _timed_out(error, answering=response is not None) from None
        except (ClientError, OSError) as error:
            raise endpoint.clean(_broken(error, answering=response is not None)) from None
        finally:
            if response is not None:
                response.close()


async def _drain(response: ClientResponse) -> None:
    with contextlib.suppress(TimeoutError, ClientError, OSError):
        async with asyncio.timeout(_DRAIN_TIMEOUT):
            while await response.content.readany():
                pass


async def _limited(response: ClientResponse, limit: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while size < limit and (piece := await response.content.readany()):
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)[:limit]


async def _refused(endpoint: Endpoint, response: ClientResponse) -> ModelError:
    body = b""
    with contextlib.suppress(TimeoutError, ClientError, OSError):
        async with asyncio.timeout(_ERROR_TIMEOUT):
            body = await _limited(response, _ERROR_BODY)
    return refusal(response.status, response.headers, body, endpoint.secrets)


async def _no_stream(endpoint: Endpoint, response: ClientResponse) -> ModelError:
    """Build the error for a 2xx response that is no stream, such as an error object or a proxy's web page."""
    body = b""
    with contextlib.suppress(TimeoutError, ClientError, OSError):
        async with asyncio.timeout(_ERROR_TIMEOUT):
            body = await _limited(response, _ERROR_BODY)
    return disguised(response.content_type, body, endpoint.secrets)


def _timed_out(error: TimeoutError, *, answering: bool) -> ModelError:
    what = "stopped sending" if answering else "did not answer in time"
    return ModelError(
        f"the provider {what} ({type(error).__name__})", code="provider_timeout", transient=True
    )


def _broken(error: Exception, *, answering: bool) -> ModelError:
    if answering:
        return bad_response(
            f"the connection to the provider broke in the middle of the answer ({type(error).__name__})"
        )
    if isinstance(error, ClientConnectorCertificateError | ClientSSLError):
        return ModelError(f"the provider's TLS connection is not valid: {error}", code="provider_unavailable")
    # aiohttp mentions TLS even for plain HTTP.
    reason = str(error).replace(" ssl:default", "") or type(error).__name__
    return ModelError(
        f"the provider cannot be reached: {reason}", code="provider_unavailable", transient=True
    )
