"""A server with something in it, for tests that send it what it must refuse."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any, NoReturn
from urllib.parse import urlsplit
from uuid import uuid4

import httpx

from perdure.api.kernel.route import Route
from perdure.domain.ids import new_id
from perdure.routing import ThisProcess, all_routes
from perdure.settings import Settings
from tests.error_codes import EXPLAINED
from tests.server import Server, post

ROUTES = all_routes(Settings(), ThisProcess())


def strictly(raw: bytes) -> Any:
    """JSON as a strict reader takes it."""

    def refuse(word: str) -> NoReturn:
        raise ValueError(word)

    return json.loads(raw.decode("utf-8"), parse_constant=refuse)


PAGES = "/v1/oauth/"
"""The paths of what people see in a browser."""


def complaint(answer: httpx.Response) -> str | None:
    """What is wrong with the answer to a bad request; None when it is as the contract has it."""
    if not 400 <= answer.status_code < 500:
        return f"{answer.status_code} {answer.text[:120]!r}"
    if answer.headers["content-type"].startswith("text/html") and answer.request.url.path.startswith(PAGES):
        return None if "<p>Code: " in answer.text else f"a page without a code: {answer.text[:120]!r}"
    if answer.headers["content-type"] != "application/problem+json":
        return f"content type {answer.headers['content-type']}"
    body = strictly(answer.content)
    if not {"type", "title", "status", "detail", "code", "error"} <= set(body):
        return f"fields {sorted(body)}"
    if body["status"] != answer.status_code or body["error"] != {
        "code": body["code"],
        "message": body["detail"],
    }:
        return f"contradicts itself: {body}"
    if body["code"] not in EXPLAINED or body["type"] != f"/docs/errors#{body['code']}":
        return f"unknown code {body['code']}"
    return None if body["title"] and body["detail"] else "no words"


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """The status and code of a proper refusal."""
    assert complaint(answer) is None, answer.text
    return answer.status_code, answer.json()["code"]


class World:
    """A server with one resource of each kind, and what it holds."""

    def __init__(self, server: Server, http: httpx.AsyncClient) -> None:
        self.server = server
        self.http = http
        self.ids: dict[str, str] = {}

    async def fill(self) -> None:
        http = self.http
        models = (await http.get("/v1/models")).json()["data"]
        self.ids = {"model": models[0]["id"], "provider": models[0]["provider_id"]}
        self.ids["org"] = (await http.get("/v1/orgs")).json()["data"][0]["id"]
        name = f"kept-{uuid4().hex[:12]}"
        self.ids["agent"] = (await post(http, "/v1/agents", {"name": name, "system_prompt": "Help."}))["id"]
        self.ids["harness"] = (await post(http, "/v1/harnesses", {"name": name}))["id"]
        self.ids["session"] = (await post(http, "/v1/sessions", {"title": "kept", "tags": ["kept"]}))["id"]
        self.ids["workspace"] = (await post(http, "/v1/workspaces", {"name": name}))["id"]
        for place in ("session", "workspace"):
            await post(http, f"/v1/{place}s/{self.ids[place]}/fs/kept.md", {"content": "kept"})

    def path(self, route: Route, **given: str) -> str:
        """The route's path with ids that exist, or at least could."""
        return re.sub(
            r"{(\w+)}", lambda match: given.get(match[1]) or self.id_for(route, match[1]), route.path
        )

    def id_for(self, route: Route, name: str) -> str:
        kind = route.ids.get(name) or name.removesuffix("_id")
        return self.ids.get(kind) or (new_id(kind) if name in route.ids else "nothing")

    async def state(self) -> dict[str, Any]:
        """Everything that the routes show, read strictly."""
        ids = self.ids
        session = f"/v1/sessions/{ids['session']}"
        paths = [
            session,
            f"{session}/events?limit=1000",
            f"{session}/messages",
            "/v1/sessions?limit=100",
            f"/v1/agents/{ids['agent']}",
            "/v1/agents?limit=100&include_archived=true",
            f"/v1/harnesses/{ids['harness']}",
            "/v1/harnesses?include_archived=true",
            f"{session}/fs?recursive=true",
            f"/v1/workspaces/{ids['workspace']}",
            f"/v1/workspaces/{ids['workspace']}/fs?recursive=true",
            "/v1/providers",
            "/v1/models",
            f"/v1/orgs/{ids['org']}",
            "/v1/users",
            "/v1/users/me/tokens",
        ]
        found = {}
        for path in paths:
            answer = await self.http.get(path)
            assert answer.status_code == 200, (path, answer.text)
            found[path] = strictly(answer.content)
        return found

    async def send(self, route: Route, path: str | None = None, **request: Any) -> httpx.Response:
        return await self.http.request(route.method, path or self.path(route), **request)


async def watched(server: Server, http: httpx.AsyncClient) -> AsyncIterator[World]:
    """A filled server.

    Whatever a test sends it, it must be alive, have logged no mistake, and show all that it holds.
    """
    made = World(server, http)
    await made.fill()
    before = len(server.log.read_text())
    yield made
    await made.state()
    assert (await http.get("/health")).status_code == 200
    assert "Traceback" not in server.log.read_text()[before:]


def head(method: str, path: str, headers: dict[str, str]) -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1",
        "host: localhost",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


async def raw_exchange(server: Server, data: bytes, seconds: float = 30) -> tuple[int, Any]:
    """Send bytes over a connection of their own; the status and the JSON of the answer within `seconds`."""
    url = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        writer.write(data)
        lines = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), seconds)).decode().split("\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        assert fields["content-type"] == "application/problem+json"
        return int(lines[0].split()[1]), strictly(
            await asyncio.wait_for(reader.readexactly(int(fields["content-length"])), 30)
        )
    finally:
        writer.close()
