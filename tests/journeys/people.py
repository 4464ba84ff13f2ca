"""What journeys over agents and harnesses share."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.conformance.drivers.protocols import ChatWire
from tests.conformance.drivers.vendor import Reply, Vendor, open_vendor
from tests.server import post
from tests.talk import Json

LOOK_UP = {
    "type": "client_side",
    "name": "look_up",
    "description": "Look an order up.",
    "parameters": {"type": "object"},
}
PROMPT = "You answer questions about orders, in one sentence each."


def fresh(word: str) -> str:
    """A name that nothing else has."""
    return f"{word}-{uuid.uuid4().hex[:12]}"


async def get(http: httpx.AsyncClient, path: str, status: int = 200, **query: Any) -> Any:
    """GET and expect a status; the answer's JSON."""
    answer = await http.get(path, params=query)
    assert answer.status_code == status, answer.text
    return answer.json()


async def patch(http: httpx.AsyncClient, path: str, body: Json, status: int = 200) -> Json:
    """PATCH and expect a status; the answer's JSON."""
    answer = await http.patch(path, json=body)
    assert answer.status_code == status, answer.text
    found: Json = answer.json()
    return found


async def new_agent(http: httpx.AsyncClient, **fields: Any) -> Json:
    """A fresh agent under a fresh name."""
    made: Json = await post(http, "/v1/agents", {"name": fresh("desk"), "system_prompt": PROMPT, **fields})
    return made


async def new_harness(http: httpx.AsyncClient, **fields: Any) -> Json:
    """A fresh harness under a fresh name."""
    made: Json = await post(http, "/v1/harnesses", {"name": fresh("house"), **fields})
    return made


async def elsewhere(http: httpx.AsyncClient) -> dict[str, str]:
    """Headers that work in another organization of the same user."""
    return {"X-Org-Id": (await post(http, "/v1/orgs", {"name": "Elsewhere"}))["id"]}


def without(resource: Json, *names: str) -> Json:
    """The resource without these fields, and without what goes with its id."""
    left_out = {
        *names,
        "id",
        "self_url",
        "view_url",
        "ui_link",
        "allowed_actions",
        "created_at",
        "updated_at",
    }
    return {name: value for name, value in resource.items() if name not in left_out}


class Model:
    """A model whose vendor keeps what it was sent, and answers each call with a word."""

    def __init__(self, model_id: str, vendor: Vendor) -> None:
        self.id = model_id
        self._vendor = vendor

    def will_answer(self) -> None:
        """Answer one more call."""
        self._vendor.will(Reply(ChatWire().answer(["Yes."])))

    @property
    def told(self) -> str:
        """The system prompt of the last call."""
        return str(self._vendor.sent["messages"][0]["content"])

    @property
    def tools(self) -> list[str]:
        """The names of the tools of the last call."""
        return [each["function"]["name"] for each in self._vendor.sent.get("tools", [])]


@asynccontextmanager
async def watched_model(http: httpx.AsyncClient) -> AsyncIterator[Model]:
    """A model of a vendor in this process."""
    async with open_vendor() as vendor:
        place = {
            "name": "Watched",
            "provider_type": "openai_completions",
            "base_url": f"{vendor.url}/v1",
            "api_key": "key",
        }
        provider = await post(http, "/v1/providers?check=false", place)
        model = await post(
            http, f"/v1/providers/{provider['id']}/models", {"model_id": "watched", "display_name": "Watched"}
        )
        yield Model(model["id"], vendor)
        assert (await http.delete(f"/v1/providers/{provider['id']}")).status_code == 204
