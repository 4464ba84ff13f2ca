"""Models that cannot be called: the next one is, and the log says which were skipped and why."""

from __future__ import annotations

import httpx
import pytest

from tests.conformance.drivers.protocols import WIRES, Wire
from tests.conformance.drivers.vendor import JSON, Reply, Vendor
from tests.journeys.test_fallbacks import (
    ask,
    data_of,
    error,
    model_at,
    spare,
    sqlite_api,
    vendor,
)
from tests.server import post
from tests.talk import Json, Talk, kinds_of, new_talk
from tests.vendors import CHAT, KEY, answer, new_model

__all__ = ["spare", "sqlite_api", "vendor"]

LATER = JSON | {"Retry-After": "3600"}
"""Nothing is to be had from waiting for a key."""
LIMITED = error(CHAT, 429, "rate_limit", **{"Retry-After": "9"})


async def keyless(http: httpx.AsyncClient) -> Json:
    """A model of a provider that needs an API key and has none."""
    provider = await post(http, "/v1/providers", {"name": "Keyless", "provider_type": "anthropic"})
    return await new_model(http, provider, "claude")


async def talk_with(http: httpx.AsyncClient, first: Json, *others: Json) -> Talk:
    return await new_talk(http, model_id=first["id"], fallback_models=[each["id"] for each in others])


async def test_a_fallback_without_valid_settings_is_skipped_with_a_note(
    sqlite_api: httpx.AsyncClient, vendor: Vendor, spare: Vendor
) -> None:
    unfit = await keyless(sqlite_api)
    talk = await talk_with(
        sqlite_api, await model_at(sqlite_api, vendor), unfit, await model_at(sqlite_api, spare)
    )
    vendor.will(LIMITED)
    spare.will(answer("From the third."))
    events = await ask(talk)
    assert data_of(events, "turn.completed")["final_answer_preview"] == "From the third."
    (skipped,) = data_of(events, "reason.fallback")["skipped"]
    assert (skipped["model"]["model_id"], skipped["error_code"]) == (unfit["id"], "provider_misconfigured")
    assert "'Keyless' cannot be used: there is no API key" in skipped["error"]


async def test_a_first_model_without_valid_settings_is_replaced(
    api: httpx.AsyncClient, vendor: Vendor, spare: Vendor
) -> None:
    first, second, third = await keyless(api), await keyless(api), await model_at(api, spare)
    talk = await talk_with(api, first, second, third)
    spare.will(*[answer("From the third.")] * 2)
    for text in ("Hello.", "And now?"):  # each turn begins with the first one, which may have a key by now
        events = await ask(talk, text)
        assert data_of(events, "turn.completed")["final_answer_preview"] == "From the third."
        data = data_of(events, "reason.fallback")
        assert (data["from"]["model_id"], data["to"]["model_id"]) == (first["id"], third["id"])
        assert data["error_code"] == "provider_misconfigured"
        assert "'Keyless' cannot be used: there is no API key" in data["error"]
        assert [each["model"]["model_id"] for each in data["skipped"]] == [second["id"]]
        assert data_of(events, "reason.started")["metadata"]["model_id"] == third["id"]
    repaired = {"provider_type": CHAT.provider_type, "base_url": f"{vendor.url}/v1", "api_key": KEY}
    changed = await api.patch(f"/v1/providers/{first['provider_id']}?check=false", json=repaired)
    assert changed.status_code == 200, changed.text
    vendor.will(answer("From the first."))
    events = await ask(talk, "And now?")
    assert data_of(events, "turn.completed")["final_answer_preview"] == "From the first."
    assert "reason.fallback" not in kinds_of(events)


async def test_a_turn_stays_with_the_model_that_replaced_the_first(
    api: httpx.AsyncClient, spare: Vendor
) -> None:
    tool = {"type": "client_side", "name": "look", "description": "Look.", "parameters": {"type": "object"}}
    first, other = await keyless(api), await model_at(api, spare)
    talk = await new_talk(api, model_id=first["id"], fallback_models=[other["id"]], tools=[tool])
    spare.will(Reply(CHAT.answer(calls=[("c1", "look", ["{}"])])), answer("Seen."))
    await talk.say("Hello.")
    await talk.logged_until("tool.call_requested")
    await talk.answer({"tool_call_id": "c1", "result": "seen"})
    events = await talk.logged_until("session.idled")
    assert data_of(events, "turn.completed")["final_answer_preview"] == "Seen."
    assert kinds_of(events).count("reason.fallback") == 1


async def test_a_turn_whose_models_all_lack_settings_fails_with_the_firsts_error(
    api: httpx.AsyncClient,
) -> None:
    talk = await talk_with(api, await keyless(api), await keyless(api))
    events = await ask(talk)
    assert data_of(events, "turn.failed")["error_code"] == "provider_misconfigured"
    assert "reason.fallback" not in kinds_of(events)


