"""Metrics of real servers, read with the parser of Prometheus's own library."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from tests.journeys.keyed import add_member, person, with_login
from tests.metrics import Samples, scrape, value
from tests.ports import free_port
from tests.server import Server, use_simulated_model
from tests.talk import Talk, body_of, call, new_talk, script, when


async def test_what_happens_in_turns_requests_and_streams_is_counted(http: httpx.AsyncClient) -> None:
    before = await scrape(http)
    talk = await new_talk(http, capabilities=[{"ref": "current_time"}, {"ref": "bashkit_shell"}])
    async with talk.follow() as stream:
        await talk.say(
            script(
                {"tool_calls": [call("get_current_time"), call("bash", command="echo hi"), call("nothing")]},
                {"text": "Well.", "fail": {"code": "provider_rate_limited", "status": 429, "times": 1}},
            )
        )
        await stream.until("session.idled")
        during = await scrape(http)
    assert value(during, "perdure_sse_followers") == value(before, "perdure_sse_followers") + 1
    assert value(during, "perdure_http_connections") >= 1
    await talk.turn({"fail": {"code": "invalid_model_request", "status": 400}})

    async def has_ended() -> bool:
        return value(await scrape(http), "perdure_sse_disconnects_total", reason="client_left") > 0

    await when(has_ended)
    after = await scrape(http)

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert grown("perdure_turns_total", outcome="completed") == 1
    assert grown("perdure_turns_total", outcome="failed", code="invalid_model_request") == 1
    assert grown("perdure_turn_duration_seconds_count") == 1
    assert grown("perdure_queue_wait_seconds_count") >= 2
    assert grown("perdure_model_calls_total", provider="llmsim", model="simulated", outcome="ok") == 2
    assert grown("perdure_model_calls_total", provider="llmsim", model="simulated", outcome="failed") == 1
    assert grown("perdure_model_retries_total", provider="llmsim", code="provider_rate_limited") == 1
    assert grown("perdure_model_failures_total", provider="llmsim", code="invalid_model_request") == 1
    assert grown("perdure_model_time_to_first_token_seconds_count", model="simulated") >= 1
    for kind in ("input", "output"):
        assert grown("perdure_model_tokens_total", model="simulated", kind=kind) > 0
    assert grown("perdure_tool_calls_total", tool="get_current_time", outcome="success") == 1
    assert grown("perdure_tool_calls_total", tool="bash", outcome="success") == 1
    assert grown("perdure_sandbox_job_duration_seconds_count") >= 1
    assert grown("perdure_sandbox_wait_seconds_count") >= 1
    assert value(after, "perdure_sandbox_jobs") == 0
    assert grown("perdure_sse_events_total") > 5
    assert grown("perdure_sse_lag_seconds_count") >= 1
    assert grown("perdure_database_wait_seconds_count", kind="write") > 3
    assert grown("perdure_database_wait_seconds_count", kind="read") > 3
    messages = {"method": "POST", "route": "/v1/sessions/{session_id}/messages"}
    assert grown("perdure_http_requests_total", status="201", **messages) == 2
    assert grown("perdure_http_request_duration_seconds_count", **messages) == 2
    assert value(after, "perdure_event_loop_delay_seconds_count") > 0
    assert value(after, "perdure_info") == 1
    _check_labels(after)


def _check_labels(samples: Samples) -> None:
    """No label is an id, so that their number stays bounded."""
    for name, labels in samples:
        for label, text in labels:
            assert not any(f"{kind}_0" in text for kind in ("session", "turn", "user", "org")), (name, label)


async def test_parked_running_and_cancelled_turns_are_counted_and_what_the_database_knows_is_cached(
    http: httpx.AsyncClient,
) -> None:
    talks = [await new_talk(http) for _ in range(3)]
    await talks[0].say(
        script({"fail": {"code": "provider_rate_limited", "status": 429, "retry_after": 3600}})
    )
    await talks[0].logged_until("turn.parked")
    await talks[1].say(script({"text": "Late.", "first_ms": 60_000}))
    await talks[1].logged_until("reason.started")

    async def is_seen() -> bool:
        seen = await scrape(http)
        return (
            value(seen, "perdure_turns_parked", kind="rate_limit") == 1
            and value(seen, "perdure_turns_running") == 1
            and value(seen, "perdure_sessions_active") == 1
        )

    await when(is_seen)
    seen = await scrape(http)
    assert value(seen, "perdure_turn_parkings_total", kind="rate_limit") == 1
    assert value(seen, "perdure_queue_jobs") == 0
    reads = value(seen, "perdure_database_wait_seconds_count", kind="search")
    for _ in range(20):
        again = await scrape(http)
    assert value(again, "perdure_database_wait_seconds_count", kind="search") <= reads + 1
    await http.post(talks[1].path("/cancel"))
    assert value(await scrape(http), "perdure_turns_total", outcome="cancelled") == 1
    await http.delete(talks[0].path())
    assert value(await scrape(http), "perdure_turns_total", outcome="cancelled") == 2


async def test_with_a_login_only_administrators_of_the_first_organization_read_the_metrics(
    tmp_path: Path,
) -> None:
    port = free_port()
    server = Server(tmp_path, environment={"PERDURE_METRICS_PORT": str(port)})
    async with server:
        token = await with_login(server)
        async with httpx.AsyncClient(base_url=server.url) as stranger:
            assert (await stranger.get("/metrics")).status_code == 401
        async with person(server, token) as owner:
            assert value(await scrape(owner), "perdure_info") == 1
            _, members = await add_member(owner, "Mia")
            other = (await owner.post("/v1/orgs", json={"name": "Other"})).json()["id"]
        async with person(server, members) as member:
            assert (await member.get("/metrics")).json()["code"] == "role_required"
        async with person(server, token, other) as elsewhere:
            assert (await elsewhere.get("/metrics")).json()["code"] == "operators_only"
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as prometheus:
            seen = await scrape(prometheus)
            assert value(seen, "perdure_http_requests_total", route="/metrics", status="401") == 1
            assert (await prometheus.get("/v1/sessions")).status_code == 404
            assert (await prometheus.get("/health")).status_code == 404
        assert await server.stop() == 0


async def test_each_process_counts_its_own_and_all_know_what_waits(postgres_url: str, tmp_path: Path) -> None:
    key = {"PERDURE_MASTER_KEY": "11" * 32}
    left = Server(tmp_path / "left", database_url=postgres_url, environment=key)
    right = Server(tmp_path / "right", database_url=postgres_url, environment=key)
    async with (
        left,
        right,
        httpx.AsyncClient(base_url=left.url, timeout=30) as one,
        httpx.AsyncClient(base_url=right.url, timeout=30) as two,
    ):
        await use_simulated_model(one)
        for _ in range(6):
            talk = await new_talk(one)
            await talk.turn({"text": "Yes."})
        asked = await new_talk(one)
        await asked.say(
            script({"fail": {"code": "provider_rate_limited", "status": 429, "retry_after": 3600}})
        )
        await asked.logged_until("turn.parked")

        async def both_know() -> bool:
            seen = await asyncio.gather(scrape(one), scrape(two))
            return all(value(each, "perdure_turns_parked", kind="rate_limit") == 1 for each in seen)

        await when(both_know)
        first, second = await scrape(one), await scrape(two)
        done = [value(each, "perdure_turns_total", outcome="completed") for each in (first, second)]
        assert sum(done) == 6
        posted = {"route": "/v1/sessions", "method": "POST", "status": "201"}
        assert value(first, "perdure_http_requests_total", **posted) == 7
        assert value(second, "perdure_http_requests_total", **posted) == 0


async def test_many_odd_requests_make_no_more_series(api: httpx.AsyncClient) -> None:
    talk = Talk(api, (await new_talk(api)).id)
    await talk.say("Hello.")
    await api.get("/metrics")
    before = len(await scrape(api))
    for number in range(100):
        await api.get(f"/nowhere/{number}")
        await api.get(f"/v1/sessions/session_{number:032x}")
        await api.post(talk.path("/messages"), json=body_of("no"), headers={"x-request-id": f"r{number}"})
    assert len(await scrape(api)) - before < 150
