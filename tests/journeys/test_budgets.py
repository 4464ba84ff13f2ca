"""Budgets over HTTP: what people set, and what becomes of sessions without money."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from perdure.client import Client, TurnPaused
from tests.journeys.families import ASKS, WEATHER, new_family, spawns, task_in, tasks_of
from tests.journeys.keyed import add_member, person, with_login
from tests.journeys.people import elsewhere, get, new_agent, patch
from tests.postgres_server import PostgresServer
from tests.server import Server, post, use_simulated_model
from tests.talk import Json, Talk, kinds_of, new_talk, script, when

SHORT = 100
"""Tokens that are too few for any call."""
PLENTY = 1_000_000
STEP = {"text": "Done."}
NOBODY = "session_" + "0" * 31 + "1"


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["sqlite", "postgres"])
async def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> AsyncIterator[Server]:
    url = await postgres_server.create_database() if request.param == "postgres" else ""
    async with Server(tmp_path_factory.mktemp("budgets") / "data", database_url=url) as running:
        async with httpx.AsyncClient(base_url=running.url, timeout=30) as http:
            await use_simulated_model(http)
        yield running


@pytest.fixture
async def http(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        yield client


async def budget_of(http: httpx.AsyncClient, subject: str, limit: float, **more: Any) -> Json:
    """A budget in tokens, unless `more` says otherwise."""
    kind = subject.split("_")[0].replace("org", "organization")
    body = {"subject_type": kind, "subject_id": subject, "limit": limit}
    made: Json = await post(http, "/v1/budgets", {"currency": "tokens", **body, **more})
    return made


async def read(http: httpx.AsyncClient, budget: Json) -> Json:
    found: Json = await get(http, f"/v1/budgets/{budget['id']}")
    return found


async def paused(
    http: httpx.AsyncClient, limit: float = SHORT, **fields: Any
) -> tuple[Talk, Json, list[Json]]:
    """A session that a budget of its own has stopped, the budget, and the session's log."""
    talk = await new_talk(http, **fields)
    budget = await budget_of(http, talk.id, limit)
    await talk.say(script(STEP))
    return talk, budget, await talk.logged_until("turn.parked")


async def test_a_call_is_charged_to_every_budget_above_it(http: httpx.AsyncClient) -> None:
    agent = await new_agent(http)
    talk = await new_talk(http, agent_id=agent["id"])
    session = await talk.read()
    me = await get(http, "/v1/auth/me")
    budgets = [
        await budget_of(http, subject, PLENTY)
        for subject in (talk.id, agent["id"], me["id"], session["organization_id"])
    ]
    try:
        applied = await get(http, talk.path("/budgets"))
        assert [each["id"] for each in applied["data"]] == [each["id"] for each in budgets]
        await talk.turn(STEP)
        (generation,) = await talk.events(types="llm.generation")
        usage = generation["data"]["metadata"]["usage"]
        spent = usage["input_tokens"] + usage["output_tokens"]
        for each in budgets:
            now = await read(http, each)
            assert (now["spent"], now["balance"], now["reserved"]) == (spent, PLENTY - spent, 0)
            (entry,) = (await get(http, f"/v1/budgets/{each['id']}/ledger"))["data"]
            assert (entry["amount"], entry["meter_source"], entry["session_id"]) == (spent, "model", talk.id)
            assert (entry["budget_id"], entry["ref_type"]) == (each["id"], "model_call")
    finally:
        for each in budgets:
            assert (await http.delete(f"/v1/budgets/{each['id']}")).status_code == 204
    assert (await get(http, talk.path("/budgets")))["data"] == []
    await get(http, f"/v1/budgets/{budgets[0]['id']}/ledger", 404)


