"""Models that judge for guardrails spend the money of the budgets, like all other calls (promise P13)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from tests.conformance.drivers.vendor import Reply, Vendor, open_vendor
from tests.guarded import guarded_talk, guarded_turn, of_kind
from tests.journeys.people import get, new_agent, patch
from tests.postgres_server import PostgresServer
from tests.server import Server, post, use_simulated_model
from tests.talk import Json, Talk, call, script, text_in
from tests.vendors import answer, new_model, reply, vendor_provider

pytestmark = pytest.mark.asyncio(loop_scope="session")

PLENTY = 1_000_000
STEP = {"text": "A cat."}


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["sqlite", "postgres"])
async def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> AsyncIterator[Server]:
    url = await postgres_server.create_database() if request.param == "postgres" else ""
    environment = {"PERDURE_PRIVATE_ADDRESSES": "true"}
    folder = tmp_path_factory.mktemp("judges")
    async with Server(folder / "data", database_url=url, environment=environment) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            await use_simulated_model(http)
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def client(place: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=place.url, timeout=30) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="session")
async def vendor() -> AsyncIterator[Vendor]:
    async with open_vendor() as opened:
        yield opened


async def judged(
    client: httpx.AsyncClient, vendor: Vendor, limit: float = PLENTY, *, checks: int = 1, **fields: object
) -> tuple[Talk, Json]:
    """A session whose answers a model of the vendor judges, and its budget in tokens."""
    model = await new_model(client, await vendor_provider(client, vendor), f"judge-{vendor.url[-5:]}")
    judge = {"type": "judge", "policy": "No birds.", "model_id": model["id"], **fields}
    agent = await new_agent(client, harness_name="base")  # the judge is to need more than the call itself
    talk = await guarded_talk(
        client, *({**judge, "id": f"birds_{number}"} for number in range(checks)), agent_id=agent["id"]
    )
    body = {"subject_type": "session", "subject_id": talk.id, "currency": "tokens", "limit": limit}
    return talk, await post(client, "/v1/budgets", body)


async def spent(client: httpx.AsyncClient, budget: Json) -> tuple[float, float]:
    now = await get(client, f"/v1/budgets/{budget['id']}")
    return now["spent"], now["reserved"]


async def calls_of(client: httpx.AsyncClient, talk: Talk) -> dict[str, list[Json]]:
    """The session's rows of the ledger, by their kind."""
    rows: dict[str, list[Json]] = {}
    for row in await get(client, "/v1/spend/calls", session_id=talk.id):
        rows.setdefault(row["kind"], []).append(row)
    return rows


async def test_judges_are_charged_and_in_the_ledger(client: httpx.AsyncClient, vendor: Vendor) -> None:
    talk, budget = await judged(client, vendor, checks=8)
    vendor.will(*(answer("ALLOW") for _ in range(8)))
    frames = await guarded_turn(talk, STEP)
    usages = [each["metadata"]["usage"] for each in of_kind(frames, "llm.generation")]
    assert len(usages) == 9
    used = sum(each["input_tokens"] + each["output_tokens"] for each in usages)
    assert await spent(client, budget) == (used, 0)
    rows = await calls_of(client, talk)
    assert {kind: len(each) for kind, each in rows.items()} == {"judge": 8, "turn": 1}
    agents = {each.get("agent_id") for kind in rows.values() for each in kind}
    assert agents == {(await talk.read())["agent_id"]}
    assert all(each.body["max_tokens"] == 8192 for each in vendor.asked)
    (group,) = [
        each
        for each in (await get(client, "/v1/spend", by="kind", session_id=talk.id))["groups"]
        if each["key"] == "judge"
    ]
    assert group["calls"] == 8


