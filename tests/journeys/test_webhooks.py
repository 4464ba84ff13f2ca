"""Webhooks over HTTP, from the client and the command: signed events of tasks that sub-agents work on."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from aiohttp import web

from perdure.client import ApiError, Client
from tests.hooks import SECRET, Receiver, receiving, spawns
from tests.journeys.keyed import add_member, person, with_login
from tests.journeys.test_guides import blocks_of
from tests.server import Server, use_simulated_model
from tests.talk import Json, Talk, call, new_talk, script, when

WEATHER = {
    "type": "client_side",
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object"},
}
UNKNOWN = "webhook_" + "0" * 32


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as opened:
        yield opened


@pytest_asyncio.fixture
async def server(database_url: str, tmp_path: Path) -> AsyncIterator[Server]:
    environment = {"PERDURE_PRIVATE_ADDRESSES": "127.0.0.1"}
    async with Server(tmp_path / "data", database_url=database_url, environment=environment) as running:
        yield running
    assert "Traceback" not in running.log.read_text()


@pytest_asyncio.fixture
async def http(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as opened:
        await use_simulated_model(opened)
        yield opened


@pytest_asyncio.fixture
async def client(http: httpx.AsyncClient) -> AsyncIterator[Client]:
    async with Client(str(http.base_url)) as made:
        yield made


async def family(http: httpx.AsyncClient, *steps: Json) -> tuple[Talk, str]:
    """A session whose sub-agent does this; and the id of its task."""
    talk = await new_talk(http, capabilities=[{"ref": "subagents"}], tools=[WEATHER])
    await talk.say(script({"tool_calls": [spawns("a", *steps)]}, {"text": "Begun."}))
    (created,) = [each for each in await talk.logged_until("session.idled") if each["type"] == "task.created"]
    return talk, str(created["data"]["task"]["id"])


async def test_a_webhook_hears_of_a_sub_agents_end_and_its_deliveries_are_seen(
    http: httpx.AsyncClient, client: Client, receiver: Receiver
) -> None:
    hook = await client.create_webhook(receiver.url())
    assert hook.secret is not None
    await client.update_webhook(hook.id, secret=SECRET)
    talk, task = await family(http, {"text": "Found it."})
    (received,) = await receiver.until(1)
    assert received.is_signed_with(SECRET)
    data = received.json["data"]
    assert (data["task_id"], data["session_id"], received.state) == (task, talk.id, "succeeded")
    (event,) = [each for each in await talk.events() if each["sequence"] == data["sequence"]]
    assert event["data"]["task"] == data["task"]

    async def noted() -> bool:
        return [each.state for each in await client.list_webhook_deliveries(hook.id)] == ["delivered"]

    await when(noted)
    assert (await client.test_webhook(hook.id)).state == "delivered"
    receiver.answer = lambda received: web.Response(status=410)
    assert (await client.test_webhook(hook.id)).error == "the receiver answered 410"
    assert [each.id for each in await client.list_webhooks()] == [hook.id]
    await client.delete_webhook(hook.id)
    for work in (
        client.get_webhook,
        client.delete_webhook,
        client.list_webhook_deliveries,
        client.test_webhook,
    ):
        with pytest.raises(ApiError) as refused:
            await work(hook.id)
        assert refused.value.code == "webhook_not_found"


async def test_a_task_tells_its_own_webhook(
    http: httpx.AsyncClient, client: Client, receiver: Receiver
) -> None:
    waits = {"tool_calls": [call("weather")]}
    talk, task = await family(http, waits)
    wanted = ("awaiting_input", "canceled", "succeeded", "failed")
    config = await client.create_push_config(
        talk.id, task, receiver.url(), secret=SECRET, event_filter=wanted
    )
    assert config.event_filter == wanted
    assert config.secret is None
    other = await client.create_push_config(talk.id, task, receiver.url("/other"))
    assert [each.id for each in await client.list_push_configs(talk.id, task)] == [config.id, other.id]
    await client.delete_push_config(talk.id, task, other.id)
    with pytest.raises(ApiError) as refused:
        await client.delete_push_config(talk.id, task, other.id)
    assert refused.value.code == "push_config_not_found"
    await talk.http.post(talk.path("/cancel"))

    async def ended() -> bool:
        return bool(receiver.came) and receiver.came[-1].state == "canceled"

    await when(ended)
    assert {each.path for each in receiver.came} == {"/hook"}
    assert all(each.is_signed_with(SECRET) for each in receiver.came)
    assert [each.sequence for each in receiver.came] == sorted(each.sequence for each in receiver.came)
    with pytest.raises(ApiError) as late:
        await client.create_push_config(talk.id, task, receiver.url())
    assert (late.value.status, late.value.code) == (409, "task_ended")


async def test_only_admins_manage_them_and_a_repeated_request_shows_no_secret_again(
    server: Server, receiver: Receiver
) -> None:
    token = await with_login(server)
    async with person(server, token) as admin:
        key = {"idempotency-key": "the same"}
        answers = [
            await admin.post("/v1/task-webhooks", json={"url": receiver.url()}, headers=key) for _ in range(2)
        ]
        assert [each.status_code for each in answers] == [201, 201]
        assert len({each.json()["secret"] for each in answers}) == 2  # keys count for nothing here
        _, member = await add_member(admin, "bob", "member")
    async with person(server, member) as http:
        for method, path in (("GET", ""), ("POST", ""), ("GET", f"/{UNKNOWN}"), ("POST", f"/{UNKNOWN}/test")):
            answer = await http.request(
                method, f"/v1/task-webhooks{path}", json={"url": receiver.url()} if method == "POST" else None
            )
            assert (answer.status_code, answer.json()["code"]) == (403, "role_required")


async def test_the_receiver_of_the_guide_takes_what_is_genuine_and_nothing_else(
    client: Client,
) -> None:
    (program,) = (
        each.text for each in blocks_of("docs/guide/webhooks.md") if "ThreadingHTTPServer" in each.text
    )
    assert '("127.0.0.1", 8000), Receiver).serve_forever()' in program
    program = program.replace(
        'ThreadingHTTPServer(("127.0.0.1", 8000), Receiver).serve_forever()',
        'server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)\n'
        "print(server.server_address[1], flush=True)\nserver.serve_forever()",
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program),
        env={**os.environ, "WEBHOOK_SECRET": SECRET},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{int(await process.stdout.readline())}/"
        right = await client.create_webhook(url, SECRET)
        wrong = await client.create_webhook(url)
        assert (await client.test_webhook(wrong.id)).error == "the receiver answered 401"
        assert (await client.test_webhook(right.id)).state == "delivered"
        assert await process.stdout.readline() == b"webhook.test None\n"
    finally:
        process.kill()
        await process.wait()