async def test_a_session_without_money_is_paused_before_anything_is_sent(http: httpx.AsyncClient) -> None:
    talk, budget, log = await paused(http)
    assert kinds_of(log)[-3:] == ["budget.exhausted", "budget.paused", "turn.parked"]
    assert "llm.generation" not in kinds_of(log)
    needed = log[-3]["data"]["needed"]
    assert needed > SHORT
    assert (log[-1]["data"]["budget_id"], log[-1]["data"]["kind"]) == (budget["id"], "budget")
    session = await talk.read()
    assert session["status"] == "paused"
    (waits,) = session["parked_on"]
    assert (waits["kind"], waits["budget_id"], waits["tool_name"]) == ("budget", budget["id"], "")
    assert {"cancel", "resume"} <= {each["rel"] for each in session["allowed_actions"]}
    check = await get(http, talk.path("/budget-check"))
    assert (check["action"], check["error_code"], check["balance"]) == ("pause", "budget_exhausted", SHORT)
    assert check["error_fields"]["needed"] == needed
    refused = await post(http, talk.path("/resume"), None, 200)
    assert (refused["resumed"], refused["status"], refused["budget_id"]) == (False, "paused", budget["id"])
    assert f"{needed:,.0f} tokens" in refused["message"]
    assert (await talk.events())[-1]["type"] == "turn.parked"


@pytest.mark.parametrize("way", ["limit", "top-up", "disable", "delete"])
async def test_a_session_goes_on_where_it_stopped_once_there_is_money(
    http: httpx.AsyncClient, way: str
) -> None:
    talk, budget, log = await paused(http)
    path = f"/v1/budgets/{budget['id']}"
    match way:
        case "limit":
            assert (await patch(http, path, {"limit": PLENTY}))["limit"] == PLENTY
        case "top-up":
            topped = await post(http, f"{path}/top-up", {"amount": PLENTY, "description": "More."}, 200)
            assert (topped["limit"], topped["topped_up"], topped["balance"]) == (
                SHORT,
                PLENTY,
                SHORT + PLENTY,
            )
        case "disable":
            await patch(http, path, {"status": "disabled"})
        case "delete":
            assert (await http.delete(path)).status_code == 204
    rest = await talk.logged_until("session.idled", after=log[-1]["sequence"])
    assert kinds_of(rest)[:2] == ["budget.resumed", "turn.resumed"]
    assert "turn.completed" in kinds_of(rest)
    assert (await talk.read()).get("parked_on", []) == []
    if way == "top-up":
        charge, credit = (await get(http, f"{path}/ledger"))["data"]
        assert (credit["amount"], credit["meter_source"]) == (-PLENTY, "top_up")
        assert (credit["ref_type"], credit["description"]) == ("user", "More.")
        assert charge["amount"] > 0
    if way == "disable":
        assert (await get(http, f"{path}/ledger"))["total"] == 0


async def test_a_person_can_ask_a_session_to_go_on_and_learns_why_not(http: httpx.AsyncClient) -> None:
    talk = await new_talk(http)
    nothing = await post(http, talk.path("/resume"), None, 200)
    assert (nothing["resumed"], nothing["action"]) == (False, "allow")
    assert "No budget stops the session" in nothing["message"]
    await post(http, f"/v1/sessions/{NOBODY}/resume", None, 404)


async def test_lowering_pausing_and_soft_limits_apply_to_the_next_call(http: httpx.AsyncClient) -> None:
    talk = await new_talk(http)
    budget = await budget_of(http, talk.id, PLENTY, soft_limit=1)
    path = f"/v1/budgets/{budget['id']}"
    first = await talk.turn(STEP)
    assert kinds_of(first).count("budget.warning") == 1
    assert (await get(http, f"{path}/check"))["action"] == "warn"
    assert "budget.warning" not in kinds_of(await talk.turn(STEP))
    spent = (await read(http, budget))["spent"]
    lowered = await patch(http, path, {"limit": spent, "soft_limit": None})
    assert (lowered["status"], lowered["balance"]) == ("exhausted", 0)
    await talk.say(script(STEP))
    stopped = await talk.logged_until("turn.parked")
    assert stopped[-1]["data"]["error_code"] == "budget_exhausted"
    assert (await get(http, f"{path}/check"))["error_code"] == "budget_exhausted"
    # The new limit is enough, but a person has paused the budget.
    await patch(http, path, {"limit": PLENTY, "status": "paused"})
    refused = await post(http, talk.path("/resume"), None, 200)
    assert (refused["resumed"], refused["error_code"]) == (False, "budget_paused")
    await patch(http, path, {"status": "active"})
    await talk.logged_until("session.idled", after=stopped[-1]["sequence"])
    await patch(http, path, {"status": "paused"})
    await talk.say(script(STEP))
    again = await talk.logged_until("turn.parked", after=stopped[-1]["sequence"])
    assert again[-1]["data"]["error_code"] == "budget_paused"
    assert "budget.exhausted" not in kinds_of(again)


