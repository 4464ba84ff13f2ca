"""A model that does not answer: others take its place, and the log says who answered and why."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.conformance.drivers.converse import EVERY_WIRE
from tests.conformance.drivers.protocols import WIRES, Wire
from tests.conformance.drivers.strict import complaints
from tests.conformance.drivers.vendor import JSON, Reply, Vendor, open_vendor
from tests.journeys.people import fresh
from tests.server import Server, post
from tests.talk import Json, Talk, kinds_of, new_talk
from tests.vendors import CHAT, answer, new_model, vendor_provider

PARTIAL = "Half of"
SIGNATURES = {"gemini": "'thoughtSignature': 'c2lnbmVk'", "bedrock": "'signature': 'signed'"}
PLACES = {"openai": "input", "gemini": "contents"}
"""Where a body has the history, by protocol."""


@pytest_asyncio.fixture
async def vendor() -> AsyncIterator[Vendor]:
    async with open_vendor() as opened:
        yield opened


@pytest_asyncio.fixture
async def spare() -> AsyncIterator[Vendor]:
    async with open_vendor() as opened:
        yield opened


@pytest_asyncio.fixture
async def sqlite_api(sqlite_server: Server) -> AsyncIterator[httpx.AsyncClient]:
    """For what does not depend on the database."""
    async with httpx.AsyncClient(base_url=sqlite_server.url, timeout=30) as client:
        yield client


async def model_at(http: httpx.AsyncClient, vendor: Vendor, wire: Wire = CHAT, **fields: Any) -> Json:
    """Register a model of its own provider at this vendor."""
    provider = await vendor_provider(http, vendor, wire, **fields)
    return await new_model(http, provider, f"model-of-{wire.provider_type}")


async def two_models(
    http: httpx.AsyncClient, vendor: Vendor, spare: Vendor, first: Wire = CHAT, second: Wire = CHAT
) -> tuple[Talk, Json, Json]:
    """A session with a model and a fallback."""
    model, other = await model_at(http, vendor, first), await model_at(http, spare, second)
    talk = await new_talk(http, model_id=model["id"], fallback_models=[other["id"]])
    return talk, model, other


async def ask(talk: Talk, text: str = "Hello.") -> list[Json]:
    message = await talk.say(text)
    return await talk.logged_until("session.idled", after=message["sequence"] - 1)


def data_of(events: list[Json], kind: str) -> Json:
    (found,) = [event["data"] for event in events if event["type"] == kind]
    return found  # type: ignore[no-any-return]


def error(wire: Wire, status: int, kind: str = "overloaded", **headers: str) -> Reply:
    return Reply([wire.refusal(kind, "Not now.")], status, JSON | headers)


def failures(wire: Wire) -> dict[str, tuple[list[Reply], str]]:
    """By name: what the first model's server answers, to all attempts, and the code of that error."""
    partial = Reply(wire.answer(text=[PARTIAL])[: 2 if wire is CHAT else 3], then="cut")
    limited = error(wire, 429, "rate_limit", **{"Retry-After": "30"})
    return {
        "429": ([error(wire, 429, "rate_limit")] * 2, "provider_rate_limited"),
        "429 with a time": ([limited], "provider_rate_limited"),
        "529": ([error(wire, 529)] * 2, "provider_unavailable"),
        "500": ([error(wire, 500)] * 2, "provider_unavailable"),
        "503": ([error(wire, 503)] * 2, "provider_unavailable"),
        "no answer": ([Reply(before="cut")] * 4, "provider_unavailable"),
        "a broken stream": ([partial] * 2, "provider_bad_response"),
        "an error in the stream": (
            [Reply([*wire.answer(text=[PARTIAL])[:2], wire.failure("overloaded", "Busy.")])] * 2,
            "provider_unavailable",
        ),
    }


