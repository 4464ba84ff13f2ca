"""Administrators look at turns, cancel one, and have those tried again that were sealed or are stuck."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.command import perdure
from tests.journeys import failing_turns
from tests.journeys.keyed import add_member, person, with_login
from tests.server import Server, post, use_simulated_model
from tests.talk import Talk, kinds_of, new_talk, script, when


def failing(folder: Path, url: str = "") -> tuple[Server, Path]:
    """A server that cannot read some turns, as long as a file exists."""
    fault = folder / "fault"
    fault.touch()
    server = Server(folder / "data", database_url=url)
    server.program = (failing_turns.__file__, str(fault))
    return server, fault


async def listed(http: httpx.AsyncClient, what: str, **query: Any) -> Any:
    answer = await http.get(f"/v1/durable/{what}", params=query)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["total"] >= len(body["data"])
    return body["data"]


async def refused(http: httpx.AsyncClient, method: str, path: str) -> str:
    answer = await http.request(method, f"/v1/durable/{path}")
    assert answer.status_code >= 400, answer.text
    return str(answer.json()["code"])


async def test_what_runs_waits_or_was_sealed_is_listed_and_can_be_cancelled_and_retried(
    tmp_path: Path,
) -> None:
    server, fault = failing(tmp_path)
    await check_turns(server, fault)


@pytest.mark.soak
async def test_and_so_it_is_on_postgresql(postgres_url: str, tmp_path: Path) -> None:
    server, fault = failing(tmp_path, postgres_url)
    await check_turns(server, fault)


async def check_turns(server: Server, fault: Path) -> None:
    async with server, httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        await use_simulated_model(http)
        sick = await new_talk(http)
        await sick.say(script({"text": "Well again."}, ask=failing_turns.PILL))
        await check_live(http, server)
        await check_sealed(http, server, sick, fault)


async def check_live(http: httpx.AsyncClient, server: Server) -> None:
    busy, parked, done = [await new_talk(http) for _ in range(3)]
    await busy.say(script({"text": "Late.", "first_ms": 60_000}))
    await busy.logged_until("reason.started")
    queue = {"controls": {"when_busy": "queue"}}
    await busy.say(script({"text": "Next."}), **queue)
    limited = {"code": "provider_rate_limited", "status": 429, "retry_after": 3600}
    await parked.say(script({"fail": limited}))
    await parked.logged_until("turn.parked")
    events = await done.turn({"text": "Done."})
    found = {each["input"]["session_id"]: each for each in await listed(http, "workflows", status="parked")}
    assert list(found) == [parked.id]
    assert [each["kind"] for each in found[parked.id]["parked_on"]] == ["rate_limit"]
    (waits,) = await listed(http, "workflows", status="pending")
    assert waits["input"]["session_id"] == busy.id

    async def is_known() -> bool:
        runs = await listed(http, "workflows", status="running")
        mine = [each for each in runs if each["input"]["session_id"] == busy.id]
        (worker,) = (await http.get("/v1/durable/workers")).json()["data"]
        return [each.get("worker_id") for each in mine] == [worker["id"]]

    await when(is_known)
    ids = [each["id"] for each in await listed(http, "workflows")]
    paged = [(await listed(http, "workflows", offset=index, limit=1))[0]["id"] for index in range(len(ids))]
    assert paged == ids
    turn = next(each for each in ids if each.startswith(busy.id) and each != waits["id"])
    shown = (await http.get(f"/v1/durable/workflows/{turn}")).json()
    assert (shown["status"], shown["recoveries"]) == ("running", 0)
    assert await refused(http, "POST", f"workflows/{waits['id']}/cancel") == "turn_not_running"
    out = (await perdure("admin", "turns", "--cancel", turn, url=server.url)).out
    assert f"{parked.id}." in out
    assert "rate_limit" in out
    assert await refused(http, "POST", f"workflows/{turn}/cancel") == "turn_not_running"
    assert (await http.get(f"/v1/durable/workflows/{turn}")).json()["status"] == "cancelled"
    assert "turn.completed" in kinds_of(await busy.logged_until("session.idled"))  # the one that waited
    assert (await http.get(f"/v1/durable/workflows/{waits['id']}")).json()["status"] == "completed"
    ended = f"{done.id}.{events[-1]['data']['turn_id']}"
    of_turn = await listed(http, f"workflows/{ended}/events")
    logged = [each for each in await done.events() if each["context"].get("turn_id") == ended.split(".")[1]]
    assert [(each["sequence_num"], each["event_data"]) for each in of_turn] == [
        (each["sequence"], each["data"]) for each in logged
    ]
    some = await listed(http, f"workflows/{ended}/events", after_sequence=of_turn[0]["id"], limit=2)
    assert some == of_turn[1:3]
    for wrong in ("nonsense", f"{done.id}.turn_{'0' * 32}", f"{done.id}.next"):
        assert await refused(http, "GET", f"workflows/{wrong}") == "workflow_not_found"
    await http.delete(parked.path())
    await http.delete(busy.path())


async def check_sealed(http: httpx.AsyncClient, server: Server, sick: Talk, fault: Path) -> None:
    async def is_stuck() -> bool:
        return [each["state"] for each in await listed(http, "dlq")] == ["stuck"]

    await when(is_stuck)
    (stuck,) = await listed(http, "dlq")
    assert stuck["attempts"] >= 2
    tried = (await http.post(f"/v1/durable/dlq/{stuck['id']}/retry")).json()
    assert tried == {"workflow_id": stuck["id"]}
    org = (await http.get("/v1/orgs")).json()["data"][0]["id"]
    log = await http.get(f"/v1/orgs/{org}/audit-logs", params={"domain": "turn"})
    (entry,) = log.json()["data"]
    assert (entry["action"], entry["entity"]["id"]) == ("turn.retried", sick.id)
    assert (entry["before"], entry["after"]) == ({"recoveries": stuck["attempts"]}, {"recoveries": 0})
    await sick.logged_until("turn.sealed")
    (sealed,) = await listed(http, "dlq")
    assert (sealed["id"], sealed["state"], sealed["attempts"]) == (stuck["id"], "sealed", 3)
    (failed,) = await listed(http, "workflows", status="failed")
    assert (failed["id"], failed["error"]["code"]) == (sealed["id"], "no_progress")
    assert (await http.get(f"/v1/durable/workflows/{sealed['id']}")).json() == failed
    assert (await http.get("/v1/durable/health")).json()["dlq_size"] == 1
    said = await perdure("admin", "stuck", url=server.url)
    assert said.out.splitlines()[1].split("\t")[:3] == [sealed["id"], "sealed", "3"]
    assert "unhealthy" not in (await perdure("admin", "health", url=server.url)).out
    fault.unlink()
    done = json.loads((await perdure("admin", "retry", sealed["id"], "--json", url=server.url)).out)
    assert done["workflow_id"].startswith(f"{sick.id}.")
    assert done["workflow_id"] != sealed["id"]
    await sick.logged_until("turn.completed")
    messages = await sick.messages()
    assert [each["role"] for each in messages] == ["user", "agent", "user", "agent"]
    assert messages[2]["content"] == messages[0]["content"]
    assert messages[2]["metadata"]["retry_of"] == messages[0]["id"]
    assert await listed(http, "dlq") == []
    again = await perdure("admin", "retry", sealed["id"], url=server.url)
    assert (again.status, "has gone on since" in again.err) == (1, True)
    out = (await perdure("admin", "workers", url=server.url)).out
    assert f"\t{server.pid}\t" in out


async def test_administrators_see_the_turns_of_their_own_organization_only(tmp_path: Path) -> None:
    async with Server(tmp_path) as server:
        token = await with_login(server)
        async with person(server, token) as owner:
            talk = await new_talk(owner)
            await talk.say(script({"text": "Late.", "first_ms": 60_000}))
            await talk.logged_until("reason.started")
            (mine,) = await listed(owner, "workflows")
            _, members = await add_member(owner, "Mia")
            other = (await post(owner, "/v1/orgs", {"name": "Other"}))["id"]
        one = f"workflows/{mine['id']}"
        actions = (
            ("GET", one),
            ("GET", f"{one}/events"),
            ("POST", f"{one}/cancel"),
            ("POST", f"dlq/{mine['id']}/retry"),
        )
        async with person(server, members) as member:
            for method, path in (*actions, ("GET", "workflows"), ("GET", "dlq")):
                assert await refused(member, method, path) == "role_required"
        async with person(server, token, other) as elsewhere:
            assert await listed(elsewhere, "workflows") == []
            for method, path in actions:
                assert await refused(elsewhere, method, path) == "session_not_found"


async def test_the_circuit_breakers_of_all_processes_are_listed_and_closed(tmp_path: Path) -> None:
    async with Server(tmp_path) as server:
        token = await with_login(server)
        async with person(server, token) as http:
            mine = (await http.get("/v1/orgs")).json()["data"][0]["id"]
            provider = await post(http, "/v1/providers", {"name": "Ill", "provider_type": "llmsim"})
            model = await post(
                http,
                f"/v1/providers/{provider['id']}/models",
                {"model_id": "ill", "display_name": "Ill"},
            )
            breaker = f"circuit-breakers/{model['id']}"
            assert await refused(http, "GET", breaker) == "circuit_breaker_not_found"
            talk = await new_talk(http, model_id=model["id"])
            limited = {"code": "provider_rate_limited", "status": 429, "retry_after": 3600}
            await talk.say(script({"fail": limited}))
            await talk.logged_until("turn.parked")

            async def is_open() -> bool:
                return [each["state"] for each in await listed(http, "circuit-breakers")] == ["open"]

            await when(is_open)
            shown = (await http.get(f"/v1/durable/{breaker}")).json()
            assert (shown["key"], shown["last_error_code"]) == (model["id"], "provider_rate_limited")
            out = (await perdure("admin", "breakers", url=server.url, PERDURE_TOKEN=token)).out
            assert out.splitlines()[1].split("\t")[:2] == [model["id"], "open"]
            elsewhere = (await post(http, "/v1/orgs", {"name": "Other"}))["id"]
        async with person(server, token, elsewhere) as stranger:
            assert await listed(stranger, "circuit-breakers") == []
            for method, path in (("GET", breaker), ("POST", f"{breaker}/close")):
                assert await refused(stranger, method, path) == "model_not_found"
        async with person(server, token, mine) as http:
            assert (await http.post(f"/v1/durable/{breaker}/close")).json() == {"provider_id": provider["id"]}
            assert await listed(http, "circuit-breakers") == []
            assert await refused(http, "GET", breaker) == "circuit_breaker_not_found"