async def test_the_strictest_of_several_budgets_decides(http: httpx.AsyncClient) -> None:
    agent = await new_agent(http)
    talk = await new_talk(http, agent_id=agent["id"])
    strict = await budget_of(http, agent["id"], SHORT)
    await budget_of(http, talk.id, PLENTY)
    await talk.say(script(STEP))
    await talk.logged_until("turn.parked")
    assert (await get(http, talk.path("/budget-check")))["budget_id"] == strict["id"]


async def test_a_message_makes_a_paused_turn_try_again_and_a_cancel_ends_it(http: httpx.AsyncClient) -> None:
    talk, _, log = await paused(http)
    sent = await talk.say("Are you there?")
    again = await talk.logged_until("turn.parked", after=sent["sequence"])
    assert "turn.resumed" in kinds_of(again)
    assert await talk.cancel() == "cancelled"
    assert (await talk.read())["status"] == "idle"
    assert (await get(http, talk.path("/budget-check")))["action"] == "allow"
    assert again[-1]["sequence"] > log[-1]["sequence"]


async def test_a_paused_session_can_be_forked_archived_and_deleted(http: httpx.AsyncClient) -> None:
    talk, budget, _ = await paused(http)
    fork = Talk(http, (await post(http, talk.path("/fork"), {}))["id"])
    assert (await fork.read())["status"] == "idle"
    assert (await get(http, fork.path("/budgets")))["data"] == []
    await fork.turn(STEP)
    assert (await http.put(talk.path("/archive"))).status_code in (200, 204)
    assert (await talk.read())["status"] == "paused"
    assert (await http.delete(talk.path())).status_code == 204
    await get(http, f"/v1/budgets/{budget['id']}", 404)


async def test_the_inbox_has_paused_sessions_until_they_go_on(http: httpx.AsyncClient) -> None:
    talk, budget, log = await paused(http, title="Costly")
    (item,) = (await get(http, "/v1/inbox", session_id=talk.id, kind="budget"))["data"]
    assert (item["kind"], item["budget_id"], item["session_title"]) == ("budget", budget["id"], "Costly")
    assert (item["may_decide"], item["you_may_decide"]) == ({"role": "admin"}, True)
    assert item["summary"] == log[-1]["data"]["error"]
    assert await get(http, item["links"]["self"]) == item
    refused = await post(http, f"/v1/inbox/{item['id']}/decision", {"decision": "allow"}, 409)
    assert refused["code"] == "not_an_approval"
    await post(http, item["links"]["decide"], {"amount": PLENTY}, 200)
    await talk.logged_until("session.idled", after=log[-1]["sequence"])
    assert (await get(http, "/v1/inbox", session_id=talk.id))["data"] == []
    assert (await get(http, item["links"]["self"]))["outcome"]["status"] == "decided"
    gone, _, _ = await paused(http)
    (item,) = (await get(http, "/v1/inbox", session_id=gone.id))["data"]
    await gone.cancel()
    assert (await get(http, item["links"]["self"]))["outcome"]["status"] == "withdrawn"


async def test_who_waits_for_a_paused_turn_is_told(server: Server, http: httpx.AsyncClient) -> None:
    talk = await new_talk(http)
    budget = await budget_of(http, talk.id, SHORT)
    async with Client(server.url) as client, asyncio.timeout(30):
        with pytest.raises(TurnPaused, match=budget["id"]) as caught:
            await client.ask(talk.id, script(STEP))
        assert (caught.value.budget_id, caught.value.session_id) == (budget["id"], talk.id)
        result = await get(http, talk.path("/result"), 202, wait=30)
        assert (result["status"], result["waiting_on"][0]["budget_id"]) == ("waiting", budget["id"])
        await client.top_up_budget(budget["id"], PLENTY)
        await talk.logged_until("session.idled")
        # Whoever follows the whole story is not stopped by a pause that is over.
        run = await client.get_result(talk.id)
        assert (await client.wait_for_run(run)).status == "completed"


