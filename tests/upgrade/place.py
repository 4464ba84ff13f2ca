"""The place where states are reached and finished: a server, its model, and its sessions by name.

Sessions have the same names in every database; `sessions` maps them to ids. The old server's place fills the
map, and the current server's place loads it from the manifest.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Self

import httpx

from tests.server import post
from tests.talk import Json, Talk, body_of
from tests.upgrade.model import PlayedModel, play


@dataclass
class Kept:
    """A session of the database.

    Attributes:
        id: its id.
        head: the number of events in its log when the server was killed.
        acknowledged: the messages that the server answered with 201.
        organization: its organization, if that is not the first one.
        over: why it takes no more messages: `gone` for a deleted one, or the code with which its turns fail.
    """

    id: str
    head: int = 0
    acknowledged: list[Json] = field(default_factory=list)
    organization: str | None = None
    over: str | None = None

    as_json = asdict


class Place:
    """A server, its model, and its sessions. `http` is the owner's client."""

    def __init__(
        self, http: httpx.AsyncClient, model: PlayedModel, sessions: dict[str, Kept] | None = None
    ) -> None:
        self.http = http
        self.model = model
        self.sessions = {} if sessions is None else sessions
        self._turns: dict[str, int] = {}
        self._clients: dict[str, httpx.AsyncClient] = {}

    async def session(self, name: str, organization: str | None = None, **fields: Any) -> Talk:
        """Create a session under this name."""
        http = self.client(organization)
        made = await post(http, "/v1/sessions", {"title": name, **fields})
        return self.adopt(name, made["id"], organization)

    def adopt(self, name: str, session_id: str, organization: str | None = None) -> Talk:
        """Name a session that was created in another way."""
        assert name not in self.sessions
        self.sessions[name] = Kept(session_id, organization=organization)
        return self.talk(name)

    def talk(self, name: str) -> Talk:
        """Return the session of this name."""
        kept = self.sessions[name]
        return Talk(self.client(kept.organization), kept.id)

    def client(self, organization: str | None) -> httpx.AsyncClient:
        """Return a client in this organization."""
        if organization is None:
            return self.http
        if organization not in self._clients:
            headers = {**self.http.headers, "x-org-id": organization}
            self._clients[organization] = httpx.AsyncClient(
                base_url=self.http.base_url, headers=headers, timeout=30
            )
        return self._clients[organization]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients.values():
            await client.aclose()

    def script(self, name: str, *steps: Json, ask: str = "Please.") -> str:
        """Return a message with a script that belongs to this session."""
        self._turns[name] = number = self._turns.get(name, 0) + 1
        kept = self.sessions.get(name)
        prefix = "new" if kept is not None and kept.head else "old"
        return play(f"{name}/{prefix}{number}", *steps, ask=ask)

    async def say(self, name: str, *steps: Json, ask: str = "Please.") -> Json:
        """Post a script; return the message as the server acknowledged it."""
        return await self.tell(name, self.script(name, *steps, ask=ask) if steps else ask)

    async def tell(self, name: str, text: str, **more: Any) -> Json:
        """Post a text; return the message as the server acknowledged it. `more`: other fields of the body."""
        talk = self.talk(name)
        message: Json = await post(talk.http, talk.path("/messages"), body_of(text, **more))
        self.sessions[name].acknowledged.append(message)
        return message

    async def turn(self, name: str, *steps: Json, ask: str = "Please.") -> list[Json]:
        """Post a script and wait until the session is idle; return the events from the message on."""
        message = await self.say(name, *steps, ask=ask)
        return await self.talk(name).logged_until("session.idled", after=message["sequence"] - 1)

    async def held(self, name: str, *steps: Json, ask: str = "Please.", at: int = 0) -> Json:
        """Post a script and wait until the server calls the model for the step that it holds back."""
        text = self.script(name, *steps, ask=ask)
        message = await self.tell(name, text)
        await self.model.until_asked(f"{name}/old{self._turns[name]}", at)
        return message

    async def fresh_until(self, name: str, *kinds: str) -> list[Json]:
        """Return what the current server has logged, up to the first event of these types; wait for it."""
        return await self.talk(name).logged_until(*kinds, after=self.sessions[name].head)