@pytest.mark.parametrize("name", failures(CHAT))
@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.provider_type)
async def test_a_model_that_does_not_answer_is_replaced_within_seconds(
    sqlite_api: httpx.AsyncClient, vendor: Vendor, spare: Vendor, wire: Wire, name: str
) -> None:
    talk, model, other = await two_models(sqlite_api, vendor, spare, wire)
    replies, code = failures(wire)[name]
    vendor.will(*replies)
    spare.will(answer("From the other."))
    events = await ask(talk)
    fallback = data_of(events, "reason.fallback")
    assert (fallback["error_code"], fallback["from"]["model_id"], fallback["to"]["model_id"]) == (
        code,
        model["id"],
        other["id"],
    )
    assert data_of(events, "turn.completed")["final_answer_preview"] == "From the other."


@pytest.mark.parametrize("silent", ["before the first byte", "in the middle"])
async def test_a_model_that_is_silent_is_asked_once(
    sqlite_api: httpx.AsyncClient, vendor: Vendor, spare: Vendor, silent: str
) -> None:
    model = await model_at(sqlite_api, vendor, options={"timeout_seconds": 1})
    other = await model_at(sqlite_api, spare)
    talk = await new_talk(sqlite_api, model_id=model["id"], fallback_models=[other["id"]])
    first = silent == "before the first byte"
    vendor.will(Reply(before="hang") if first else Reply(CHAT.answer(text=[PARTIAL])[:2], then="hang"))
    spare.will(answer())
    assert data_of(await ask(talk), "reason.fallback")["error_code"] == "provider_timeout"
    assert len(vendor.asked) == 1


def refusals(wire: Wire) -> dict[str, tuple[Reply, str]]:
    """By name: what another model would answer as well, and the code of that error."""
    return {
        "400": (error(wire, 400, "other"), "invalid_model_request"),
        "403": (Reply([wire.refusal("other", "Your input was flagged.")], 403, JSON), "content_filtered"),
        "a content filter": (Reply(wire.answer(text=["No."], finish="content_filter")), "content_filtered"),
        "nothing": (Reply(wire.answer()), "empty_answer"),
    }


@pytest.mark.parametrize("name", refusals(CHAT))
@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.provider_type)
async def test_a_refusal_is_none_of_the_other_models_business(
    sqlite_api: httpx.AsyncClient, vendor: Vendor, spare: Vendor, wire: Wire, name: str
) -> None:
    talk, *_ = await two_models(sqlite_api, vendor, spare, wire)
    reply, code = refusals(wire)[name]
    vendor.will(*[reply] * 9)
    events = await ask(talk)
    assert data_of(events, "turn.failed")["error_code"] == code
    assert spare.asked == []
    assert "output.message.withdrawn" not in kinds_of(events)


async def test_a_refusal_in_words_is_an_answer(
    sqlite_api: httpx.AsyncClient, vendor: Vendor, spare: Vendor
) -> None:
    talk, *_ = await two_models(sqlite_api, vendor, spare)
    vendor.will(answer("I cannot help with that."))
    assert "turn.completed" in kinds_of(await ask(talk))
    assert spare.asked == []