@pytest.mark.parametrize(("status", "code"), [(401, "provider_auth"), (404, "model_not_found")])
@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.provider_type)
async def test_a_first_model_whose_settings_are_refused_is_replaced(
    sqlite_api: httpx.AsyncClient, vendor: Vendor, spare: Vendor, wire: Wire, status: int, code: str
) -> None:
    first, other = await model_at(sqlite_api, vendor, wire), await model_at(sqlite_api, spare)
    talk = await talk_with(sqlite_api, first, other)
    refused = Reply([wire.refusal("other", "The model `model-1` does not exist.")], status, LATER)
    vendor.will(*[refused] * 3)
    spare.will(answer("From the other."))
    events = await ask(talk)
    assert data_of(events, "turn.completed")["final_answer_preview"] == "From the other."
    data = data_of(events, "reason.fallback")
    assert (data["from"]["model_id"], data["error_code"]) == (first["id"], code)
    assert "until" not in data
    assert len(vendor.asked) == 1
    assert data_of(events, "output.message.withdrawn")["reason"] == "fallback"


async def test_a_refused_first_model_without_others_fails_the_turn_at_once(
    sqlite_api: httpx.AsyncClient, vendor: Vendor
) -> None:
    talk = await talk_with(sqlite_api, await model_at(sqlite_api, vendor))
    vendor.will(Reply([CHAT.refusal("other", "No.")], 401, LATER))
    assert data_of(await ask(talk), "turn.failed")["error_code"] == "provider_auth"


async def test_a_model_whose_fallbacks_cannot_be_called_is_waited_for(
    sqlite_api: httpx.AsyncClient, vendor: Vendor
) -> None:
    talk = await talk_with(sqlite_api, await model_at(sqlite_api, vendor), await keyless(sqlite_api))
    vendor.will(*[error(CHAT, 503, **{"Retry-After": "0"})] * 2, answer("Here."))
    events = await ask(talk)
    assert data_of(events, "turn.completed")["final_answer_preview"] == "Here."
    assert "reason.fallback" not in kinds_of(events)
    vendor.will(error(CHAT, 429, "rate_limit", **{"Retry-After": "3600"}))
    await talk.say("And now?")
    await talk.logged_until("turn.parked")


@pytest.mark.parametrize("status", [401, 404])
async def test_a_fallback_whose_settings_are_refused_is_followed_by_the_next(
    sqlite_api: httpx.AsyncClient, vendor: Vendor, spare: Vendor, status: int
) -> None:
    first, second, third = [await model_at(sqlite_api, each) for each in (vendor, spare, spare)]
    talk = await talk_with(sqlite_api, first, second, third)
    vendor.will(LIMITED)
    spare.will(error(CHAT, status, "other"), answer("From the third."))
    events = await ask(talk)
    assert data_of(events, "turn.completed")["final_answer_preview"] == "From the third."
    assert [each["data"]["from"]["model_id"] for each in events if each["type"] == "reason.fallback"] == [
        first["id"],
        second["id"],
    ]


async def test_a_refused_last_fallback_leaves_the_turn_to_the_first_ones_time(
    sqlite_api: httpx.AsyncClient, vendor: Vendor, spare: Vendor
) -> None:
    talk = await talk_with(sqlite_api, *[await model_at(sqlite_api, each) for each in (vendor, spare)])
    vendor.will(error(CHAT, 429, "rate_limit", **{"Retry-After": "3600"}))
    spare.will(error(CHAT, 401, "other"))
    await talk.say("Hello.")
    await talk.logged_until("turn.parked")
    (waits,) = (await talk.read())["parked_on"]
    assert waits["kind"] == "rate_limit"


@pytest.mark.parametrize("gone", ["disabled", "deleted", "key removed"])
async def test_a_fallback_that_goes_away_in_the_turn_is_followed_by_the_next(
    sqlite_api: httpx.AsyncClient, vendor: Vendor, spare: Vendor, gone: str
) -> None:
    """It is not followed by the first model, which has just failed."""
    first, second, third = [await model_at(sqlite_api, each) for each in (vendor, spare, spare)]
    tool = {"type": "client_side", "name": "look", "description": "Look.", "parameters": {"type": "object"}}
    talk = await new_talk(
        sqlite_api,
        model_id=first["id"],
        fallback_models=[second["id"], third["id"]],
        tools=[tool],
    )
    vendor.will(LIMITED)
    spare.will(Reply(CHAT.answer(calls=[("c1", "look", ["{}"])])))
    await talk.say("Hello.")
    await talk.logged_until("tool.call_requested")
    if gone == "disabled":
        await sqlite_api.patch(f"/v1/models/{second['id']}", json={"enabled": False})
    elif gone == "deleted":
        await sqlite_api.delete(f"/v1/providers/{second['provider_id']}")
    else:
        changed = await sqlite_api.patch(
            f"/v1/providers/{second['provider_id']}",
            json={"provider_type": "anthropic", "base_url": None, "api_key": None},
        )
        assert changed.status_code == 200, changed.text
    spare.will(answer("From the third."))
    results = [{"tool_call_id": "c1", "result": "seen"}]
    await talk.answer(*results)
    await talk.logged_until("session.idled")
    assert (len(vendor.asked), len(spare.asked)) == (1, 2)
    assert (await talk.messages())[-1]["content"][0]["text"] == "From the third."
