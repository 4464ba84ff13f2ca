"""Providers with a scripted vendor, for journeys."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
from aiohttp import web

from tests.conformance.drivers.protocols import WIRES, Counts, Wire
from tests.conformance.drivers.vendor import JSON, Reply, Vendor
from tests.server import post
from tests.talk import Json

CHAT, RESPONSES, MESSAGES = WIRES
KEY = "sk-very-secret-0123456789"
GOOD = "sk-good-key-0123456789"


async def vendor_provider(http: httpx.AsyncClient, vendor: Vendor, wire: Wire = CHAT, **fields: Any) -> Json:
    """Create a provider with the scripted vendor's URL; its key is not checked, which would take a reply."""
    body = {
        "name": "Scripted",
        "provider_type": wire.provider_type,
        "base_url": f"{vendor.url}/v1",
        "api_key": KEY,
        **fields,
    }
    made: Json = await post(http, "/v1/providers?check=false", body)
    return made


async def new_model(
    http: httpx.AsyncClient, provider: Json, model_id: str = "model-1", **fields: Any
) -> Json:
    """Register a model of a provider."""
    body = {"model_id": model_id, "display_name": "Model", **fields}
    made: Json = await post(http, f"/v1/providers/{provider['id']}/models", body)
    return made


def listing(*models: str | Json) -> Reply:
    """Build the answer of a list endpoint."""
    return reply(
        {"object": "list", "data": [{"id": each} if isinstance(each, str) else each for each in models]}
    )


def reply(value: Any, status: int = 200) -> Reply:
    """Build a JSON answer."""
    return Reply([msgspec.json.encode(value)], status, dict(JSON))


def answer(text: str = "Done.", wire: Wire = CHAT, counts: Counts = Counts()) -> Reply:  # noqa: B008
    """Build a complete text answer."""
    return Reply(wire.answer(text=[text], counts=counts))


WRONG = {"error": {"message": f"Incorrect API key provided: {KEY}", "code": "invalid_api_key"}}


class Guarded(Vendor):
    """A vendor that lists its models to those with the good key only."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        keys = (request.headers.get("authorization"), request.headers.get("x-api-key"))
        self.will(listing("one", "two") if {f"Bearer {GOOD}", GOOD} & set(keys) else reply(WRONG, 401))
        return await super().handle(request)
