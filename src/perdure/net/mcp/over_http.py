"""Requests to servers that are reached over HTTP: eras, sessions, and what is sent again.

A request is sent again only if the server has refused it before it did anything: its session had expired, or
it was of the wrong era.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine

from aiohttp.abc import AbstractResolver

from perdure.domain import mcp_wire as wire
from perdure.domain.mcp import McpRefused, McpUnreachable
from perdure.domain.mcp_results import ServerInfo, server_info
from perdure.domain.messages import JsonObject
from perdure.net.mcp import eras, legacy, stateless
from perdure.net.mcp.changes import Changes
from perdure.net.mcp.desk import Desk, UserAsked
from perdure.net.mcp.endpoints import McpEndpoint
from perdure.net.mcp.eras import Eras, Verdict
from perdure.net.mcp.http import Broken, Http, Refused, Remote, Unreadable
from perdure.net.mcp.listening import Listener
from perdure.net.mcp.requests import Spoken, Wanted
from perdure.net.mcp.rounds import Round

MAX_SESSIONS = 1_024
IDLE_SESSION = 1_800.0
"""Seconds after which a session that nobody uses is ended."""
MAX_REMOTES = 256
_CLOSING = 3.0
# Answers of a server that got a request of the other era.
_WRONG_ERA = frozenset({400, 404, 405, 406, 415})


class _Kept:
    """The session of a scope with a server.

    Attributes:
        users: requests that are under way in it.
    """

    def __init__(self) -> None:
        self.users = 0
        self.lock = asyncio.Lock()
        self.session: legacy.Session | None = None
        self.remote: Remote | None = None
        self.listener: Listener | None = None
        self.listens_to: legacy.Session | None = None


class OverHttp:
    """All servers that are reached over HTTP. Create one per process.

    Args:
        resolver: resolves names; the system's resolver by default.
    """

    def __init__(self, resolver: AbstractResolver | None = None) -> None:
        self._http = Http(resolver)
        self._ids = itertools.count(1)
        self._eras = Eras()
        self._remotes: OrderedDict[McpEndpoint, Remote] = OrderedDict()
        self._sessions: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._changes: Changes[str] = Changes(MAX_SESSIONS)
        self._tasks: set[asyncio.Task[None]] = set()

    def line(self, endpoint: McpEndpoint) -> HttpLine:
        """The way to a server. Raises McpUnreachable: it may not be reached."""
        return HttpLine(self, self._remote(endpoint))

    def _remote(self, endpoint: McpEndpoint) -> Remote:
        found = self._remotes.get(endpoint)
        if found is None:
            found = self._remotes[endpoint] = Remote(endpoint)
            if len(self._remotes) > MAX_REMOTES:
                self._remotes.popitem(last=False)
        else:
            self._remotes.move_to_end(endpoint)
        return found

    @property
    def quiet(self) -> bool:
        """Whether `changes` is 0 for all servers."""
        return not self._changes

    def changes(self, endpoint: McpEndpoint) -> int:
        """How often the server's tools may have changed since this process knows it."""
        known = self._remotes.get(endpoint)
        return self._changes.count(endpoint.key if known is None else known.key)

    # --- eras

    async def spoken(self, remote: Remote, scope: str) -> Spoken:
        """What the server speaks. Raises as `ask` does, and Broken only with `sent=False`."""
        verdict, _ = await self._verdict(remote)
        if verdict.era == "legacy":
            _, session = await self._session(remote, scope)
            return Spoken("legacy", session.protocol, session.info)
        info = verdict.info
        if info is None:
            info = ServerInfo()
            with contextlib.suppress(McpRefused, Refused, Unreadable):
                info = server_info(await self._discovered(remote))
            self._eras.remember(remote, Verdict("stateless", info))
        return Spoken("stateless", wire.STATELESS, info)

    async def _verdict(self, remote: Remote) -> tuple[Verdict, bool]:
        """The server's era, and whether it is known from before."""
        known = self._eras.get(remote)
        if known is not None:
            return known, True
        mode = remote.endpoint.protocol
        if mode == "legacy":
            return eras.LEGACY, False
        verdict = Verdict("stateless") if mode != "auto" else await self._probe(remote)
        if verdict.era == "stateless":  # the other one is remembered when a session has begun
            self._eras.remember(remote, verdict)
        return verdict, False

    async def _probe(self, remote: Remote) -> Verdict:
        try:
            return eras.of_discovery(await self._discovered(remote))
        except McpRefused as error:
            return eras.of_error(error.rpc_code, error.data, remote.name)
        except Refused as error:
            verdict = eras.of_status(error.status, error.error, remote.name)
            if verdict is None:
                raise McpUnreachable(str(error), retry_after=error.retry_after) from None
            return verdict
        except Unreadable:
            return eras.LEGACY

    async def _discovered(self, remote: Remote) -> JsonObject:
        key = next(self._ids)
        turn = Round(key, remote.clean)
        try:
            return await stateless.ask(self._http, remote, turn, key, "server/discover", {}, {})
        except Unreadable:
            raise
        except Broken as error:
            raise Broken(str(error), sent=False) from None

    # --- requests

    async def ask(self, remote: Remote, scope: str, wanted: Wanted) -> JsonObject:
        """Send a request and return its result.

        Raises:
            McpRefused, McpUnauthorized, McpUnreachable: the server's answer.
            Refused: it answered with another status than 2xx.
            Broken: there is no answer; `sent` tells whether the request may have run.
        """
        verdict, remembered = await self._verdict(remote)
        try:
            return await self._ask(verdict, remote, scope, wanted)
        except (McpRefused, Refused) as error:
            if not remembered or remote.endpoint.protocol != "auto" or not _may_be_wrong_era(error):
                raise
            refused = error
        if wanted.turn is not None:
            wanted.turn.sent = False
        self._eras.forget(remote)
        now, _ = await self._verdict(remote)
        if now.era == verdict.era:
            raise refused
        self._changes.note(remote.key)
        return await self._ask(now, remote, scope, wanted)

    async def _ask(self, verdict: Verdict, remote: Remote, scope: str, wanted: Wanted) -> JsonObject:
        wanted.era = verdict.era
        if verdict.era == "legacy":
            return await self._ask_in_session(remote, scope, wanted)
        key = next(self._ids)
        changed = lambda: self._changes.note(remote.key)  # noqa: E731
        wanted.turn = turn = Round(key, remote.clean, wanted.progress, changed)
        params = stateless.with_answers(wanted.params, wanted.answers)
        return await stateless.ask(
            self._http,
            remote,
            turn,
            key,
            wanted.method,
            params,
            wanted.extra,
            token=wanted.progress is not None,
            max_bytes=wanted.max_bytes,
        )

    async def _ask_in_session(self, remote: Remote, scope: str, wanted: Wanted) -> JsonObject:
        for _ in range(2):
            kept, session = await self._session(remote, scope)
            key = next(self._ids)
            desk = Desk(remote.endpoint.elicitation, wanted, self._reply_to(remote, session))
            changed = lambda: self._changes.note(remote.key)  # noqa: E731
            wanted.turn = turn = Round(key, remote.clean, wanted.progress, changed, desk.take)
            work = legacy.ask(
                self._http,
                remote,
                session,
                turn,
                key,
                wanted.method,
                wanted.params,
                wanted.extra,
                token=wanted.progress is not None,
                max_bytes=wanted.max_bytes,
            )
            kept.users += 1
            try:
                if wanted.method == "tools/call" and remote.endpoint.elicitation != "none":
                    return await self._listener(kept, remote, session, changed).during(desk, work)
                return await work
            except legacy.Expired:
                turn.sent = False
                if kept.session is session:
                    kept.session = None
                    self._changes.note(remote.key)
            except UserAsked:
                with contextlib.suppress(TimeoutError):  # the call that follows must find this one ended
                    await legacy.cancelled(self._http, remote, session, key)
                raise
            except BaseException as error:
                if turn.sent and not isinstance(error, McpRefused | Refused):
                    self._later(legacy.cancelled(self._http, remote, session, key))
                raise
            finally:
                kept.users -= 1
        raise McpUnreachable(f"the MCP server {remote.name} forgets its sessions at once")

    def _listener(
        self, kept: _Kept, remote: Remote, session: legacy.Session, changed: Callable[[], None]
    ) -> Listener:
        if kept.listener is None or kept.listens_to is not session:
            kept.listener, kept.listens_to = Listener(self._http, remote, session, changed), session
        return kept.listener

    def _reply_to(
        self, remote: Remote, session: legacy.Session
    ) -> Callable[[bytes], Coroutine[None, None, None]]:
        return lambda body: legacy.answer(self._http, remote, session, body)

    async def _session(self, remote: Remote, scope: str) -> tuple[_Kept, legacy.Session]:
        """The session of a scope with a server; opened if there is none."""
        key = (remote.key, scope)
        kept = self._sessions.get(key)
        if kept is None:
            self._sweep()
            kept = self._sessions[key] = _Kept()
        self._sessions.move_to_end(key)
        kept.remote = remote
        async with kept.lock:
            if kept.session is None:
                try:
                    kept.session = await legacy.begin(self._http, remote, next(self._ids))
                except Broken as error:
                    raise Broken(str(error), sent=False) from None
                except legacy.Expired:
                    said = f"the MCP server {remote.name} forgets its sessions at once"
                    raise McpUnreachable(said) from None
                self._eras.remember(remote, eras.LEGACY)
            return kept, kept.session

    # --- ends

    def _sweep(self) -> None:
        """End the sessions that nobody has used for long, and make room for another one."""
        limit = time.monotonic() - IDLE_SESSION
        over = len(self._sessions) + 1 - MAX_SESSIONS
        for key, kept in list(self._sessions.items()):
            idle = kept.session is not None and kept.session.used < limit
            if kept.lock.locked() or kept.users:
                continue
            if over <= 0 and not idle:
                if kept.session is None:
                    continue
                break  # the others were used later
            del self._sessions[key]
            over -= 1
            self._end(kept)

    def _end(self, kept: _Kept) -> None:
        if kept.session is not None and kept.remote is not None:
            self._later(legacy.end(self._http, kept.remote, kept.session))

    def forget(self, scope: str) -> None:
        """End the sessions of a scope."""
        for key in [key for key in self._sessions if key[1] == scope]:
            self._end(self._sessions.pop(key))

    def _later(self, work: Coroutine[None, None, None]) -> None:
        """Do in the background what nobody waits for."""

        async def done() -> None:
            with contextlib.suppress(Exception):
                await work

        task = asyncio.create_task(done())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End all sessions, as far as that takes little time, and close all connections."""
        for kept in self._sessions.values():
            self._end(kept)
        self._sessions.clear()
        if self._tasks:
            _, late = await asyncio.wait(list(self._tasks), timeout=_CLOSING)
            for task in late:
                task.cancel()
        await self._http.close()


class HttpLine:
    """The way to one server; see `Line`."""

    def __init__(self, servers: OverHttp, remote: Remote) -> None:
        self._servers = servers
        self._remote = remote
        self.name = remote.name
        self.policy = remote.endpoint.elicitation
        self.clean = remote.clean

    async def spoken(self, scope: str) -> Spoken:
        return await self._servers.spoken(self._remote, scope)

    async def ask(self, scope: str, wanted: Wanted) -> JsonObject:
        return await self._servers.ask(self._remote, scope, wanted)


def _may_be_wrong_era(error: McpRefused | Refused) -> bool:
    """Whether a server may have refused a request because it speaks the other era now."""
    if isinstance(error, Refused):
        code = 0 if error.error is None else error.error.code
        return error.status in _WRONG_ERA and code not in (wire.HEADER_MISMATCH, wire.MISSING_CAPABILITY)
    return error.rpc_code == wire.UNSUPPORTED_VERSION