async def test_partial_text_is_withdrawn_before_the_other_model_is_called(
    api: httpx.AsyncClient, vendor: Vendor, spare: Vendor
) -> None:
    talk, _, other = await two_models(api, vendor, spare)
    vendor.will(*failures(CHAT)["a broken stream"][0])
    spare.will(answer("All of it."))
    message = await talk.say("Hello.")
    async with talk.follow(after_sequence=message["sequence"]) as stream:
        seen = await stream.until("session.idled")
    kinds = [frame.kind for frame in seen]
    texts = [frame.data["data"]["accumulated"] for frame in seen if frame.kind == "output.message.delta"]
    assert PARTIAL in texts
    logged = [frame.data for frame in seen if frame.logged]
    first, second = (
        event["data"]["message_id"] for event in logged if event["type"] == "output.message.started"
    )
    assert data_of(logged, "output.message.withdrawn") == {
        "turn_id": logged[0]["data"]["turn_id"],
        "message_id": first,
        "reason": "fallback",
    }
    order = [
        "output.message.withdrawn",
        "llm.generation",
        "reason.completed",
        "reason.fallback",
        "reason.started",
    ]
    begin = kinds.index(order[0])
    assert kinds[begin : begin + 5] == order
    completed = data_of(logged, "output.message.completed")
    assert completed["message"]["id"] == second
    assert completed["metadata"]["model_id"] == other["id"]
    generations = [event["data"]["metadata"] for event in logged if event["type"] == "llm.generation"]
    assert [each["success"] for each in generations] == [False, True]
    assert [each["retry"]["attempts"] for each in generations if "retry" in each] == [2]
    assert generations[1]["usage"]["output_tokens"] == 7
    ended = data_of(logged, "turn.completed")
    assert (ended["iterations"], ended["llm_call_count"]) == (1, 2)
    assert [message["content"][0]["text"] for message in await talk.messages()] == ["Hello.", "All of it."]

    vendor.will(answer("Here again."))  # the next turn begins with the model of the session
    assert data_of(await ask(talk), "turn.completed")["final_answer_preview"] == "Here again."


@pytest.mark.parametrize(
    ("first", "second"),
    [
        # The pairs of the newer protocols that are like others are for `make soak`.
        pytest.param(first, second, id=f"{first.provider_type}-{second.provider_type}", marks=marks)
        for first in EVERY_WIRE
        for second in EVERY_WIRE
        for marks in [() if {first, second} <= {*WIRES} or CHAT in {first, second} else pytest.mark.soak]
    ],
)
async def test_after_tools_ran_the_other_vendor_gets_a_history_in_its_form(
    sqlite_api: httpx.AsyncClient, vendor: Vendor, spare: Vendor, first: Wire, second: Wire
) -> None:
    model, other = await model_at(sqlite_api, vendor, first), await model_at(sqlite_api, spare, second)
    talk = await new_talk(
        sqlite_api,
        model_id=model["id"],
        fallback_models=[other["id"]],
        harness_name="generic",
    )
    calls = [("call.1/odd", "list_directory", ['{"path": ', '"/"}'])]
    vendor.will(
        Reply(first.answer(text=["Let me see."], calls=calls, thinking=["Hm."])), *[error(first, 503)] * 2
    )
    spare.will(
        Reply(second.answer(calls=[("c2", "list_directory", ['{"path": "/"}'])], thinking=["Well."])),
        answer("Nothing there.", second),
    )
    events = await ask(talk)
    assert data_of(events, "turn.completed")["final_answer_preview"] == "Nothing there."
    assert [complaints(second.provider_type, asked.body) for asked in spare.asked] == [[], []]
    assert "list_directory" in str(spare.asked[0].body[PLACES.get(second.provider_type, "messages")])
    if second.provider_type in SIGNATURES:  # what it signed comes back to it
        assert SIGNATURES[second.provider_type] in str(spare.asked[1].body)
    # The turn goes on with the other model, and the next one begins with the first.
    vendor.will(answer("Back.", first))
    assert data_of(await ask(talk), "turn.completed")["final_answer_preview"] == "Back."
    assert complaints(first.provider_type, vendor.sent) == []


async def test_the_session_comes_before_the_agent_and_the_agent_before_the_organization(
    api: httpx.AsyncClient, vendor: Vendor, spare: Vendor
) -> None:
    org = (await api.get("/v1/orgs")).json()["data"][0]
    model = await model_at(api, vendor)
    others = [await model_at(api, spare) for _ in range(3)]
    of_org, of_agent, of_session = ([each["id"]] for each in others)
    agent = await post(
        api, "/v1/agents", {"name": fresh("careful"), "system_prompt": "Hi.", "fallback_models": of_agent}
    )
    assert agent["fallback_models"] == of_agent
    changed = await api.patch(f"/v1/orgs/{org['id']}", json={"fallback_models": of_org})
    assert changed.json()["fallback_models"] == of_org
    try:
        for fields, expected in (
            ({}, of_org),
            ({"agent_id": agent["id"]}, of_agent),
            ({"agent_id": agent["id"], "fallback_models": of_session}, of_session),
        ):
            talk = await new_talk(api, model_id=model["id"], **fields)
            vendor.will(error(CHAT, 429, "rate_limit", **{"Retry-After": "9"}))
            spare.will(answer())
            assert [data_of(await ask(talk), "reason.fallback")["to"]["model_id"]] == expected
            vendor.will(answer())
            await ask(await new_talk(api, model_id=model["id"]))  # closes the breaker
        await api.delete(f"/v1/models/{of_org[0]}")
        assert "fallback_models" not in (await api.get(f"/v1/orgs/{org['id']}")).json()
    finally:
        await api.patch(f"/v1/orgs/{org['id']}", json={"fallback_models": None})