async def test_a_wait_that_began_before_the_pause_ends_with_it(http: httpx.AsyncClient) -> None:
    agent = await new_agent(http)
    budget = await budget_of(http, agent["id"], SHORT)
    answer = await http.post(
        "/v1/runs", params={"wait": 30}, json={"message": script(STEP), "agent": agent["id"]}
    )
    assert answer.status_code == 202
    assert answer.json()["waiting_on"][0]["budget_id"] == budget["id"]


async def test_a_paused_child_is_a_task_that_waits_for_somebody(http: httpx.AsyncClient) -> None:
    talk = await new_family(http, spawns("costly", ASKS, STEP), tools=[WEATHER])
    (task,) = await tasks_of(talk)
    asking = await task_in(talk, task["id"], "awaiting_input")
    child = Talk(http, asking["links"]["child_session_id"])
    budget = await budget_of(http, talk.id, SHORT)
    assert [each["id"] for each in (await get(http, child.path("/budgets")))["data"]] == [budget["id"]]
    await child.answer({"tool_call_id": asking["input_request"]["id"], "result": "Sunny."})
    await child.logged_until("turn.parked")
    seen: list[Json] = []

    async def told() -> bool:
        seen[:] = await tasks_of(talk)
        return seen[0].get("state_detail") == "budget"

    await when(told)
    assert seen[0]["state"] == "awaiting_input"
    assert seen[0]["input_request"]["id"] == budget["id"]
    assert "has no money" in seen[0]["input_request"]["prompt"]
    await patch(http, f"/v1/budgets/{budget['id']}", {"limit": PLENTY})
    assert "state_detail" not in await task_in(talk, task["id"], "succeeded")
    assert (await read(http, budget))["spent"] > 0


async def test_a_model_without_a_price_is_refused_unless_the_budget_has_one(http: httpx.AsyncClient) -> None:
    talk = await new_talk(http)
    budget = await budget_of(http, talk.id, 5, currency="usd")
    failed = await talk.turn(STEP)
    (end,) = [each for each in failed if each["type"] == "turn.failed"]
    assert end["data"]["error_code"] == "model_price_unknown"
    assert budget["id"] in end["data"]["error"]
    assert "turn.parked" not in {each["type"] for each in failed}, "nobody tops up a budget that is not empty"
    (said,) = [each for each in failed if each["type"] == "output.message.completed"]
    assert "price" in said["data"]["message"]["content"][0]["text"]
    await patch(http, f"/v1/budgets/{budget['id']}", {"unpriced": {"input": 3, "output": 15}})
    after = (await talk.events())[-1]["sequence"]
    await talk.turn(STEP)
    (generation,) = await talk.events(types="llm.generation", after_sequence=after)
    usage = generation["data"]["metadata"]["usage"]
    cost = (usage["input_tokens"] * 3 + usage["output_tokens"] * 15) / 1e6
    assert (await read(http, budget))["spent"] == pytest.approx(cost)


PERIODS = [
    {"type": "calendar", "unit": "month", "time_zone": "Europe/Berlin"},
    {"type": "rolling", "window": "24h"},
    {"type": "duration", "seconds": 3600},
]


