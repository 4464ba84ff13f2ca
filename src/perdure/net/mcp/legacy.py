"""The revisions with sessions (until 2025-11-25), over streamable HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Mapping

import perdure
from perdure.domain import mcp_wire as wire
from perdure.domain.mcp import McpUnauthorized
from perdure.domain.mcp_results import ServerInfo, elicitation_capability, server_info
from perdure.domain.messages import JsonObject
from perdure.net.mcp.http import MAX_ANSWER, Broken, Http, Refused, Remote, Reply, Unreadable
from perdure.net.mcp.rounds import Round

MAX_RESUMES = 20
"""How often a stream is resumed without a message in between."""
_RETRY = 1.0
_LONGEST_RETRY = 30.0
_SESSION_CODES = frozenset({-32600, -32000, -32001})
_NO_SESSION = re.compile(
    r"session[ -]?id|session (was )?not found|(no valid|invalid|unknown|expired) session"
    r"|session (has |is )?(expired|invalid|unknown)|not initialized",
    re.IGNORECASE,
)
_ENDED = 2.0
"""Seconds for what is said to a server that nobody waits for."""


class Expired(Exception):
    """The server does not know the session any more, and has not run the request."""


class Session:
    """A session of the protocol with a server.

    Attributes:
        id: None if the server keeps no sessions.
        protocol: the negotiated revision.
        used: when it was last used, of a monotonic clock.
    """

    def __init__(self, key: str | None, protocol: str, info: ServerInfo) -> None:
        self.id = key
        self.protocol = protocol
        self.info = info
        self.used = time.monotonic()

    def headers(self) -> dict[str, str]:
        """The headers of all requests after the first one."""
        headers = {}
        if self.id is not None:
            headers["Mcp-Session-Id"] = self.id
        if self.protocol in wire.HEADERS_SINCE:
            headers["MCP-Protocol-Version"] = self.protocol
        return headers


_JSON = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}


async def begin(http: Http, remote: Remote, key: int) -> Session:
    """Open a session.

    Raises:
        McpRefused, McpUnauthorized, Refused, Broken: as `ask` does.
    """
    params: JsonObject = {
        "protocolVersion": wire.LEGACY[0],
        "capabilities": elicitation_capability(remote.endpoint.elicitation),
        "clientInfo": wire.client_info(perdure.__version__),
    }
    turn = Round(key, remote.clean)
    async with http.exchange(remote, _JSON, wire.request(key, "initialize", params)) as reply:
        await reply.accepted()
        result = await turn.response(reply.messages())
        if result is None:
            raise Unreadable(f"{remote.name} ended its answer before the response", sent=True)
        session_id = reply.headers.get("Mcp-Session-Id")
    if session_id is not None and not wire.SESSION_ID.fullmatch(session_id):
        raise Broken(f"{remote.name} gave its session an id with characters that are not allowed", sent=True)
    protocol = result.get("protocolVersion")
    if protocol not in wire.LEGACY:
        said = f"speaks the unknown revision {wire.text_in(protocol, 40)!r} of the protocol"
        raise Unreadable(f"{remote.name} {said}", sent=True)
    session = Session(session_id, str(protocol), server_info(result))
    await _tell(http, remote, session, wire.notification("notifications/initialized"))
    return session


async def ask(
    http: Http,
    remote: Remote,
    session: Session,
    turn: Round,
    key: int,
    method: str,
    params: JsonObject,
    extra: Mapping[str, str],
    *,
    token: bool = False,
    max_bytes: int = MAX_ANSWER,
) -> JsonObject:
    """Send a request in a session and return its result. A stream that breaks off is resumed, if it can be.

    Raises:
        Expired: the session is over.
        McpRefused: the server answered with a JSON-RPC error.
        McpUnauthorized: it wants a sign-in.
        Refused: it answered with another status than 2xx.
        Broken: there is no answer.
    """
    if token:
        params = {**params, "_meta": {**params.get("_meta", {}), "progressToken": key}}
    headers = {**extra, **_JSON, **session.headers()}
    session.used = time.monotonic()
    position = _Position()
    body = wire.request(key, method, params)
    try:
        async with http.exchange(
            remote, headers, body, max_bytes=max_bytes, mark=turn, once=method == "tools/call"
        ) as reply:
            await _accepted(reply, session)
            try:
                result = await turn.response(reply.messages())
            finally:
                position.of(reply)
    except Broken:
        if position.event is None:
            raise
        result = None
    if result is None:
        result = await _resumed(http, remote, session, turn, position, max_bytes)
    return result


class _Position:
    """How far a stream has been read: what it takes to resume it."""

    def __init__(self) -> None:
        self.event: str | None = None
        self.wait = _RETRY

    def of(self, reply: Reply) -> None:
        """Take the position from an answer that is read."""
        if reply.last_event is not None and wire.text_in(reply.last_event, 1024) == reply.last_event:
            self.event = reply.last_event
        if reply.retry is not None:
            self.wait = min(reply.retry, _LONGEST_RETRY)


async def _resumed(
    http: Http, remote: Remote, session: Session, turn: Round, position: _Position, max_bytes: int
) -> JsonObject:
    """Go on reading a stream that ended before the response."""
    lost = Broken(f"{remote.name} ended its answer before the response", sent=True)
    for _ in range(MAX_RESUMES):
        if position.event is None:
            raise lost
        await asyncio.sleep(position.wait)
        headers = {
            "Accept": "text/event-stream",
            "Last-Event-ID": position.event,
            **session.headers(),
        }
        try:
            async with http.exchange(remote, headers, None, method="GET", max_bytes=max_bytes) as reply:
                if reply.status != 200:
                    raise lost
                try:
                    result = await turn.response(reply.messages())
                finally:
                    position.of(reply)
            if result is not None:
                return result
        except Broken as error:
            if error is lost:
                raise
    raise lost


async def _accepted(reply: Reply, session: Session) -> None:
    try:
        await reply.accepted()
    except Refused as error:
        if session.id is not None and _says_expired(error):
            raise Expired from None
        raise


def _says_expired(error: Refused) -> bool:
    """Whether an answer says that the session is unknown. The protocol says 404; not all servers do."""
    if error.error is not None and error.error.code not in _SESSION_CODES:
        return False
    if error.status in (404, 410):
        return True
    return (
        error.status == 400
        and error.error is not None
        and _NO_SESSION.search(wire.text_in(error.error.message, 500)) is not None
    )


async def _tell(http: Http, remote: Remote, session: Session, body: bytes) -> None:
    """Send what has no response. Raises as `ask` does."""
    async with http.exchange(remote, {**_JSON, **session.headers()}, body) as reply:
        await _accepted(reply, session)


async def answer(http: Http, remote: Remote, session: Session, body: bytes) -> None:
    """Send the response to a request of the server; whether it takes it makes no difference."""
    with contextlib.suppress(Broken, Refused, Expired, McpUnauthorized):
        await _tell(http, remote, session, body)


async def cancelled(http: Http, remote: Remote, session: Session, key: int) -> None:
    """Tell the server that nobody waits for a request any more."""
    params: JsonObject = {"requestId": key, "reason": "nobody waits for the answer any more"}
    async with asyncio.timeout(_ENDED):
        await answer(http, remote, session, wire.notification("notifications/cancelled", params))


async def end(http: Http, remote: Remote, session: Session) -> None:
    """End a session at its server; whether the server ends sessions makes no difference."""
    if session.id is None:
        return
    async with asyncio.timeout(_ENDED):
        with contextlib.suppress(Broken):
            async with http.exchange(remote, session.headers(), None, method="DELETE"):
                pass
