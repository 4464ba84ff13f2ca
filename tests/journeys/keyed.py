"""A server that asks for a login, and people of several organizations who have one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.server import Server, post, use_simulated_model


async def with_login(server: Server) -> str:
    """Set a running server up: the simulated model, and a first token, from which on it asks for one.

    The token.
    """
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        await use_simulated_model(http)
        token = await post(http, "/v1/users/me/tokens", {"name": "first"})
    await server.restart()
    return str(token["token"])


@asynccontextmanager
async def person(
    server: Server, token: str, organization: str | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """A client with this token, in that organization."""
    headers = {"authorization": f"Bearer {token}"} | ({"x-org-id": organization} if organization else {})
    async with httpx.AsyncClient(base_url=server.url, timeout=30, headers=headers) as http:
        yield http


async def add_member(http: httpx.AsyncClient, name: str, role: str = "member") -> tuple[dict[str, Any], str]:
    """A new user of the client's organization, and a token of theirs.

    Tokens are made for lower roles only, so the user gets the role afterwards.
    """
    user = await post(http, "/v1/users", {"email": f"{name}@example.com", "name": name, "role": "member"})
    token = await post(http, f"/v1/users/{user['id']}/tokens", {"name": name})
    if role != "member":
        raised = await http.patch(f"/v1/users/{user['id']}", json={"role": role})
        assert raised.status_code == 200, raised.text
        user = raised.json()
    return user, token["token"]
