"""Requests to policy hooks: one POST, to an address that the server's settings allow, without redirects.

Connections are kept for a while, because a hook is asked about every call.
"""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary

from aiohttp import (
    ClientError,
    ClientOSError,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    ServerDisconnectedError,
    TCPConnector,
)
from aiohttp.abc import AbstractResolver
from yarl import URL

from perdure.domain.errors import ToolError
from perdure.domain.ids import OrgId
from perdure.domain.network import NetworkRules, PrivateAddresses
from perdure.domain.policy_hooks import MAX_ANSWER, NoDecision
from perdure.domain.trace_context import with_trace
from perdure.domain.webhooks import Signed
from perdure.net.addresses import CheckedResolver, SystemResolver
from perdure.net.web_client import checked_resolver, checked_url, read_body, reason_of

KEPT_SECONDS = 30.0
"""Seconds for which an idle connection is kept."""
AT_ONCE = 50
"""Requests of one organization at the same time; further ones wait, within their time. Slow hooks of one
organization must not keep those of others from being asked, so there is no limit for all of them."""
_HEADERS = {"User-Agent": "perdure (policy hook)", "Accept-Encoding": "identity"}


class HookClient:
    """Sends requests to policy hooks, over connections that are used again.

    Args:
        private: which private addresses may be reached.
        resolver: resolves names; the system's resolver by default.
    """

    def __init__(self, private: PrivateAddresses = False, resolver: AbstractResolver | None = None) -> None:
        self._rules = NetworkRules(private=private)
        self._inner = resolver
        self._rooms: WeakValueDictionary[OrgId, asyncio.Semaphore] = WeakValueDictionary()
        self._session: ClientSession | None = None
        self._resolver: CheckedResolver | None = None

    async def ask(self, org_id: OrgId, url: str, request: Signed, seconds: float) -> bytes:
        """Send a request, and return the body of the answer, whose status is 200.

        Args:
            org_id: the organization whose hook it is.
            seconds: the time for everything.

        Raises:
            NoDecision: there is no such answer; the message says why.
        """
        try:
            target = checked_url(url, self._rules)
            room = self._rooms.get(org_id)
            if room is None:
                room = self._rooms[org_id] = asyncio.Semaphore(AT_ONCE)
            async with asyncio.timeout(seconds), room:
                try:
                    return await self._post(target, request)
                except (ServerDisconnectedError, ClientOSError):
                    # A kept connection may have been closed meanwhile. To ask twice does no harm.
                    return await self._post(target, request)
        except ToolError as error:
            raise NoDecision(error.message) from None
        except TimeoutError:
            raise NoDecision(f"no answer within {seconds:g} seconds") from None
        except ClientError as error:
            raise NoDecision(reason_of(error)[:300]) from None

    async def _post(self, url: URL, request: Signed) -> bytes:
        session = self._opened()
        async with session.post(
            url, data=request.body, headers=with_trace(request.headers), allow_redirects=False
        ) as answer:
            if answer.status != 200:
                where = " (redirects are not followed)" if 300 <= answer.status < 400 else ""
                raise NoDecision(f"the hook answered {answer.status}, not 200{where}")
            body, longer = await read_body(answer, MAX_ANSWER)
        if longer:
            raise NoDecision(f"the answer has more than {MAX_ANSWER} bytes")
        return body

    def _opened(self) -> ClientSession:
        if self._session is None:
            self._resolver = checked_resolver(self._inner or SystemResolver(), self._rules)
            self._session = ClientSession(
                connector=TCPConnector(
                    resolver=self._resolver,
                    use_dns_cache=False,
                    keepalive_timeout=KEPT_SECONDS,
                    limit=0,
                ),
                cookie_jar=DummyCookieJar(),
                auto_decompress=False,
                headers=_HEADERS,
                timeout=ClientTimeout(total=None),
            )
        return self._session

    async def close(self) -> None:
        """Close the connections."""
        session, resolver = self._session, self._resolver
        self._session = self._resolver = None
        if session is not None:
            await session.close()
        if resolver is not None:
            await resolver.close()
