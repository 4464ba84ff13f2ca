"""A receiver of webhooks, and a session whose tasks webhooks hear of."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from aiohttp import web
from msgspec import Struct
from msgspec.structs import replace

from perdure.app.accounts import bootstrap
from perdure.app.context import App
from perdure.app.sessions import create_session
from perdure.app.webhooks import create_webhook
from perdure.domain.accounts import Caller
from perdure.domain.events import EventContext, NewEvent, TaskCreatedData, TaskUpdatedData
from perdure.domain.ids import SessionId, TaskId, new_id
from perdure.domain.sessions import CreateSession
from perdure.domain.tasks import SessionTask, TaskState
from perdure.domain.times import to_rfc3339
from perdure.domain.webhooks import CreateTaskWebhook, TaskWebhook, WebhookDelivery
from perdure.settings import Settings
from perdure.store.database import Database, Row, Tx
from perdure.store.rows import to_json
from perdure.store.sessions import append, get_session
from perdure.store.tasks import TaskRow, add_task, find_task, put_task
from perdure.wiring import open_parts
from perdure.worker.webhooks import Deliverer
from tests.conformance.places import soon
from tests.sites import listening
from tests.talk import Json, script

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
HOUR = 3_600_000_000


class Received(Struct):
    """A request that came, with its headers in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> Json:
        found: Json = json.loads(self.body)
        return found

    @property
    def sequence(self) -> int:
        return int(self.json["data"]["sequence"])

    @property
    def state(self) -> str:
        return str(self.json["data"]["task"]["state"])

    def is_signed_with(self, secret: str) -> bool:
        """Whether the signature is right, computed as the specification says, not as the server does."""
        key = base64.b64decode(secret.split("_", 1)[1]) if secret.startswith("whsec_") else secret.encode()
        text = b".".join((self.id.encode(), self.headers["webhook-timestamp"].encode(), self.body))
        ours = "v1," + base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()
        return ours in self.headers["webhook-signature"].split(" ")


Answer = Callable[[Received], web.Response]


class Receiver:
    """A web server that notes what comes, and answers as told.

    Attributes:
        answer: makes the answers; 204 by default.
        open: while it is cleared, requests wait for their answers.
    """

    def __init__(self) -> None:
        self.came: list[Received] = []
        self.answer: Answer = lambda received: web.Response(status=204)
        self.open = asyncio.Event()
        self.open.set()
        self.port = 0
        self._news = asyncio.Condition()

    def url(self, path: str = "/hook", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    async def until(self, count: int) -> list[Received]:
        """Wait until so many requests came."""

        async def wait() -> None:
            async with self._news:
                await self._news.wait_for(lambda: len(self.came) >= count)

        await soon(wait())
        return self.came

    async def __call__(self, request: web.BaseRequest) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        received = Received(request.path, headers, await request.read())
        async with self._news:
            self.came.append(received)
            self._news.notify_all()
        await self.wait(received)
        return self.answer(received)

    async def wait(self, received: Received) -> None:
        """Wait before an answer."""
        await self.open.wait()


R = TypeVar("R", bound=Receiver)


@contextlib.asynccontextmanager
async def receiving(receiver: R | None = None) -> AsyncIterator[R]:
    receiver = receiver or cast("R", Receiver())
    async with listening(receiver) as receiver.port:
        try:
            yield receiver
        finally:
            receiver.open.set()


class Clock:
    """A clock that tests move."""

    def __init__(self, now: int) -> None:
        self.time = now

    def now(self) -> int:
        self.time += 1
        return self.time

    def move(self, micros: int) -> None:
        self.time += micros


class Office:
    """An organization's session with tasks, and what sends its events."""

    def __init__(self, app: App, owner: Caller, clock: Clock, session_id: SessionId) -> None:
        self.app, self.owner, self.clock, self.session_id = app, owner, clock, session_id
        self.deliverer = Deliverer(app)

    @property
    def database(self) -> Database:
        return self.app.database

    async def begin(self, session_id: SessionId | None = None) -> TaskId:
        """Begin a task; its first event is `task.created`."""
        ts, task_id = to_rfc3339(self.clock.now()), new_id("task")
        session_id = session_id or self.session_id
        task = SessionTask(task_id, session_id, "subagent", "research", "queued", ts, ts)

        async def work(tx: Tx) -> None:
            session = await get_session(tx, self.owner.organization_id, session_id, lock=True)
            await add_task(
                tx,
                TaskRow(
                    task_id, session.org_id, session.id, session.id, "subagent", "queued", task_id,
                    new_id("turn"), None, 0, 1, None, None, self.clock.now(), None, to_json(task),
                ),
            )  # fmt: skip
            event = NewEvent(TaskCreatedData(task), EventContext(), self.clock.now())
            await append(tx, session, [event], now=self.clock.now())

        await self.database.write(work)
        return task_id

    async def change(self, task_id: TaskId, *states: TaskState, **fields: Any) -> int:
        """Append one `task.updated` for each state; return the sequence of the last one."""

        async def work(tx: Tx) -> int:
            row = await find_task(tx, task_id)
            assert row is not None
            session = await get_session(tx, self.owner.organization_id, row.session_id, lock=True)
            now = self.clock.now()
            tasks = [replace(row.struct(), state=each, **fields) for each in states]
            await put_task(tx, row.changed(tasks[-1], now))
            events = [NewEvent(TaskUpdatedData(task), EventContext(), now) for task in tasks]
            after, _ = await append(tx, session, events, now=now)
            return after.head

        return await self.database.write(work)

    async def send(self) -> int:
        """Send all that is due; return how many attempts were made."""
        made = 0
        while begun := await self.deliverer.once():
            made += begun
            await soon(self.deliverer.settled())
        return made

    async def another_session(self) -> SessionId:
        return (await create_session(self.app, self.owner, CreateSession())).id


@contextlib.asynccontextmanager
async def office(folder: Path, url: str = "", *, private: bool = True) -> AsyncIterator[Office]:
    """Open an office on SQLite, or on the PostgreSQL database of a URL."""
    settings = Settings(data=str(folder), database_url=url, private_addresses=private)
    async with open_parts(settings) as parts:
        clock = Clock(parts.app.now())
        app = replace(parts.app, now=clock.now)
        owner = await bootstrap(app)
        session = await create_session(app, owner, CreateSession())
        made = Office(app, owner, clock, session.id)
        try:
            yield made
        finally:
            await made.deliverer.settled()


async def hook(office: Office, receiver: Receiver, path: str = "/hook") -> TaskWebhook:
    return await create_webhook(office.app, office.owner, CreateTaskWebhook(receiver.url(path), SECRET))


async def rows(office: Office, sql: str) -> list[Row]:
    return await office.database.read(lambda tx: tx.all(sql))


async def nothing_left(office: Office) -> None:
    for table in ("webhooks", "webhook_deliveries", "webhook_lines"):
        assert await rows(office, f"SELECT * FROM {table}") == [], table


def spawns(name: str, *steps: Json) -> Json:
    """A call that begins a sub-agent with this script, in the background."""
    arguments = {"name": name, "mode": "background", "wake_policy": "silent", "instructions": script(*steps)}
    return {"name": "spawn_agent", "arguments": arguments}


def told(deliveries: list[WebhookDelivery]) -> list[tuple[str, int]]:
    """The states and attempts of deliveries."""
    return [(each.state, each.attempts) for each in deliveries]
