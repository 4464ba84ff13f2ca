"""The stream of a session that belongs to no request.

Some servers of the era of sessions ask their questions there. It is open only while calls run whose
questions are passed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from perdure.domain.mcp import McpUnauthorized
from perdure.domain.mcp_wire import Incoming
from perdure.domain.messages import JsonObject
from perdure.net.mcp.desk import Desk, UserAsked
from perdure.net.mcp.http import Broken, Http, Remote
from perdure.net.mcp.legacy import Session
from perdure.net.mcp.rounds import MAX_ASKED

READY = 1.0
"""Seconds that a call waits until the stream is open: what a server asks before would be lost."""


class Listener:
    """Listens to a session while calls run in it.

    Args:
        changed: called when the server says that its tools have changed.
    """

    def __init__(self, http: Http, remote: Remote, session: Session, changed: Callable[[], None]) -> None:
        self._http = http
        self._remote = remote
        self._session = session
        self._changed = changed
        self._calls: dict[asyncio.Future[None], Desk] = {}
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._offered = True
        self._slow = False

    async def during(self, desk: Desk, work: Coroutine[None, None, JsonObject]) -> JsonObject:
        """Do a call's work, with what the server asks meanwhile answered by the desk.

        Raises:
            UserAsked: it is a question that no answer is there for. The work is cancelled.
        """
        asked = asyncio.get_running_loop().create_future()
        self._calls[asked] = desk
        task: asyncio.Task[JsonObject] | None = None
        try:
            await self._open()
            task = asyncio.create_task(work)
            await asyncio.wait({task, asked}, return_when=asyncio.FIRST_COMPLETED)
            if asked.done() and not task.done():
                asked.result()
            return await task
        finally:
            if task is None:
                work.close()
            elif not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            del self._calls[asked]
            asked.cancel()
            if not self._calls and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _open(self) -> None:
        if self._offered and (self._task is None or self._task.done()):
            self._ready.clear()
            self._task = asyncio.create_task(self._listen())
        if not self._slow:
            try:
                async with asyncio.timeout(READY):
                    await self._ready.wait()
            except TimeoutError:
                self._slow = True  # it sends nothing before its first message

    async def _listen(self) -> None:
        headers = {"Accept": "text/event-stream", **self._session.headers()}
        try:
            async with self._http.exchange(self._remote, headers, None, method="GET") as reply:
                self._offered = reply.status not in (404, 405, 501)
                if reply.status != 200:
                    return
                self._ready.set()
                count = 0
                async for message in reply.messages():
                    count += message.is_request
                    if count > MAX_ASKED:
                        return
                    await self._take(message)
        except (Broken, McpUnauthorized):
            pass
        finally:
            self._ready.set()

    async def _take(self, message: Incoming) -> None:
        if message.is_request:
            for asked, desk in self._calls.items():  # nothing says which call it is about: the oldest one
                try:
                    await desk.take(message)
                except UserAsked as error:
                    if not asked.done():
                        asked.set_exception(error)
                return
        elif message.method == "notifications/tools/list_changed":
            self._changed()
