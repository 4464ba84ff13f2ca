"""HTTP requests of tools from files and plug-ins, with the session's network rules.

The addresses are checked as in `web_client`: after resolution, on every redirect, and for the connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import ClientConnectorError, ClientError, ClientResponse, ClientSession, InvalidURL
from aiohttp.abc import AbstractResolver
from msgspec import Struct
from yarl import URL

from perdure.domain.errors import OutcomeUnknown, ToolError
from perdure.domain.http_answers import HttpAnswer
from perdure.domain.messages import storable
from perdure.domain.network import NetworkRules
from perdure.net.web_client import (
    MAX_REDIRECTS,
    REDIRECTS,
    checked_url,
    guarded_session,
    next_target,
    read_body,
    reason_of,
    short_url,
)

METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_HEADERS = {"User-Agent": "perdure (a tool of an agent)", "Accept-Encoding": "gzip, deflate"}


class _TooLong(Exception):
    """The answer has more bytes than the tool takes."""


class OwnRequest(Struct, frozen=True):
    """A request that a tool makes."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None

    @classmethod
    def of(
        cls,
        method: str,
        url: str,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        json: Any,
        content: str | bytes | None,
        effect: Mapping[str, str],
    ) -> OwnRequest:
        """Make a request of the arguments of `Http.request`.

        Args:
            effect: the headers of requests that may have an effect, unless `headers` has them.

        Raises:
            ToolError: the method is unknown, or there are two bodies.
        """
        name = method.upper()
        if name not in METHODS:
            raise ToolError(f"unknown HTTP method {method[:20]!r}: use one of {', '.join(METHODS)}")
        if json is not None and content is not None:
            raise ToolError("a request has either `json` or `content`")
        sent = dict(headers or {})
        given = {header.lower() for header in sent}
        if name not in _SAFE:
            sent |= {header: value for header, value in effect.items() if header.lower() not in given}
        if json is not None and "content-type" not in given:
            sent["Content-Type"] = "application/json"
        body = content.encode() if isinstance(content, str) else content
        try:
            target = str(URL(url.strip()).update_query(params)) if params else url
        except ValueError:
            target = url  # which is refused when it is sent
        return cls(name, target, sent, body if json is None else msgspec.json.encode(json))


async def send(
    request: OwnRequest,
    rules: NetworkRules,
    *,
    timeout: float,
    max_bytes: int,
    resolver: AbstractResolver | None = None,
) -> HttpAnswer:
    """Send a request; GET and HEAD follow redirects.

    Args:
        timeout: seconds for everything.
        max_bytes: bytes of the decompressed body.
        resolver: resolves names; the system's resolver by default.

    Raises:
        ToolError: the URL is refused or does not answer, or the answer is too long.
        OutcomeUnknown: the same, after a request that may have had an effect was sent.
    """
    lost = ToolError if request.method in _SAFE else OutcomeUnknown
    try:
        async with guarded_session(rules, timeout, _HEADERS, resolver) as session:
            return await _follow(session, request, rules, max_bytes)
    except (ClientConnectorError, InvalidURL) as error:  # nothing was sent
        raise ToolError(f"{short_url(request.url)} cannot be reached: {reason_of(error)}") from None
    except TimeoutError:
        raise lost(f"{short_url(request.url)} did not answer within {timeout:g} seconds.") from None
    except ClientError as error:
        raise lost(f"{short_url(request.url)} did not answer: {reason_of(error)}.") from None
    except _TooLong as error:
        raise lost(f"{short_url(request.url)} {error}.") from None
    except ValueError as error:  # a header with a line break, for one
        raise ToolError(f"the request to {short_url(request.url)} is not valid: {error}") from None


async def _follow(
    session: ClientSession, request: OwnRequest, rules: NetworkRules, max_bytes: int
) -> HttpAnswer:
    target = checked_url(request.url, rules)
    headers = request.headers
    for _ in range(MAX_REDIRECTS + 1):
        async with session.request(
            request.method, target, headers=headers, data=request.body, allow_redirects=False
        ) as answer:
            location = answer.headers.get("Location")
            follows = request.method in ("GET", "HEAD") and answer.status in REDIRECTS
            if not follows or location is None:
                return await _answer(answer, target, max_bytes)
        following = next_target(target, location, rules)
        if following.origin() != target.origin():
            headers = {}  # they may hold credentials
        target = following
    raise ToolError(f"{short_url(request.url)} redirects more than {MAX_REDIRECTS} times")


async def _answer(answer: ClientResponse, url: URL, max_bytes: int) -> HttpAnswer:
    body, truncated = await read_body(answer, max_bytes)
    if truncated:
        raise _TooLong(f"answered with more than {max_bytes} bytes")
    headers = {name.lower(): storable(value) for name, value in answer.headers.items()}
    return HttpAnswer(answer.status, str(url), headers, body, answer.charset)
