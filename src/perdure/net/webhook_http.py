"""Requests to webhooks: one POST, to an address that the server's settings allow, without redirects."""

from __future__ import annotations

import time
from collections.abc import Iterable

from aiohttp import ClientError
from aiohttp.abc import AbstractResolver
from msgspec import Struct

from perdure.domain.errors import InvalidInput, ToolError
from perdure.domain.network import NetworkRules, PrivateAddresses
from perdure.domain.retry_after import retry_after
from perdure.domain.webhooks import MAX_ERROR, SECONDS, Signed
from perdure.net.addresses import SystemResolver, is_reachable, look_up_all, plain_address
from perdure.net.web_client import checked_url, guarded_session, reason_of

LOOK_UP = 3.0
"""Seconds to look up the host of a new URL. A name without an answer is checked at each attempt."""
_HEADERS = {"User-Agent": "perdure (webhooks)", "Accept-Encoding": "identity"}


class Reply(Struct, frozen=True):
    """What a receiver answered.

    Attributes:
        status: the HTTP status; None if there was no answer.
        error: why the attempt failed; None if it has succeeded.
        retry_after: the seconds that the receiver asks to wait.
    """

    status: int | None
    error: str | None
    retry_after: float | None = None


async def post_signed(
    url: str,
    request: Signed,
    private: PrivateAddresses,
    *,
    seconds: float = SECONDS,
    resolver: AbstractResolver | None = None,
) -> Reply:
    """Send a request to a receiver: a status from 200 to 299 is a success. The answer's body is not read.

    Args:
        private: which private addresses may be reached.
        seconds: the time for everything.
        resolver: resolves names; the system's resolver by default.
    """
    rules = NetworkRules(private=private)
    try:
        target = checked_url(url, rules)
        async with (
            guarded_session(rules, seconds, _HEADERS, resolver) as session,
            session.post(target, data=request.body, headers=request.headers, allow_redirects=False) as answer,
        ):
            status = answer.status
            wait = retry_after(answer.headers, time.time())
    except ToolError as error:
        return Reply(None, _short(error.message))
    except TimeoutError:
        return Reply(None, f"no answer within {seconds:g} seconds")
    except ClientError as error:
        return Reply(None, _short(reason_of(error)))
    if 200 <= status < 300:
        return Reply(status, None)
    where = " (redirects are not followed)" if 300 <= status < 400 else ""
    return Reply(status, f"the receiver answered {status}{where}", wait)


def _short(text: str) -> str:
    return text[:MAX_ERROR]


async def check_target(url: str, private: PrivateAddresses, resolver: AbstractResolver | None = None) -> None:
    """Check that the server may send to a URL, as far as can be said before a request.

    Raises:
        InvalidInput: it is malformed, has a user name in it, or leads to an address that is refused.
    """
    rules = NetworkRules(private=private)
    try:
        host = checked_url(url, rules).raw_host or ""
    except ToolError as error:
        raise _refused(error.message, could_be_allowed=_is_private(url)) from None
    if plain_address(host) is None:
        found = await look_up_all((host,), resolver or SystemResolver(), LOOK_UP)
        _check(host, found.get(host, ()), private)


def _check(host: str, addresses: Iterable[str], private: PrivateAddresses) -> None:
    seen = list(addresses)
    if seen and not any(is_reachable(each, private) for each in seen):
        allowable = any(is_reachable(each, private=True) for each in seen)
        # Without the address: it would tell everybody what the names inside stand for.
        raise _refused(f"{host} is not a public host", could_be_allowed=allowable)


def _is_private(url: str) -> bool:
    """Whether a URL is refused only because its host is not public."""
    try:
        checked_url(url, NetworkRules(private=True))
    except ToolError:
        return False
    return True


def _refused(why: str, *, could_be_allowed: bool) -> InvalidInput:
    hint = ". The operator can allow private networks with PERDURE_PRIVATE_ADDRESSES"
    return InvalidInput(
        f"`url`: {why}{hint if could_be_allowed else ''}",
        code="invalid_webhook_url",
        field="url",
    )
