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
from msgspec.structs import replace
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
    is_same_origin,
    next_target,
    read_body,
    reason_of,
    short_url,
)

METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_FOLLOWING = frozenset({"GET", "HEAD"})
_SEE_OTHER = 303
_HEADERS = {"User-Agent": "perdure (a tool of an agent)", "Accept-Encoding": "gzip, deflate"}


class _TooLong(Exception):
    """The answer has more bytes than the tool takes."""


class OwnRequest(Struct, frozen=True):
    """A request that a tool makes. `may_change`: its method is one of those that may have an effect."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None

    @property
    def may_change(self) -> bool:
        return self.method not in _SAFE

    def with_default(self, header: str, value: str) -> OwnRequest:
        """The request with this header, unless it has it already."""
        if any(name.lower() == header.lower() for name in self.headers):
            return self
        return replace(self, headers={**self.headers, header: value})

    @classmethod
    def of(
        cls,
        method: str,
        url: str,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        json: Any,
        content: str | bytes | None,
    ) -> OwnRequest:
        """Make a request of the arguments of `Http.request`.

        Raises:
            ToolError: the method is unknown, or there are two bodies.
        """
        name = method.upper()
        if name not in METHODS:
            raise ToolError(f"unknown HTTP method {method[:20]!r}: use one of {', '.join(METHODS)}")
        if json is not None and content is not None:
            raise ToolError("a request has either `json` or `content`")
        sent = dict(headers or {})
        if json is not None and "content-type" not in {header.lower() for header in sent}:
            sent["Content-Type"] = "application/json"
        body = content.encode() if isinstance(content, str) else content
        try:
            target = str(URL(url.strip()).update_query(params)) if params else url
        except ValueError:
            target = url  # which is refused when it is sent
        return cls(name, target, sent, body if json is None else msgspec.json.encode(json))

    def redirected(self, status: int, *, same_origin: bool) -> OwnRequest:
        """The request as it follows a redirect. Another origin gets nothing that the tool has written.

        The URL stays; the target of a redirect is checked before it is used.
        """
        if not same_origin:
            # Any header, and the body, may hold a credential; what is lost does not come back either, if
            # that origin redirects to the first one: it has chosen the URL.
            return replace(self, headers={}, body=None)
        if status == _SEE_OTHER:  # it names another resource, which the body is not for
            kept = {name: value for name, value in self.headers.items() if not _is_about_body(name)}
            return replace(self, headers=kept, body=None)
        return self


def _is_about_body(header: str) -> bool:
    return header.lower().startswith("content-") or header.lower() == "transfer-encoding"


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
    for _ in range(MAX_REDIRECTS + 1):
        async with session.request(
            request.method, target, headers=request.headers, data=request.body, allow_redirects=False
        ) as answer:
            location = answer.headers.get("Location")
            follows = request.method in _FOLLOWING and answer.status in REDIRECTS
            if not follows or location is None:
                return await _answer(answer, target, max_bytes)
            status = answer.status
        following = next_target(target, location, rules)
        request = request.redirected(status, same_origin=is_same_origin(target, following))
        target = following
    raise ToolError(f"{short_url(request.url)} redirects more than {MAX_REDIRECTS} times")


async def _answer(answer: ClientResponse, url: URL, max_bytes: int) -> HttpAnswer:
    body, truncated = await read_body(answer, max_bytes)
    if truncated:
        raise _TooLong(f"answered with more than {max_bytes} bytes")
    headers = {name.lower(): storable(value) for name, value in answer.headers.items()}
    return HttpAnswer(answer.status, str(url), headers, body, answer.charset)