@pytest.mark.parametrize("period", PERIODS, ids=lambda each: str(each["type"]))
async def test_a_budget_is_shown_as_it_was_made(http: httpx.AsyncClient, period: Json) -> None:
    talk = await new_talk(http)
    made = await budget_of(
        *(http, talk.id, 12.34), currency="usd", soft_limit=10, period=period, metadata={"team": "ops"},
        unpriced={"input": 1.5, "output": 2},
    )  # fmt: skip
    assert await read(http, made) == made
    assert (made["limit"], made["soft_limit"], made["balance"]) == (12.34, 10, 12.34)
    assert (made["status"], made["spent"]) == ("active", 0)
    assert (made["period"], made["metadata"]) == (period, {"team": "ops"})
    assert made["period_started_at"] <= made["created_at"] < made["next_period_at"]
    assert (made["unpriced"]["input"], made["unpriced"]["output"]) == (1.5, 2)
    topped = await post(http, f"/v1/budgets/{made['id']}/top-up", {"amount": 1}, 200)
    assert (topped["balance"], topped["topped_up"], topped["spent"]) == (13.34, 1, 0)
    changed = await patch(
        http, f"/v1/budgets/{made['id']}", {"metadata": None, "unpriced": None, "soft_limit": None}
    )
    assert {"metadata", "unpriced", "soft_limit"} & changed.keys() == set()
    listed = await get(http, "/v1/budgets", subject_id=talk.id)
    assert (listed["total"], listed["data"]) == (1, [changed])
    assert (await get(http, "/v1/budgets", subject_id=talk.id, subject_type="agent"))["total"] == 0


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"limit": -1}, "invalid_amount", "limit"),
        ({"limit": 1e18}, "invalid_amount", "limit"),
        ({"limit": 1.5}, "invalid_amount", "limit"),
        ({"limit": 10, "soft_limit": 11}, "soft_limit_above_limit", "soft_limit"),
        ({"limit": 10, "soft_limit": -1}, "invalid_amount", "soft_limit"),
        ({"currency": "eur"}, "invalid_request", "currency"),
        ({"subject_type": "app"}, "unsupported_budget_subject", "subject_type"),
        ({"subject_type": "app_channel"}, "unsupported_budget_subject", "subject_type"),
        ({"subject_type": "planet"}, "invalid_request", "subject_type"),
        ({"subject_id": "session_1"}, "invalid_id", "subject_id"),
        ({"subject_type": "agent"}, "invalid_id", "subject_id"),
        ({"period": {"type": "calendar", "unit": "fortnight"}}, "invalid_request", "period.unit"),
        (
            {"period": {"type": "calendar", "unit": "day", "time_zone": "Mars/Olympus"}},
            "invalid_period",
            "period.time_zone",
        ),
        ({"period": {"type": "rolling", "window": "2 days"}}, "invalid_request", "period.window"),
        ({"period": {"type": "rolling", "window": "30s"}}, "invalid_period", "period.window"),
        ({"period": {"type": "rolling", "window": "9999w"}}, "invalid_period", "period.window"),
        ({"period": {"type": "duration", "seconds": 0}}, "invalid_request", "period.seconds"),
        ({"unpriced": {"input": 1, "output": 1}}, "invalid_request", "unpriced"),
        ({"currency": "usd", "unpriced": {"input": -1, "output": 1}}, "invalid_amount", "unpriced.input"),
        ({"metadata": {"text": "x" * 20_000}}, "invalid_request", "metadata"),
    ],
    ids=str,
)
async def test_what_is_out_of_bounds_is_refused_and_named(
    http: httpx.AsyncClient, fields: Json, code: str, field: str
) -> None:
    talk = await new_talk(http)
    body = {"subject_type": "session", "subject_id": talk.id, "currency": "tokens", "limit": 10, **fields}
    refused = await post(http, "/v1/budgets", body, 400)
    assert (refused["code"], refused.get("field")) == (code, field)
    assert (await get(http, "/v1/budgets", subject_id=talk.id))["total"] == 0


@pytest.mark.parametrize("number", ["NaN", "1e999", "Infinity"])
async def test_numbers_that_json_does_not_have_are_refused(http: httpx.AsyncClient, number: str) -> None:
    talk = await new_talk(http)
    budget = await budget_of(http, talk.id, 10)
    for path, field in ((f"/v1/budgets/{budget['id']}/top-up", "amount"), ("/v1/budgets", "limit")):
        refused = await http.post(
            path,
            content=f'{{"subject_type":"session","subject_id":"{talk.id}","currency":"usd","{field}":{number}}}',
            headers={"content-type": "application/json"},
        )
        assert refused.status_code == 400, refused.text
    assert await read(http, budget) == budget


async def test_changes_that_are_out_of_bounds_change_nothing(http: httpx.AsyncClient) -> None:
    talk = await new_talk(http)
    budget = await budget_of(http, talk.id, 10, soft_limit=5)
    path = f"/v1/budgets/{budget['id']}"
    for body in ({"limit": 4}, {"limit": -1}, {"status": "exhausted"}, {"soft_limit": 11}):
        assert (await patch(http, path, body, 400))["code"]
    for amount in (0, -5, 0.5, 1e15):
        assert (await post(http, f"{path}/top-up", {"amount": amount}, 400))["code"] == "invalid_amount"
    assert await read(http, budget) == budget