async def test_judges_of_calls_that_run_at_once_are_settled_once_each(
    client: httpx.AsyncClient, vendor: Vendor
) -> None:
    talk, budget = await judged(client, vendor, stage="tool_output")
    added = {"capabilities": [*(await talk.read())["capabilities"], {"ref": "current_time"}]}
    await patch(client, talk.path(), added)
    vendor.will(*(answer("ALLOW") for _ in range(6)))
    calls = [call("get_current_time", f"c{number}") for number in range(6)]
    frames = await guarded_turn(talk, {"tool_calls": calls}, STEP)
    usages = [each["metadata"]["usage"] for each in of_kind(frames, "llm.generation")]
    assert len(usages) == 8
    used = sum(each["input_tokens"] + each["output_tokens"] for each in usages)
    assert await spent(client, budget) == (used, 0)
    entries = (await get(client, f"/v1/budgets/{budget['id']}/ledger"))["data"]
    assert len(entries) == 8
    assert {each["meter_source"] for each in entries} == {"model"}


@pytest.mark.parametrize(("on_failure", "text"), [("block", "This answer was withheld"), ("allow", "A cat.")])
async def test_without_money_for_a_judge_nothing_is_sent_and_the_check_counts_as_not_made(
    client: httpx.AsyncClient, vendor: Vendor, on_failure: str, text: str
) -> None:
    policy = "No birds. " * 800
    talk, budget = await judged(client, vendor, 1, on_failure=on_failure, policy=policy)
    await talk.say(script({"text": "A cat. " * 120}))
    log = await talk.logged_until("turn.parked")
    needed = log[-3]["data"]["needed"]
    # The turn's own call leaves less than a judge needs for its long policy.
    await patch(client, f"/v1/budgets/{budget['id']}", {"limit": needed})
    rest = await talk.logged_until("session.idled", after=log[-1]["sequence"])
    (hit,) = [each["data"] for each in rest if each["type"] == "guardrail.hit"]
    assert hit["reason_code"] == "not_checked"
    (message,) = [each["data"]["message"] for each in rest if each["type"] == "output.message.completed"]
    assert text_in(message).startswith(text)
    assert vendor.asked == []
    assert (await spent(client, budget))[1] == 0


async def test_judges_that_are_late_or_without_a_verdict_are_paid_for(
    client: httpx.AsyncClient, vendor: Vendor
) -> None:
    talk, budget = await judged(client, vendor, on_failure="allow", timeout=0.4)
    vendor.will(answer("Who knows?"), Reply(before="hang"))
    await guarded_turn(talk, STEP)
    assert set(await calls_of(client, talk)) == {"judge", "turn"}
    await guarded_turn(talk, STEP)
    rows = await calls_of(client, talk)
    assert {kind: len(each) for kind, each in rows.items()} == {"judge": 1, "turn": 2, "lost": 1}
    assert rows["lost"][0]["model"].startswith("judge-")
    counted = [row["input_tokens"] + row["output_tokens"] for kind in rows.values() for row in kind]
    assert await spent(client, budget) == (sum(counted), 0)


async def test_a_judge_that_refuses_the_limit_of_its_answer_is_asked_without_one(
    client: httpx.AsyncClient, vendor: Vendor
) -> None:
    talk, _ = await judged(client, vendor)
    refusal = {"error": {"message": "Unsupported parameter: 'max_tokens' is not supported with this model."}}
    vendor.will(reply(refusal, 400), answer("ALLOW"))
    frames = await guarded_turn(talk, STEP)
    assert not of_kind(frames, "guardrail.hit")
    assert "max_tokens" not in vendor.asked[1].body


async def test_a_judge_that_is_refused_costs_nothing(client: httpx.AsyncClient, vendor: Vendor) -> None:
    talk, budget = await judged(client, vendor, on_failure="allow")
    vendor.will(reply({"error": {"message": "No."}}, 403))
    frames = await guarded_turn(talk, STEP)
    (usage,) = [each["metadata"]["usage"] for each in of_kind(frames, "llm.generation")]
    assert await spent(client, budget) == (usage["input_tokens"] + usage["output_tokens"], 0)
