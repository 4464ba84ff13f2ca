"""Models: discovered from their provider's list, with limits for prompts and prices for calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from perdure.client import Client
from perdure.domain.messages import Usage
from perdure.domain.model_profiles import ModelCost, ModelProfile
from perdure.domain.providers import SyncedModels, SyncNotSupported
from perdure.llm.catalog import Catalog, ServedModel
from perdure.store.sessions import look_session
from tests.conformance.drivers.protocols import Counts
from tests.conformance.drivers.vendor import Reply, Vendor, open_vendor
from tests.inside import Gate, house_with
from tests.server import Server, post
from tests.talk import PATIENCE, Json, new_talk, script
from tests.vendors import CHAT, KEY, MESSAGES, RESPONSES, answer, listing, new_model, reply, vendor_provider


@pytest_asyncio.fixture
async def vendor() -> AsyncIterator[Vendor]:
    async with open_vendor() as opened:
        yield opened


async def sync(http: httpx.AsyncClient, provider: Json, status: int = 200) -> Json:
    return await post(http, f"/v1/providers/{provider['id']}/sync-models", None, status)  # type: ignore[no-any-return]


async def models(http: httpx.AsyncClient, provider: Json, **query: Any) -> list[Json]:
    found = await http.get(f"/v1/providers/{provider['id']}/models", params=query)
    assert found.status_code == 200, found.text
    listed: list[Json] = found.json()["data"]
    return listed


def names(listed: list[Json]) -> list[str]:
    return [each["model_id"] for each in listed]


# --- the provider's own list ----------------------------------------------------


async def test_a_providers_list_is_read_repeatedly(api: httpx.AsyncClient, vendor: Vendor) -> None:
    provider = await vendor_provider(api, vendor)
    by_hand = await new_model(api, provider, "by-hand")
    vendor.will(
        listing(
            "alpha-1",
            {"id": "beta-1", "display_name": "Beta", "context_length": 8192},
            "text-embedding-3-small",
        )
    )
    assert await sync(api, provider) == {"status": "success", "created": 3, "updated": 0, "stale": 0}
    assert vendor.asked[-1].headers["authorization"] == f"Bearer {KEY}"
    found = await models(api, provider)
    assert names(found) == ["by-hand", "alpha-1", "beta-1", "text-embedding-3-small"]
    assert [each["source"] for each in found] == ["manual", "discovered", "discovered", "discovered"]
    assert [each["enabled"] for each in found] == [True, True, True, False]
    assert [each.get("context_tokens") for each in found] == [None, None, 8192, None]
    assert [each["display_name"] for each in found] == ["Model", "alpha-1", "Beta", "text-embedding-3-small"]
    synced = (await api.get(f"/v1/providers/{provider['id']}")).json()
    assert synced["last_synced_at"] <= synced["updated_at"]
    assert synced["updated_at"] > provider["updated_at"]

    await api.patch(f"/v1/models/{found[1]['id']}", json={"display_name": "My alpha", "is_favorite": True})
    vendor.will(
        listing(
            {"id": "alpha-1", "display_name": "Alpha", "context_length": 4096},
            "gamma-1",
            "text-embedding-3-small",
        )
    )
    assert await sync(api, provider) == {"status": "success", "created": 1, "updated": 1, "stale": 1}
    found = await models(api, provider)
    assert names(found) == ["by-hand", "alpha-1", "text-embedding-3-small", "gamma-1"]
    assert (found[1]["display_name"], found[1]["context_tokens"], found[1]["is_favorite"]) == (
        "My alpha",
        4096,
        True,
    )
    assert found[0]["id"] == by_hand["id"]
    assert "stale_since" not in found[0]


async def test_a_model_that_is_no_longer_listed_is_hidden_until_it_is_listed_again(
    api: httpx.AsyncClient, vendor: Vendor
) -> None:
    provider = await vendor_provider(api, vendor)
    vendor.will(
        listing("alpha-1", "beta-1"), listing("alpha-1"), listing("alpha-1"), listing("alpha-1", "beta-1")
    )
    await sync(api, provider)
    beta = (await models(api, provider))[1]
    assert await sync(api, provider) == {"status": "success", "created": 0, "updated": 0, "stale": 1}
    assert names(await models(api, provider)) == ["alpha-1"]
    assert beta["id"] not in {each["id"] for each in (await api.get("/v1/models")).json()["data"]}
    stale = (await models(api, provider, include_stale=True))[1]
    assert (stale["id"], stale["healthy"], stale["stale_since"]) == (beta["id"], False, stale["updated_at"])
    everything = (await api.get("/v1/models", params={"include_stale": True})).json()["data"]
    assert beta["id"] in {each["id"] for each in everything}
    assert (await api.get(f"/v1/models/{beta['id']}")).json() == stale
    assert await sync(api, provider) == {"status": "success", "created": 0, "updated": 0, "stale": 1}
    assert (await models(api, provider, include_stale=True))[1] == stale
    assert await sync(api, provider) == {"status": "success", "created": 0, "updated": 1, "stale": 0}
    again = (await models(api, provider))[1]
    assert (again["id"], again["healthy"], "stale_since" in again) == (beta["id"], True, False)


@pytest.mark.parametrize("wire", [CHAT, RESPONSES, MESSAGES], ids=lambda wire: wire.provider_type)
async def test_every_provider_type_lists_its_models(
    api: httpx.AsyncClient, vendor: Vendor, wire: Any
) -> None:
    provider = await vendor_provider(api, vendor, wire)
    vendor.will(listing("one"))
    assert (await sync(api, provider))["created"] == 1


async def test_the_simulated_model_has_no_list(api: httpx.AsyncClient) -> None:
    provider = await post(api, "/v1/providers", {"name": "Simulated", "provider_type": "llmsim"})
    assert await sync(api, provider) == {"status": "not_supported"}
    assert not any(action["rel"] == "sync" for action in provider["allowed_actions"])


@pytest.mark.parametrize(
    ("said", "status", "code", "field"),
    [
        (
            reply({"error": {"message": f"Incorrect API key: {KEY}", "code": "invalid_api_key"}}, 401),
            400,
            "provider_auth",
            "api_key",
        ),
        (
            reply({"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}, 429),
            400,
            "quota_exceeded",
            "api_key",
        ),
        (reply({"detail": "Not Found"}, 404), 400, "models_not_listed", "base_url"),
        (reply({"error": {"message": "bad version header"}}, 400), 400, "invalid_model_request", "base_url"),
        (reply({"error": {"message": "busy"}}, 503), 502, "provider_unavailable", None),
        (
            reply({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, 429),
            502,
            "provider_rate_limited",
            None,
        ),
        (reply({"data": "none"}), 502, "provider_bad_response", None),
        (
            Reply([b"<html>Hello</html>"], headers={"Content-Type": "text/html"}),
            502,
            "provider_bad_response",
            None,
        ),
        (Reply(before="cut"), 502, "provider_unavailable", None),
    ],
    ids=["key", "quota", "no list", "request", "busy", "rate", "no models", "a page", "cut"],
)
async def test_a_list_that_cannot_be_read_says_why_and_changes_nothing(
    api: httpx.AsyncClient, vendor: Vendor, said: Reply, status: int, code: str, field: str | None
) -> None:
    provider = await vendor_provider(api, vendor)
    vendor.will(said, said)
    problem = await sync(api, provider, status)
    assert (problem["code"], problem.get("field")) == (code, field)
    assert KEY not in str(problem)
    assert await models(api, provider) == []
    assert (await api.get(f"/v1/providers/{provider['id']}")).json() == provider


async def test_syncing_an_unknown_provider_is_not_found(api: httpx.AsyncClient) -> None:
    body = {"name": "Nobody", "provider_type": "openai_completions", "base_url": "http://127.0.0.1:9/v1"}
    provider = await post(api, "/v1/providers", body)
    assert (await sync(api, provider, 502))["code"] == "provider_unavailable"


async def test_the_client_syncs_models_and_reads_profiles(shared_server: Server, vendor: Vendor) -> None:
    async with Client(shared_server.url) as client:
        simulated = await client.create_provider(name="Simulated", provider_type="llmsim")
        assert await client.sync_models(simulated.id) == SyncNotSupported()
        provider = await client.create_provider(
            name="Scripted", provider_type="openai_completions", base_url=vendor.url
        )
        vendor.will(listing("gpt-oss-20b"))
        assert await client.sync_models(provider.id) == SyncedModels(1, 0, 0)
        (model,) = await client.list_provider_models(provider.id)
        assert isinstance(model.profile, ModelProfile)
        assert (model.profile.open_weights, model.healthy, model.model_vendor) == (True, True, "openai")


async def test_odd_and_endless_lists_are_bounded(api: httpx.AsyncClient, vendor: Vendor) -> None:
    provider = await vendor_provider(api, vendor)
    odd: list[Any] = [
        "",
        " padded",
        "x" * 201,
        "tab\there",
        7,
        None,
        {"name": 3},
        {"id": "twice"},
        {"id": "twice"},
        {"id": "emoji-😀"},
    ]
    vendor.will(listing(*odd), listing(*(f"model-{number}" for number in range(3_000))))
    assert (await sync(api, provider))["created"] == 2
    assert names(await models(api, provider)) == ["twice", "emoji-😀"]
    assert await sync(api, provider) == {"status": "success", "created": 2_000, "updated": 0, "stale": 2}


async def test_concurrent_syncs_do_not_register_a_model_twice(api: httpx.AsyncClient, vendor: Vendor) -> None:
    provider = await vendor_provider(api, vendor)
    listed = [f"model-{number}" for number in range(50)]
    vendor.will(*(listing(*listed) for _ in range(4)))
    done = await asyncio.gather(*(sync(api, provider) for _ in range(4)))
    assert sum(each["created"] for each in done) == 50
    assert len(await models(api, provider)) == 50


async def test_the_only_model_of_the_first_provider_becomes_the_default(
    any_server: Server, vendor: Vendor
) -> None:
    async with httpx.AsyncClient(base_url=any_server.url, timeout=30) as client:
        provider = await vendor_provider(client, vendor)
        vendor.will(listing("alpha-1", "beta-1"), listing("beta-1", "text-embedding-3-small"))
        await sync(client, provider)
        assert (await client.get("/v1/orgs")).json()["data"][0].get("default_model_id") is None
        await sync(client, provider)
        beta = next(each for each in await models(client, provider) if each["model_id"] == "beta-1")
        assert (await client.get("/v1/orgs")).json()["data"][0]["default_model_id"] == beta["id"]


# --- what is known about a model ------------------------------------------------


async def test_a_vendors_model_comes_with_limits_and_prices(api: httpx.AsyncClient) -> None:
    provider = await post(
        api, "/v1/providers?check=false", {"name": "OpenAI", "provider_type": "openai", "api_key": KEY}
    )
    model = await new_model(api, provider, "gpt-5-mini")
    found = (await api.get(f"/v1/models/{model['id']}")).json()
    assert (found["provider_name"], found["provider_type"], found["model_vendor"], found["healthy"]) == (
        "OpenAI",
        "openai",
        "openai",
        True,
    )
    profile = found["profile"]
    assert profile["limits"] == {"context": 400_000, "output": 128_000}
    assert profile["cost"]["input"] < profile["cost"]["output"]
    assert profile["cost"]["cache_read"] < profile["cost"]["input"]
    assert profile["modalities"] == {"input": ["text", "image"], "output": ["text"]}
    assert profile["reasoning_effort"]["default"] == "medium"
    assert (profile["tool_call"], profile["reasoning"], profile["temperature"], profile["open_weights"]) == (
        True,
        True,
        False,
        False,
    )
    assert found in (await api.get("/v1/models")).json()["data"]
    assert found in await models(api, provider)


async def test_an_unknown_model_has_no_profile(api: httpx.AsyncClient, vendor: Vendor) -> None:
    model = await new_model(api, await vendor_provider(api, vendor), "home-made")
    found = (await api.get(f"/v1/models/{model['id']}")).json()
    assert not {"profile", "model_vendor"} & set(found)


async def test_models_are_listed_by_source_and_favorite(api: httpx.AsyncClient, vendor: Vendor) -> None:
    provider = await vendor_provider(api, vendor)
    mine = await new_model(api, provider, "by-hand", is_favorite=True)
    vendor.will(listing("alpha-1"))
    await sync(api, provider)
    (alpha,) = [each for each in await models(api, provider) if each["source"] == "discovered"]

    async def listed(**query: Any) -> set[str]:
        return {each["id"] for each in (await api.get("/v1/models", params=query)).json()["data"]} & {
            mine["id"],
            alpha["id"],
        }

    assert await listed() == {mine["id"], alpha["id"]}
    assert await listed(source="discovered") == {alpha["id"]}
    assert await listed(source="manual") == {mine["id"]}
    assert await listed(source="predefined") == set()
    assert await listed(favorites_only=True) == {mine["id"]}
    assert (await api.get("/v1/models", params={"source": "guessed"})).status_code == 400


async def test_a_model_can_move_to_another_provider(api: httpx.AsyncClient, vendor: Vendor) -> None:
    first, second = await vendor_provider(api, vendor), await vendor_provider(api, vendor, name="Second")
    vendor.will(listing({"id": "alpha-1", "context_length": 4096}))
    await sync(api, first)
    (alpha,) = await models(api, first)
    path = f"/v1/models/{alpha['id']}"
    moved = (await api.patch(path, json={"provider_id": second["id"]})).json()
    assert (moved["provider_id"], "context_tokens" in moved) == (second["id"], False)
    assert await models(api, first) == []
    assert names(await models(api, second)) == ["alpha-1"]
    assert (await api.patch(path, json={"provider_id": "provider_1"})).status_code == 400
    nowhere = await api.patch(path, json={"provider_id": f"provider_{'0' * 32}"})
    assert (nowhere.status_code, nowhere.json()["code"]) == (404, "provider_not_found")


async def test_a_disabled_model_is_replaced_by_the_organizations_default(
    api: httpx.AsyncClient, vendor: Vendor
) -> None:
    model = await new_model(api, await vendor_provider(api, vendor), enabled=False)
    talk = await new_talk(api, model_id=model["id"])
    await talk.say("Hi.")
    events = await talk.logged_until("session.idled")
    (call,) = [event["data"]["metadata"] for event in events if event["type"] == "llm.generation"]
    assert (call["provider"], call["success"]) == ("llmsim", True)


# --- limits ----------------------------------------------------------------------


async def test_a_small_window_limits_the_history_and_a_large_one_gets_all_of_it(
    api: httpx.AsyncClient, vendor: Vendor
) -> None:
    provider = await vendor_provider(api, vendor)
    vendor.will(
        listing({"id": "small", "meta": {"n_ctx": 2_048}}, {"id": "large", "context_length": 100_000})
    )
    await sync(api, provider)
    small, large = await models(api, provider)
    harness = next(each for each in (await api.get("/v1/harnesses")).json()["data"] if each["name"] == "base")
    talk = await new_talk(api, harness_id=harness["id"])

    async def say(model: Json) -> list[str]:
        """Send a message of about 250 tokens; return the user messages that the model got."""
        vendor.will(answer())
        message = await talk.say(f"{len(vendor.asked)} " + "x" * 1_000, controls={"model_id": model["id"]})
        await talk.logged_until("session.idled", after=message["sequence"])
        return [each["content"].split()[0] for each in vendor.sent["messages"] if each["role"] == "user"]

    shown = [await say(small) for _ in range(8)]
    assert shown[0] == ["1"]
    assert all(seen[-1] == str(number) for number, seen in enumerate(shown, 1))
    assert max(map(len, shown)) <= 6
    assert "1" not in shown[-1]
    assert await say(large) == [str(number) for number in range(1, 10)]
    assert len(await say(small)) <= 6
    assert len(await say(large)) == 11


async def test_a_prompt_that_is_too_long_for_one_model_may_fit_another(
    api: httpx.AsyncClient, vendor: Vendor
) -> None:
    provider = await vendor_provider(api, vendor)
    narrow, wide = await new_model(api, provider, "narrow"), await new_model(api, provider, "wide")
    talk = await new_talk(api, harness_name="base")

    async def say(model: Json, *replies: Reply) -> int:
        vendor.will(*replies)
        message = await talk.say("x" * 400, controls={"model_id": model["id"]})
        await talk.logged_until("session.idled", after=message["sequence"])
        return sum(each["role"] == "user" for each in vendor.sent["messages"])

    for expected in range(1, 7):
        assert await say(wide, answer()) == expected
    too_long = reply(
        {"error": {"message": "maximum context length exceeded", "code": "context_length_exceeded"}}, 400
    )
    after_halving = await say(narrow, too_long, answer())
    assert after_halving < 7
    assert await say(narrow, answer()) <= after_halving + 1
    assert await say(wide, answer()) == 9


# --- costs -----------------------------------------------------------------------


class Priced(Catalog):
    """A catalog whose price lookup takes a moment, and finds a price for everything."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[ServedModel, ModelProfile | None] = {}
        self.asked = 0
        self.let = asyncio.Event()

    def is_ready(self, place: ServedModel) -> bool:
        return place in self.known

    def at_hand(self, place: ServedModel) -> ModelProfile | None:
        return self.known.get(place)

    async def profile(self, place: ServedModel) -> ModelProfile | None:
        self.asked += 1
        await self.let.wait()
        cost = ModelCost(input=10.0, output=100.0, cache_read=1.0)
        self.known[place] = ModelProfile("m", "m", False, False, True, True, False, False, cost=cost)
        return self.known[place]