async def test_budgets_belong_to_their_organization(http: httpx.AsyncClient) -> None:
    talk = await new_talk(http)
    budget = await budget_of(http, talk.id, 10)
    other = httpx.AsyncClient(base_url=http.base_url, timeout=30, headers=await elsewhere(http))
    async with other:
        path = f"/v1/budgets/{budget['id']}"
        for each in ("", "/check", "/ledger"):
            await get(other, path + each, 404)
        await patch(other, path, {"limit": 1}, 404)
        await post(other, f"{path}/top-up", {"amount": 1}, 404)
        assert (await other.delete(path)).status_code == 404
        assert (await get(other, "/v1/budgets"))["total"] == 0
        session = await talk.read()
        for subject in (talk.id, session["organization_id"]):
            body = {"subject_type": "session" if subject == talk.id else "organization"}
            await post(
                other, "/v1/budgets", {**body, "subject_id": subject, "currency": "usd", "limit": 1}, 404
            )
    assert await read(http, budget) == budget


async def test_a_subject_has_at_most_ten_budgets(http: httpx.AsyncClient) -> None:
    talk = await new_talk(http)
    for _ in range(10):
        await budget_of(http, talk.id, PLENTY)
    body = {"subject_type": "session", "subject_id": talk.id, "currency": "usd", "limit": 1}
    assert (await post(http, "/v1/budgets", body, 409))["code"] == "too_many_budgets"


async def test_a_repeated_top_up_is_credited_once(http: httpx.AsyncClient) -> None:
    talk = await new_talk(http)
    budget = await budget_of(http, talk.id, 10)
    path, key = f"/v1/budgets/{budget['id']}/top-up", {"Idempotency-Key": talk.id}
    first = await http.post(path, json={"amount": 5}, headers=key)
    again = await http.post(path, json={"amount": 5}, headers=key)
    assert (first.status_code, again.status_code, first.json()) == (200, 200, again.json())
    assert (await read(http, budget))["balance"] == 15
    assert (await http.post(path, json={"amount": 6}, headers=key)).status_code == 409


async def test_the_ledger_comes_in_pages_newest_first(http: httpx.AsyncClient) -> None:
    talk = await new_talk(http)
    budget = await budget_of(http, talk.id, 10)
    for amount in (1, 2, 3):
        await post(http, f"/v1/budgets/{budget['id']}/top-up", {"amount": amount}, 200)
    page = await get(http, f"/v1/budgets/{budget['id']}/ledger", offset=1, limit=1)
    assert ([each["amount"] for each in page["data"]], page["total"]) == ([-2], 3)
    assert "offset=2" in page["next_url"]


async def test_members_see_what_applies_to_them_and_change_nothing(tmp_path: Path) -> None:
    async with Server(tmp_path / "data") as guarded:
        token = await with_login(guarded)
        async with person(guarded, token) as owner:
            me = await get(owner, "/v1/auth/me")
            ada, her_token = await add_member(owner, "ada")
            shared = await budget_of(owner, me["organization_id"], PLENTY)
            hers = await budget_of(owner, ada["id"], PLENTY)
            others = await budget_of(owner, me["id"], PLENTY)
            async with person(guarded, her_token) as her:
                seen = await get(her, "/v1/budgets")
                assert [each["id"] for each in seen["data"]] == [hers["id"], shared["id"]]
                talk = await new_talk(her)
                applied = (await get(her, talk.path("/budgets")))["data"]
                assert [each["id"] for each in applied] == [shared["id"], hers["id"]]
                await get(her, f"/v1/budgets/{others['id']}", 404)
                await get(her, f"/v1/budgets/{others['id']}/ledger", 404)
                path = f"/v1/budgets/{hers['id']}"
                assert (await patch(her, path, {"limit": 1}, 403))["code"] == "role_required"
                await post(her, f"{path}/top-up", {"amount": 1}, 403)
                assert (await her.delete(path)).status_code == 403
                body = {"subject_type": "session", "subject_id": talk.id, "currency": "usd", "limit": 1}
                await post(her, "/v1/budgets", body, 403)
                await patch(owner, path, {"limit": SHORT})
                await talk.say(script(STEP))
                await talk.logged_until("turn.parked")
                (item,) = (await get(her, "/v1/inbox", session_id=talk.id))["data"]
                assert (item["kind"], item["you_may_decide"]) == ("budget", False)
                assert (await get(her, "/v1/inbox", mine=True))["total"] == 0
