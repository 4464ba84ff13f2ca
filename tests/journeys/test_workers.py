"""Operators look at the processes of a server, drain one, and let it take turns again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from tests.journeys.keyed import add_member, person, with_login
from tests.journeys.test_roles import process, talking_to
from tests.server import Server, use_simulated_model
from tests.talk import Talk, kinds_of, new_talk, script, when


async def workers(http: httpx.AsyncClient, **query: str) -> Any:
    answer = await http.get("/v1/durable/workers", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def status_of(http: httpx.AsyncClient, pid: int) -> Any:
    """The row of the process with this number, in the list."""
    (row,) = [each for each in (await workers(http))["data"] if each["pid"] == pid]
    return row


async def until_status(http: httpx.AsyncClient, pid: int, status: str) -> Any:
    async def there() -> bool:
        found = [each for each in (await workers(http))["data"] if each["pid"] == pid]
        return [each["status"] for each in found] == [status]

    await when(there)
    return await status_of(http, pid)


async def order(http: httpx.AsyncClient, worker: Any, verb: str) -> httpx.Response:
    return await http.post(f"/v1/durable/workers/{worker['id']}/{verb}")


async def test_a_drained_process_gives_its_turns_to_others_serves_the_api_and_resumes(
    postgres_url: str, tmp_path: Path
) -> None:
    one = process(tmp_path / "one", "serve", postgres_url, PERDURE_DRAIN_SECONDS="1")
    two = process(tmp_path / "two", "worker", postgres_url)
    api = process(tmp_path / "api", "api", postgres_url)
    async with one, api, two, talking_to(one) as http, talking_to(api) as aside:
        await use_simulated_model(http)
        first = await until_status(http, one.pid, "active")
        assert (first["worker_group"], first["accepting_tasks"]) == ("all", True)
        await (await new_talk(http)).turn({"text": "Counted."})
        talk = await new_talk(http)
        # Longer than the time that the process has: it can end only elsewhere.
        await talk.say(script({"text": "It moved.", "first_ms": 6_000}))
        await talk.logged_until("reason.started")

        async def counted() -> bool:
            row = await status_of(aside, one.pid)
            return bool(row["current_load"] == 1 and row["tasks_completed"] == 1)

        await when(counted)
        answer = await order(aside, first, "drain")
        assert (answer.status_code, answer.json()["accepting_tasks"]) == (200, False)
        await until_status(aside, one.pid, "drained")
        ended = await talk.logged_until("session.idled")
        assert kinds_of(ended).count("turn.completed") == 1
        later = await new_talk(http)  # the drained process serves the API
        await later.turn({"text": "Elsewhere."})
        assert (await status_of(aside, one.pid))["tasks_completed"] == 1
        assert [each["pid"] for each in (await workers(http, status="drained"))["data"]] == [one.pid]
        found = await workers(http, worker_group="worker")
        assert found["summary"]["draining"] == 1
        assert found["total"] == 1
        assert (await order(aside, first, "resume")).status_code == 200
        await until_status(aside, one.pid, "active")
        await two.kill()
        dead = await until_status(aside, two.pid, "stopped")
        assert (dead["current_load"], dead["accepting_tasks"]) == (0, False)
        again = await new_talk(aside)  # the API's own process runs none
        await again.turn({"text": "Here again."})
        assert "turn.completed" in kinds_of(await Talk(http, again.id).events())
        of_api = await until_status(aside, api.pid, "active")
        assert (of_api["max_concurrency"], of_api["activity_types"]) == (0, [])
        for worker in (of_api, dead):
            assert (await order(http, worker, "drain")).json()["code"] == "worker_takes_no_turns"
        health = (await http.get("/v1/durable/health")).json()
        assert (health["status"], health["workers_accepting"]) == ("healthy", 1)
        assert health["completed_workflows"] >= 3
        series = (await http.get("/v1/durable/metrics/timeseries")).json()
        assert sum(point["turns_completed"] for point in series["points"]) >= 3
        assert sum(point["tokens"] for point in series["points"]) > 0
        assert series["resolution_seconds"] == 60
    stopped = process(tmp_path / "last", "api", postgres_url)
    async with stopped, talking_to(stopped) as http:
        assert (await status_of(http, one.pid))["status"] == "stopped"  # it has said so itself


async def test_the_only_process_keeps_its_turns_until_it_takes_them_again(tmp_path: Path) -> None:
    server = Server(tmp_path, environment={"PERDURE_DRAIN_SECONDS": "0"})
    async with server, httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        await use_simulated_model(http)
        worker = await until_status(http, server.pid, "active")
        running, waiting = await new_talk(http), await new_talk(http)
        await running.say(script({"text": "Late.", "first_ms": 500}))
        await running.logged_until("reason.started")
        await order(http, worker, "drain")
        await until_status(http, server.pid, "drained")
        assert (await http.get("/v1/durable/health")).json()["status"] == "unhealthy"
        await waiting.say(script({"text": "Afterwards."}))
        assert "turn.started" not in kinds_of(await waiting.events())
        await order(http, worker, "resume")
        for talk in (running, waiting):
            ended = await talk.logged_until("session.idled")
            assert kinds_of(ended).count("turn.completed") == 1
        await server.restart()
        # The one before was killed; there is only one process on SQLite.
        assert (await until_status(http, server.pid, "active"))["tasks_completed"] == 0
        assert (await workers(http))["total"] == 1
        await order(http, await status_of(http, server.pid), "drain")
        await until_status(http, server.pid, "drained")
        assert await server.stop() == 0


async def test_processes_are_shown_to_administrators_of_the_first_organization(tmp_path: Path) -> None:
    async with Server(tmp_path) as server:
        token = await with_login(server)
        paths = ("workers", "health", "metrics/timeseries")
        async with person(server, token) as owner:
            worker = await until_status(owner, server.pid, "active")
            _, members = await add_member(owner, "Mia")
            assert (await owner.post("/v1/durable/workers/x/drain")).status_code == 400
            unknown = {"id": "worker_" + "0" * 32}
            assert (await order(owner, unknown, "drain")).json()["code"] == "worker_not_found"
            other = (await owner.post("/v1/orgs", json={"name": "Other"})).json()["id"]
        for code, who in (
            ("role_required", person(server, members)),
            ("operators_only", person(server, token, other)),
        ):
            async with who as http:
                for path in paths:
                    assert (await http.get(f"/v1/durable/{path}")).json()["code"] == code
                for verb in ("drain", "resume"):
                    assert (await order(http, worker, verb)).json()["code"] == code
