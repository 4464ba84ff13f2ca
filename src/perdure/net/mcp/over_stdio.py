"""Requests to local commands, which the operator has configured.

A command of the stateless era serves all; one of the era of sessions gets a process for each scope, because
its process is the session. Processes that nobody uses are ended. Those that die start again, with back-off.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Coroutine

import perdure
from perdure.domain import mcp_wire as wire
from perdure.domain.backoff import backoff
from perdure.domain.mcp import McpRefused
from perdure.domain.mcp_results import ServerInfo, elicitation_capability, server_info
from perdure.domain.mcp_wire import Incoming
from perdure.domain.messages import JsonObject
from perdure.net.mcp import eras
from perdure.net.mcp.changes import Changes
from perdure.net.mcp.cleaning import Cleaner
from perdure.net.mcp.desk import Desk, UserAsked
from perdure.net.mcp.endpoints import McpStdioEndpoint
from perdure.net.mcp.eras import Verdict
from perdure.net.mcp.guard import Guard
from perdure.net.mcp.http import Broken, Unreadable
from perdure.net.mcp.process import Running, Waiting
from perdure.net.mcp.requests import Spoken, Wanted
from perdure.net.mcp.rounds import Round
from perdure.net.mcp.stateless import with_answers, with_meta

MAX_PROCESSES = 32
"""Processes of all commands together."""
IDLE = 900.0
"""Seconds after which a process that nobody uses is ended."""
SILENCE = 5.0
"""Seconds that a command may take to answer which era it speaks; older ones may never answer."""
FIRST_WAIT = 0.5
LONGEST_WAIT = 60.0
"""Seconds until a command that has died starts again: after the first time, and at most."""
PATIENCE = 2.0
"""Seconds that a request waits for that; a longer wait is an error at once."""
ALIVE = 10.0
"""Seconds after which a command that was silent during a call, and is asked, must have said something."""
MAX_CHECKS = 3
"""Checks in a row that found it silent, after which it is ended although other requests wait for it."""
MAX_COMMANDS = 1_024
_CLOSING = 5.0
_SHARED = ""


class _Place:
    """The process of a scope, if it runs."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.running: Running | None = None
        self.spoken: Spoken | None = None
        self.users = 0
        self.gone = False
        self.used = time.monotonic()


class _Command:
    """What is known about a command."""

    def __init__(self, verdict: Verdict | None) -> None:
        self.verdict = verdict
        self.failures = 0
        self.not_before = 0.0


