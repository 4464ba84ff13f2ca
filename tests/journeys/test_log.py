"""The log of requests and turns, and the ids that name requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from tests.journeys.keyed import person, with_login
from tests.log_lines import JSON_LOG, line_with, lines_of
from tests.server import Server, post
from tests.sites import Site
from tests.stub_model import use_model_at
from tests.talk import kinds_of, new_talk, script

WORDS = "wombat-in-the-attic"
"""What a user says: it must not be in the log."""


@pytest.fixture
def environment() -> dict[str, str]:
    return {**JSON_LOG, "PERDURE_LOG_LEVEL": "debug"}


async def test_each_request_is_one_line_with_the_template_of_its_route(
    any_server: Server, http: httpx.AsyncClient
) -> None:
    talk = await new_talk(http)
    mine = {"x-request-id": "trace:42/a.b-c"}
    answer = await http.get(talk.path("/events?q=secretive&limit=3"), headers=mine)
    assert answer.headers["x-request-id"] == mine["x-request-id"]
    line = await line_with(any_server, request_id="trace:42/a.b-c", status=200)
    assert line["route"] == "/v1/sessions/{session_id}/events"
    assert line["method"] == "GET"
    assert line["message"] == "GET /v1/sessions/{session_id}/events 200"
    assert line["caller"].startswith("user_")
    assert line["org"].startswith("org_")
    assert line["ms"] > 0
    assert line["logger"] == "perdure.access"

    refused = await http.get("/v1/sessions/session_1")
    made = refused.headers["x-request-id"]
    assert refused.json()["request_id"] == made
    assert (await line_with(any_server, request_id=made, status=400))["route"] == "/v1/sessions/{session_id}"
    for bad in ("a" * 129, "two words", "é".encode(), "", "<script>", "pdr_pat_abcdefgh"):
        answer = await http.get(
            "/health", headers={b"x-request-id": bad if isinstance(bad, bytes) else bad.encode()}
        )
        assert answer.headers["x-request-id"].startswith("req_")
    nowhere = await http.get("/v1/nowhere/pdr_pat_0123456789?token=pdr_pat_0123456789")
    assert (await line_with(any_server, request_id=nowhere.json()["request_id"], status=404))["route"] == "-"
    wrong = await http.request("TRACE", talk.path())
    line = await line_with(any_server, request_id=wrong.json()["request_id"], status=405)
    assert (line["method"], line["route"]) == ("OTHER", "/v1/sessions/{session_id}")
    # At the level debug, the beginning is a line, too; health checks are only there.
    assert await line_with(any_server, logger="perdure.access", level="debug", message="GET /health 200")
    log = any_server.log.read_text()
    assert "0123456789" not in log
    assert "secretive" not in log


async def test_a_stream_is_one_line_when_it_ends_and_a_broken_request_is_one_too(
    any_server: Server, http: httpx.AsyncClient
) -> None:
    talk = await new_talk(http)
    async with talk.follow() as stream:
        await stream.next()
        ended = [each for each in lines_of(any_server) if each.get("route", "").endswith("/sse")]
        assert ended == []
    line = await line_with(any_server, route="/v1/sessions/{session_id}/sse", status=200)
    assert line["ms"] > 0
    reader, writer = await asyncio.open_connection("127.0.0.1", int(any_server.url.rsplit(":", 1)[1]))
    writer.write(b"nonsense\r\n\r\n")
    await reader.read()
    writer.close()
    assert (await line_with(any_server, status=400, method="OTHER"))["route"] == "-"
    writer = (await asyncio.open_connection("127.0.0.1", int(any_server.url.rsplit(":", 1)[1])))[1]
    writer.write(b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
    writer.write(b"Content-Length: 100\r\n\r\n{")
    await writer.drain()
    await line_with(any_server, message="POST begins", level="debug")
    writer.close()
    assert await line_with(any_server, route="/v1/sessions", status=499)


async def test_retried_failed_cancelled_and_parked_turns_are_lines_without_what_anybody_said(
    any_server: Server, http: httpx.AsyncClient
) -> None:
    talk = await new_talk(http)
    flaky = {
        "text": WORDS,
        "fail": {"code": "provider_rate_limited", "status": 429, "message": WORDS, "times": 1},
    }
    await talk.turn(flaky, ask=WORDS)
    line = await line_with(any_server, message="model call retried", session=talk.id)
    assert line["turn"].startswith("turn_")
    assert (line["provider"], line["model"]) == ("llmsim", "simulated")
    assert (line["code"], line["status"], line["attempt"]) == ("provider_rate_limited", 429, 1)
    assert line["pause"] > 0

    await talk.turn({"fail": {"code": "invalid_model_request", "status": 400, "message": WORDS}}, ask=WORDS)
    line = await line_with(any_server, message="turn failed", session=talk.id)
    assert line["code"] == "invalid_model_request"
    assert line["turn"].startswith("turn_")
    assert (await line_with(any_server, message="model call failed", turn=line["turn"]))["attempt"] == 1

    said = await talk.say(script({"text": "Late.", "first_ms": 60_000}, ask=WORDS))
    await talk.logged_until("reason.started", after=said["sequence"])
    await post(http, talk.path("/cancel"), {}, status=200)
    assert await line_with(any_server, message="turn fenced", session=talk.id)

    later = {"code": "provider_rate_limited", "status": 429, "message": WORDS, "retry_after": 3600}
    await talk.say(script({"fail": later}, ask=WORDS))
    assert (await line_with(any_server, message="turn parked", session=talk.id))["kind"] == "rate_limit"
    assert WORDS not in any_server.log.read_text()


async def test_a_vendors_401_names_the_provider(
    any_server: Server, http: httpx.AsyncClient, site: Site
) -> None:
    told = {"error": {"message": f"Incorrect API key: none. You sent {WORDS}", "code": "invalid_api_key"}}
    site.answers["/v1/chat/completions"] = web.json_response(told, status=401)
    model = await use_model_at(http, site.url("/v1"))
    talk = await new_talk(http, model_id=model)
    await talk.say(WORDS)
    assert "turn.failed" in kinds_of(await talk.logged_until("session.idled"))
    line = await line_with(any_server, message="model call failed", session=talk.id)
    assert (line["provider"], line["provider_name"], line["model"]) == ("openai_completions", "Stub", "stub")
    assert line["provider_id"].startswith("provider_")
    assert (line["code"], line["status"]) == ("provider_auth", 401)
    assert WORDS not in any_server.log.read_text()


async def test_with_a_login_the_line_names_the_token_and_a_refusal_nobody(tmp_path: Path) -> None:
    async with Server(tmp_path, environment=JSON_LOG) as server:
        token = await with_login(server)
        async with person(server, token) as http:
            answer = await http.get("/v1/sessions")
        line = await line_with(server, request_id=answer.headers["x-request-id"])
        assert line["token"].startswith("token_")
        async with httpx.AsyncClient(base_url=server.url) as http:
            answer = await http.get("/v1/sessions", headers={"authorization": "Bearer pdr_pat_wrongwrong"})
        line = await line_with(server, request_id=answer.json()["request_id"])
        assert (line["status"], line.get("caller")) == (401, None)
        assert token not in server.log.read_text()
        assert "wrongwrong" not in server.log.read_text()
        assert await server.stop() == 0
        assert all(json.loads(line) for line in server.log.read_text().splitlines())


async def test_a_log_that_nobody_reads_holds_up_neither_requests_nor_the_end(tmp_path: Path) -> None:
    server = Server(tmp_path / "data")
    server.data.mkdir()
    os.mkfifo(server.log)
    end = os.open(server.log, os.O_RDWR | os.O_NONBLOCK)
    try:
        with contextlib.suppress(BlockingIOError):  # standard error is a pipe that is full
            while True:
                os.write(end, b"x" * 4096)
        await server.start()
        async with httpx.AsyncClient(base_url=server.url) as http:
            for _ in range(50):
                assert (await http.get("/v1/sessions")).status_code == 200
        assert await server.stop() == 0
    finally:
        await server.kill()
        os.close(end)