@pytest.mark.parametrize("path", ["/v1/sessions", "/v1/agents"])
async def test_fallback_models_are_checked_when_they_are_saved(api: httpx.AsyncClient, path: str) -> None:
    model = (await api.get("/v1/models")).json()["data"][0]["id"]
    fields = {} if path == "/v1/sessions" else {"name": "checked", "system_prompt": "Hi."}
    unknown = "model_" + "0" * 32
    for ids, status in (([unknown], 404), (["gpt"], 400), ([model, model], 400), ([model] * 6, 400)):
        refused = await api.post(path, json=fields | {"fallback_models": ids})
        assert refused.status_code == status, refused.text
    assert (await post(api, path, fields | {"fallback_models": [model]}))["fallback_models"] == [model]


async def test_without_a_fallback_that_answers_the_turn_fails_with_the_last_error(
    api: httpx.AsyncClient, vendor: Vendor, spare: Vendor
) -> None:
    talk, *_ = await two_models(api, vendor, spare)
    vendor.will(error(CHAT, 503, **{"Retry-After": "9"}))
    spare.will(error(CHAT, 400, "other"))
    events = await ask(talk)
    assert data_of(events, "turn.failed")["error_code"] == "invalid_model_request"
    generations = [event["data"]["metadata"] for event in events if event["type"] == "llm.generation"]
    assert [each["success"] for each in generations] == [False, False]


async def test_a_breaker_that_is_open_skips_its_model_and_is_shown(
    api: httpx.AsyncClient, vendor: Vendor, spare: Vendor
) -> None:
    talk, model, other = await two_models(api, vendor, spare)
    vendor.will(error(CHAT, 429, "rate_limit", **{"Retry-After": "3600"}))
    spare.will(answer(), answer("Skipped."))
    first = data_of(await ask(talk), "reason.fallback")
    assert first["error_code"] == "provider_rate_limited"
    events = await ask(talk)
    skipped = data_of(events, "reason.fallback")
    assert skipped["error_code"] == "circuit_open"
    assert len(vendor.asked) == 1
    ended = data_of(events, "turn.completed")
    assert (ended["iterations"], ended["llm_call_count"]) == (1, 1)

    providers = (await api.get("/v1/providers")).json()["data"]
    (health,) = [each["health"] for each in providers if each["id"] == model["provider_id"]]
    (shown,) = health["models"]
    assert (health["state"], shown["state"], shown["model_id"]) == ("open", "open", model["id"])
    assert shown["error_code"] == "provider_rate_limited"
    assert shown["retry_at"] <= first["until"]
    assert (await api.get(f"/v1/providers/{model['provider_id']}")).json()["health"] == health
    assert (await api.get("/health")).json()["circuit_breakers"]["open"] >= 1
    (well,) = [each["health"] for each in providers if each["id"] == other["provider_id"]]
    assert well == {"state": "closed", "models": []}

    # A change of the provider closes it: the cause may be gone.
    await api.patch(f"/v1/providers/{model['provider_id']}", json={"api_key": "sk-another-key-012345"})
    vendor.will(answer("Here."))
    assert data_of(await ask(talk), "turn.completed")["final_answer_preview"] == "Here."
