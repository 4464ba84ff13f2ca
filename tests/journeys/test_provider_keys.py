"""API keys of providers: the vendor is asked before one is stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from aiohttp import web

from perdure.app import provider_keys
from perdure.app import providers as use
from perdure.client import Client
from perdure.domain.providers import CreateProvider
from tests.conformance.drivers.vendor import Reply, Vendor, open_vendor
from tests.inside import Gate, house_with
from tests.server import Server, post
from tests.stub_model import endless_model
from tests.talk import Json
from tests.vendors import CHAT, GOOD, KEY, MESSAGES, RESPONSES, Guarded, listing, reply


@pytest_asyncio.fixture
async def guarded() -> AsyncIterator[Vendor]:
    async with open_vendor(Guarded()) as opened:
        yield opened


@asynccontextmanager
async def scripted(*replies: Reply) -> AsyncIterator[Vendor]:
    async with open_vendor() as vendor:
        vendor.will(*replies)
        yield vendor


def provider_at(vendor: Vendor, key: str | None = KEY, **fields: Any) -> Json:
    url = f"{vendor.url}/v1"
    body = {"name": "Guarded", "provider_type": CHAT.provider_type, "base_url": url, "api_key": key}
    return {**body, **fields}


async def change(http: httpx.AsyncClient, provider: Json, body: Json, status: int = 200) -> Json:
    found = await http.patch(f"/v1/providers/{provider['id']}", json=body)
    assert found.status_code == status, found.text
    answered: Json = found.json()
    return answered


async def of(http: httpx.AsyncClient, provider: Json) -> Json:
    found: Json = (await http.get(f"/v1/providers/{provider['id']}")).json()
    return found


@pytest.mark.parametrize("wire", [CHAT, RESPONSES, MESSAGES], ids=lambda wire: wire.provider_type)
async def test_a_key_that_the_vendor_refuses_is_not_stored(
    api: httpx.AsyncClient, guarded: Vendor, wire: Any
) -> None:
    before = (await api.get("/v1/providers")).json()
    problem = await post(api, "/v1/providers", provider_at(guarded, provider_type=wire.provider_type), 400)
    assert (problem["code"], problem["field"]) == ("provider_key_refused", "api_key")
    assert "Incorrect API key provided: [redacted]" in problem["detail"]
    assert KEY not in str(problem)
    assert (await api.get("/v1/providers")).json() == before
    made = await post(api, "/v1/providers", provider_at(guarded, GOOD, provider_type=wire.provider_type))
    assert made["key_status"] == "valid"
    assert made["key_checked_at"] >= made["created_at"][:10]


async def test_a_changed_key_is_checked_and_a_refused_one_changes_nothing(
    api: httpx.AsyncClient, guarded: Vendor
) -> None:
    made = await post(api, "/v1/providers", provider_at(guarded, GOOD))
    problem = await change(api, made, {"name": "Renamed", "credentials": {"api_key": KEY}}, 400)
    assert problem["code"] == "provider_key_refused"
    assert await of(api, made) == made
    asked = len(guarded.asked)
    renamed = await change(api, made, {"name": "Renamed"})
    assert (renamed["key_status"], renamed["key_checked_at"]) == ("valid", made["key_checked_at"])
    moved = await change(api, made, {"base_url": f"{guarded.url}/other/v1"})
    assert (moved["key_status"], "key_checked_at" in moved) == ("unchecked", False)
    assert len(guarded.asked) == asked
    assert (await change(api, made, {"api_key": GOOD}))["key_status"] == "valid"
    assert "key_status" not in await change(api, made, {"api_key": None})


async def test_check_false_stores_the_key_without_asking(api: httpx.AsyncClient, guarded: Vendor) -> None:
    made = await post(api, "/v1/providers?check=false", provider_at(guarded))
    assert (made["key_status"], "key_checked_at" in made) == ("unchecked", False)
    changed = await api.patch(
        f"/v1/providers/{made['id']}", params={"check": "false"}, json={"api_key": "another-key"}
    )
    assert changed.json()["key_status"] == "unchecked"
    assert guarded.asked == []


UNCLEAR: list[tuple[str, Sequence[Reply]]] = [
    ("busy", [reply({"error": {"message": "busy"}}, 503)]),
    ("no list", [reply({"detail": "Not Found"}, 404)]),
    ("cut", [Reply(before="cut")]),
    ("rate limit", [reply({"error": {"message": "slow down"}}, 429)]),
    ("few scopes", [reply({"error": {"message": "Missing scopes: api.model.read"}}, 403)]),
    ("open to all", [listing("one"), listing("one")]),
]


@pytest.mark.parametrize("replies", [each for _, each in UNCLEAR], ids=[name for name, _ in UNCLEAR])
async def test_an_unclear_answer_stores_the_key_as_unchecked(
    api: httpx.AsyncClient, replies: Sequence[Reply]
) -> None:
    async with scripted(*replies) as vendor:
        made = await post(api, "/v1/providers", provider_at(vendor))
    assert (made["key_status"], "key_checked_at" in made) == ("unchecked", True)


async def test_a_server_that_does_not_answer_holds_up_neither_others_nor_the_key_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others write while the vendor is silent: no transaction is open."""
    assert provider_keys.CHECK_TIMEOUT == 5.0
    monkeypatch.setattr(provider_keys, "CHECK_TIMEOUT", 0.5)
    async with house_with(Gate(1), tmp_path) as house, endless_model(mute=True) as (url, asked, hung_up):
        app, owner = house.parts.app, house.owner
        fields = CreateProvider("Mute", "openai_completions", url, KEY)
        saving = asyncio.create_task(use.create_provider(app, owner, fields))
        await asked.wait()
        await use.create_provider(app, owner, CreateProvider("Meanwhile", "llmsim"))
        assert not saving.done()
        made = await saving
        assert (made.key_status, made.key_checked_at is None) == ("unchecked", False)
        await hung_up.wait()


