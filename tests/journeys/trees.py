"""Files over HTTP, for the journeys that use them."""

from __future__ import annotations

import asyncio
import hashlib
from urllib.parse import urlsplit

from tests.server import Server
from tests.talk import Json, Talk


class Tree:
    """The files of a session, through one of its two addresses."""

    def __init__(self, talk: Talk, base: str) -> None:
        self.talk = talk
        self.http = talk.http
        self.base = base

    def url(self, path: str) -> str:
        return f"{self.base}/fs/{path.lstrip('/')}"

    async def create(self, path: str, status: int = 201, **body: object) -> Json:
        return await self._json("POST", self.url(path), status, json=body)

    async def put(
        self, path: str, status: int = 200, *, headers: dict[str, str] | None = None, **body: object
    ) -> Json:
        return await self._json("PUT", self.url(path), status, json=body, headers=headers)

    async def read(self, path: str, status: int = 200, **query: object) -> Json:
        return await self._json("GET", self.url(path), status, params=query)

    async def delete(
        self, path: str, status: int = 200, *, headers: dict[str, str] | None = None, **query: object
    ) -> Json:
        return await self._json("DELETE", self.url(path), status, params=query, headers=headers)

    async def act(self, name: str, status: int = 200, **body: object) -> Json:
        return await self._json("POST", f"{self.base}/fs/_/{name}", status, json=body)

    async def paths(self, path: str = "", **query: object) -> list[str]:
        url = self.url(path) if path else f"{self.base}/fs"
        found = await self._json("GET", url, 200, params=query)
        return [each["path"] for each in found["data"]]

    async def told(self) -> list[tuple[str, str, bool, int]]:
        """What the log says about files."""
        every = [event["data"] for event in await self.talk.events(types="file.written")]
        return [(each["operation"], each["path"], each["created"], each["size_bytes"]) for each in every]

    async def _json(self, method: str, url: str, status: int, **request: object) -> Json:
        answer = await self.http.request(method, url, **request)  # type: ignore[arg-type]
        assert answer.status_code == status, (answer.status_code, answer.text)
        found: Json = answer.json()
        return found


def code(problem: Json) -> str:
    return str(problem["code"])


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def raw(server: Server, method: str, target: str, body: bytes = b"") -> tuple[int, bytes]:
    """A request with exactly this target, which no client has put in order.

    The status, and the whole answer.
    """
    url = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        head = f"{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode("latin-1") + body)
        answer = await asyncio.wait_for(reader.read(), 30)
        return int(answer.split(b" ", 2)[1]), answer
    finally:
        writer.close()