class OverStdio:
    """All local commands. Create one per process."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._guard = Guard()
        self._commands: dict[McpStdioEndpoint, _Command] = {}
        self._changes: Changes[McpStdioEndpoint] = Changes(MAX_COMMANDS)
        self._places: OrderedDict[tuple[McpStdioEndpoint, str], _Place] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._checks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def line(self, endpoint: McpStdioEndpoint) -> StdioLine:
        """The way to a command."""
        return StdioLine(self, endpoint)

    @property
    def quiet(self) -> bool:
        """Whether `changes` is 0 for all commands."""
        return not self._changes

    def changes(self, endpoint: McpStdioEndpoint) -> int:
        """How often the command's tools may have changed since this process knows it."""
        return self._changes.count(endpoint)

    def _command(self, endpoint: McpStdioEndpoint) -> _Command:
        found = self._commands.get(endpoint)
        if found is None:
            known = eras.LEGACY if endpoint.protocol == "legacy" else None
            found = self._commands[endpoint] = _Command(known)
        return found

    # --- requests

    async def spoken(self, endpoint: McpStdioEndpoint, scope: str) -> Spoken:
        """What the command speaks."""
        async with self._used(endpoint, scope) as (_, spoken):
            return spoken

    async def ask(self, endpoint: McpStdioEndpoint, scope: str, wanted: Wanted) -> JsonObject:
        """Send a request and return its result; see `Line`."""
        async with self._used(endpoint, scope) as (running, spoken):
            key = next(self._ids)
            desk = Desk(endpoint.elicitation, wanted, running.send_if_possible)
            asked = desk.take if spoken.era == "legacy" else None
            wanted.era = spoken.era
            wanted.turn = turn = Round(key, running.clean, wanted.progress, asked=asked)
            params = dict(wanted.params)
            token = key if wanted.progress is not None else None
            if spoken.era == "stateless":
                params = with_meta(with_answers(params, wanted.answers), endpoint.elicitation, token=token)
            elif token is not None:
                params["_meta"] = {**params.get("_meta", {}), "progressToken": token}
            return await self._exchange(endpoint, running, turn, wanted.method, params)

    async def _exchange(
        self, endpoint: McpStdioEndpoint, running: Running, turn: Round, method: str, params: JsonObject
    ) -> JsonObject:
        """Send a request to a running command, and wait for its result."""
        began = time.monotonic()
        with running.waiting(turn.key) as waiting:
            try:
                turn.sent = True
                await running.send(wire.request(turn.key, method, params))
                return await self._result(endpoint, running, turn, waiting)
            except Broken as error:
                turn.sent = error.sent
                raise
            except McpRefused:
                raise
            except UserAsked:
                with contextlib.suppress(Broken):  # the call that follows must find this one ended
                    await self._cancelled(running, turn)
                raise
            except BaseException:
                self._later(self._cancelled(running, turn))
                if running.heard < began:
                    self._checks.add(task := asyncio.create_task(self._end_if_mute(running)))
                    task.add_done_callback(self._checks.discard)
                raise

    async def _result(
        self, endpoint: McpStdioEndpoint, running: Running, turn: Round, waiting: Waiting
    ) -> JsonObject:
        result = await turn.response(waiting.messages())
        if result is None:
            raise Broken(f"{endpoint.name} ended before it answered: {running.fault}", sent=True)
        return result

    async def _end_if_mute(self, running: Running) -> None:
        """End a process that does not say anything any more: it would let all later calls wait in vain."""
        since = time.monotonic()
        await asyncio.sleep(ALIVE / 2)
        key = next(self._ids)
        with contextlib.suppress(Broken):
            await running.send(wire.request(key, "ping", {}))
        await asyncio.sleep(ALIVE / 2)
        if running.heard > since or running.fault is not None:
            return
        running.checks += 1
        if not running.is_busy or running.checks >= MAX_CHECKS:
            running.give_up("it did not answer a ping after a call that was given up")

    async def _cancelled(self, running: Running, turn: Round) -> None:
        params: JsonObject = {"requestId": turn.key, "reason": "nobody waits for the answer any more"}
        await running.send(wire.notification("notifications/cancelled", params))

    # --- processes

    @contextlib.asynccontextmanager
    async def _used(self, endpoint: McpStdioEndpoint, scope: str) -> AsyncIterator[tuple[Running, Spoken]]:
        """The process for a scope, started if it does not run, and what it speaks."""
        if scope != _SHARED and self._command(endpoint).verdict is None:
            await self.spoken(endpoint, _SHARED)
        verdict = self._command(endpoint).verdict
        key = (endpoint, _SHARED if verdict is not None and verdict.era == "stateless" else scope)
        place = self._places.setdefault(key, _Place())
        self._places.move_to_end(key)
        place.users += 1
        try:
            async with place.lock:
                if place.gone or self._closed:
                    raise Broken(f"{endpoint.name} is being stopped", sent=False)
                if place.running is None or place.running.fault is not None or place.spoken is None:
                    await self._start(endpoint, place)
            if place.running is None or place.spoken is None:
                raise AssertionError("a started place has a process")
            yield place.running, place.spoken
        finally:
            place.users -= 1
            place.used = time.monotonic()
            self._watch()

    async def _start(self, endpoint: McpStdioEndpoint, place: _Place) -> None:
        """Start a process and shake hands. Raises Broken: it does not work."""
        command = self._command(endpoint)
        if place.running is not None:
            self._count(command, place.running)
            await self._stop(place)
            self._changes.note(endpoint)
        wait = command.not_before - time.monotonic()
        if wait > PATIENCE:
            said = (
                f"{endpoint.name} has ended {command.failures} times: it starts again in {wait:.0f} seconds"
            )
            raise Broken(said, sent=False)
        if wait > 0:
            await asyncio.sleep(wait)
        await self._make_room()

        async def stray(message: Incoming) -> None:
            if message.method == "notifications/tools/list_changed":
                self._changes.note(endpoint)
            elif message.method == "ping" and message.id is not None:
                await running.send(wire.response(message.id, {}))

        running = await Running.start(endpoint, self._guard, stray)
        place.running, place.spoken = running, None
        if place.gone:
            await self._stop(place)
            raise Broken(f"{endpoint.name} is being stopped", sent=False)
        try:
            place.spoken = await self._greeted(endpoint, running, command)
        except McpRefused:
            await self._stop(place)
            raise
        except Broken as error:
            self._count(command, running)
            await self._stop(place)
            raise Broken(str(error), sent=False) from None

    def _count(self, command: _Command, running: Running) -> None:
        """Note that a process has died, and compute when the next one may start."""
        command.failures = 1 if running.answered else command.failures + 1
        wait = backoff(command.failures, first=FIRST_WAIT, most=LONGEST_WAIT)
        command.not_before = time.monotonic() + wait

    async def _greeted(self, endpoint: McpStdioEndpoint, running: Running, command: _Command) -> Spoken:
        """Find out the era, and begin a session if it is that of sessions."""
        verdict = command.verdict
        if verdict is None:
            verdict = await self._probe(endpoint, running)
            if running.fault is not None and verdict.era == "legacy":
                command.verdict = verdict  # the question has ended it: the next process is not asked
        if verdict.era == "legacy":
            try:
                spoken = await self._shaken(endpoint, running)
                command.verdict = verdict
                return spoken
            except McpRefused as error:
                # A slow start: the answer to the first question has come after all, or is on its way.
                if error.rpc_code != wire.UNSUPPORTED_VERSION or endpoint.protocol != "auto":
                    raise
                verdict = Verdict("stateless", await self._discovered(endpoint, running))
        command.verdict = verdict
        return Spoken("stateless", wire.STATELESS, verdict.info or ServerInfo())

    async def _discovered(self, endpoint: McpStdioEndpoint, running: Running) -> ServerInfo:
        turn = Round(next(self._ids), running.clean)
        params = with_meta({}, endpoint.elicitation)
        return server_info(await self._exchange(endpoint, running, turn, "server/discover", params))

    async def _probe(self, endpoint: McpStdioEndpoint, running: Running) -> Verdict:
        turn = Round(next(self._ids), running.clean)
        params = with_meta({}, endpoint.elicitation)
        try:
            async with asyncio.timeout(SILENCE if endpoint.protocol == "auto" else None):
                found = await self._exchange(endpoint, running, turn, "server/discover", params)
        except (TimeoutError, Broken):
            verdict = eras.LEGACY
        except McpRefused as error:
            verdict = eras.of_error(error.rpc_code, error.data, endpoint.name)
        else:
            verdict = eras.of_discovery(found)
        if verdict.era == "legacy" and endpoint.protocol != "auto":
            raise Broken(f"{endpoint.name} does not speak the revision {wire.STATELESS}", sent=False)
        return verdict

    async def _shaken(self, endpoint: McpStdioEndpoint, running: Running) -> Spoken:
        turn = Round(next(self._ids), running.clean)
        params: JsonObject = {
            "protocolVersion": wire.LEGACY[0],
            "capabilities": elicitation_capability(endpoint.elicitation),
            "clientInfo": wire.client_info(perdure.__version__),
        }
        result = await self._exchange(endpoint, running, turn, "initialize", params)
        protocol = result.get("protocolVersion")
        if protocol not in wire.LEGACY:
            said = f"speaks the unknown revision {wire.text_in(protocol, 40)!r} of the protocol"
            raise Unreadable(f"{endpoint.name} {said}", sent=True)
        await running.send(wire.notification("notifications/initialized"))
        return Spoken("legacy", str(protocol), server_info(result))

    # --- ends

    async def _make_room(self) -> None:
        """End the process that was used longest ago, if there are too many. Raises Broken: all work."""
        places = [place for place in self._places.values() if place.running is not None]
        if len(places) < MAX_PROCESSES:
            return
        idle = [place for place in places if not place.users]
        if not idle:
            raise Broken(f"{MAX_PROCESSES} local commands are at work already", sent=False)
        await self._stop(min(idle, key=lambda place: place.used))

    def _watch(self) -> None:
        """Look for idle processes, as long as there are processes."""
        if self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(IDLE / 2, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        limit = time.monotonic() - IDLE
        for key, place in list(self._places.items()):
            if not place.users and place.used < limit:
                self._drop(key)
        if self._places:
            self._watch()

    def forget(self, scope: str) -> None:
        """End the processes of a scope."""
        for key in [key for key in self._places if key[1] == scope]:
            self._drop(key)

    def _drop(self, key: tuple[McpStdioEndpoint, str]) -> None:
        place = self._places.pop(key)
        place.gone = True
        self._later(self._stop(place))

    async def _stop(self, place: _Place) -> None:
        running, place.running, place.spoken = place.running, None, None
        if running is not None:
            await asyncio.shield(running.end())

    def _later(self, work: Coroutine[None, None, None]) -> None:
        """Do in the background what nobody waits for."""

        async def done() -> None:
            with contextlib.suppress(Exception):
                await work

        task = asyncio.create_task(done())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End all processes."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for check in self._checks:
            check.cancel()
        for key in list(self._places):
            self._drop(key)
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=_CLOSING)
        await self._guard.close()


class StdioLine:
    """The way to one command; see `Line`."""

    def __init__(self, commands: OverStdio, endpoint: McpStdioEndpoint) -> None:
        self._commands = commands
        self._endpoint = endpoint
        self.name = endpoint.name
        self.policy = endpoint.elicitation
        self.clean = Cleaner((value for _, value in endpoint.env), "in a variable")

    async def spoken(self, scope: str) -> Spoken:
        return await self._commands.spoken(self._endpoint, scope)

    async def ask(self, scope: str, wanted: Wanted) -> JsonObject:
        return await self._commands.ask(self._endpoint, scope, wanted)