async def test_a_repeated_request_gets_its_answer_without_asking_again(
    api: httpx.AsyncClient, guarded: Vendor
) -> None:
    once = {"Idempotency-Key": "once-is-enough"}
    body = provider_at(guarded, GOOD)
    first = await api.post("/v1/providers", json=body, headers=once)
    asked = len(guarded.asked)
    again = await api.post("/v1/providers", json=body, headers=once)
    assert (again.status_code, again.json()) == (201, first.json())
    assert len(guarded.asked) == asked


async def test_credentials_are_checked_without_being_stored(api: httpx.AsyncClient, guarded: Vendor) -> None:
    before = (await api.get("/v1/providers")).json()
    body = {"provider_type": CHAT.provider_type, "base_url": f"{guarded.url}/v1"}
    good = await post(api, "/v1/providers/check-credentials", {**body, "api_key": GOOD}, 200)
    assert (good["ok"], good["key_status"], good["models"]) == (True, "valid", 2)
    bad = await post(api, "/v1/providers/check-credentials", {**body, "api_key": KEY}, 200)
    assert (bad["ok"], bad["key_status"], bad["error"]["code"]) == (False, "refused", "provider_auth")
    assert KEY not in str(bad)
    assert (await api.get("/v1/providers")).json() == before
    refused = {**body, "base_url": "http://169.254.169.254/v1", "api_key": GOOD}
    assert (await post(api, "/v1/providers/check-credentials", refused, 400))["field"] == "base_url"


async def test_a_stored_provider_is_checked_and_remembers_the_result(
    api: httpx.AsyncClient, guarded: Vendor
) -> None:
    made = await post(api, "/v1/providers?check=false", provider_at(guarded))
    found = await post(api, f"/v1/providers/{made['id']}/check", None, 200)
    assert (found["ok"], found["key_status"]) == (False, "refused")
    after = await of(api, made)
    assert (after["key_status"], after["updated_at"]) == ("refused", made["updated_at"])
    keyless = await post(api, "/v1/providers", provider_at(guarded, None))
    assert "key_status" not in keyless
    vendor = await post(api, "/v1/providers", {"name": "No key", "provider_type": "openai"})
    problem = await post(api, f"/v1/providers/{vendor['id']}/check", None, 400)
    assert problem["code"] == "api_key_missing"
    simulated = await post(api, "/v1/providers", {"name": "S", "provider_type": "llmsim"})
    assert (await post(api, f"/v1/providers/{simulated['id']}/check", None, 200))["ok"] is True


async def test_a_check_says_nothing_about_settings_that_were_changed_meanwhile(
    sqlite_server: Server,
) -> None:
    class Changing(Guarded):
        """Its provider is changed while it is asked."""

        async def handle(self, request: web.Request) -> web.StreamResponse:
            await change(http, made, {"provider_type": "openai"})
            return await super().handle(request)

    async with (
        open_vendor(Changing()) as vendor,
        httpx.AsyncClient(base_url=sqlite_server.url) as http,
    ):
        made = await post(http, "/v1/providers?check=false", provider_at(vendor, GOOD))
        found = await post(http, f"/v1/providers/{made['id']}/check", None, 200)
        assert found["key_status"] == "valid"
        assert (await of(http, made))["key_status"] == "unchecked"


async def test_the_client_checks_and_stores_keys(shared_server: Server, guarded: Vendor) -> None:
    async with Client(shared_server.url) as client:
        base = f"{guarded.url}/v1"
        made = await client.create_provider_unchecked(
            name="Unchecked", provider_type=CHAT.provider_type, base_url=base, api_key=KEY
        )
        assert made.key_status == "unchecked"
        assert (await client.check_provider(made.id)).key_status == "refused"
        changed = await client.update_provider_unchecked(made.id, api_key=GOOD)
        assert changed.key_status == "unchecked"
        found = await client.check_provider_credentials(
            provider_type=CHAT.provider_type, api_key=GOOD, base_url=base
        )
        assert (found.key_status, found.models) == ("valid", 2)