async def test_each_call_and_the_session_report_their_cost(tmp_path: Path) -> None:
    async with house_with(Gate(1), tmp_path, catalog=(catalog := Priced())) as house:
        usage = {"input_tokens": 1_000, "output_tokens": 10, "cache_read_tokens": 400}
        await house.say(script({"text": "One.", "usage": usage}))
        catalog.let.set()
        first = await house.until_idle()
        await house.say(script({"text": "Two.", "usage": {"input_tokens": 100, "output_tokens": 0}}))
        events = await house.until_idle()
        row = await house.parts.database.read(lambda tx: look_session(tx, house.session_id))
    dollars = (600 * 10 + 400 * 1 + 10 * 100) / 1_000_000
    (call,) = [event.decoded().metadata for event in first if event.type == "llm.generation"]
    assert call.usage == Usage(1_000, 10, 400, None, pytest.approx(dollars))
    for kind in ("output.message.completed", "reason.completed", "turn.completed", "session.idled"):
        (event,) = [each for each in first if each.type == kind]
        assert event.decoded().usage.estimated_cost_usd == pytest.approx(dollars), kind
    assert [
        event.decoded().metadata.usage.estimated_cost_usd
        for event in events
        if event.type == "llm.generation"
    ] == pytest.approx([dollars, 0.001])
    assert row is not None
    assert row.usage is not None
    assert f"{dollars + 0.001:.6f}"[:7] in row.usage
    assert catalog.asked == 1


async def test_a_cancelled_turn_leaves_no_price_lookup_running(tmp_path: Path) -> None:
    async with house_with(Gate(1), tmp_path, catalog=(catalog := Priced())) as house:
        await house.say(script({"text": "one two three four", "delay_ms": 5_000}))
        while not catalog.asked:
            await asyncio.sleep(0.01)
        await house.cancel()
        await house.until_idle()
        async with asyncio.timeout(PATIENCE):
            while any("Priced.profile" in repr(task) for task in asyncio.all_tasks()):
                await asyncio.sleep(0.01)


async def test_a_model_without_a_price_has_no_cost(api: httpx.AsyncClient, vendor: Vendor) -> None:
    model = await new_model(api, await vendor_provider(api, vendor))
    vendor.will(answer(counts=Counts(given=100, made=7, read=60)))
    talk = await new_talk(api, model_id=model["id"])
    await talk.say("Hi.")
    await talk.logged_until("session.idled")
    assert (await talk.read())["usage"] == {"input_tokens": 100, "output_tokens": 7, "cache_read_tokens": 60}
