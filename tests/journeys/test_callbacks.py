"""Tools whose results come later, through a URL that somebody calls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.deferring import installed, result_of, urls_on
from tests.postgres_server import PostgresServer
from tests.server import Server, post, use_simulated_model
from tests.talk import Json, Talk, call, kinds_of, new_talk, script, text_in, when

WEATHER = {
    "type": "client_side",
    "name": "weather",
    "description": "Look outside.",
    "parameters": {"type": "object"},
}


IMAGES: tuple[Json, ...] = (
    {"result": {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}},
    {"content": [{"type": "text", "text": "x"}, {"type": "image", "data": "!", "mimeType": "image/png"}]},
    {"type": "image", "source": {"type": "base64", "data": "AAAA", "media_type": "text/html"}},
)
"""Results with images that no model can receive, in the forms in which results may contain them."""


@dataclass
class Desk:
    """A server with deferring tools, and the folder in which they put their URLs."""

    server: Server
    folder: Path
    orders: int = 0

    async def order(
        self, talk: Talk, *others: Json, tool: str = "order", then: str = "Done.", **more: Any
    ) -> list[str]:
        """Have the model make an order and perhaps other calls; returns the URLs of its callbacks."""
        self.orders += 1
        note = f"order-{self.orders}"
        first = call(tool, _id="c1", desk=str(self.folder), note=note, **more)
        await talk.say(script({"tool_calls": [first, *others]}, {"text": then}))
        return await urls_on(self.folder, note)


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["sqlite", "postgres"])
async def desk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> AsyncIterator[Desk]:
    url = await postgres_server.create_database() if request.param == "postgres" else ""
    folder = tmp_path_factory.mktemp("desk")
    environment = installed(folder / "site")
    async with Server(folder / "data", database_url=url, environment=environment) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            await use_simulated_model(http)
        yield Desk(server, folder)


@pytest_asyncio.fixture(loop_scope="session")
async def client(desk: Desk) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=desk.server.url, timeout=30) as opened:
        yield opened


pytestmark = pytest.mark.asyncio(loop_scope="session")


async def _talk(client: httpx.AsyncClient, **fields: Any) -> Talk:
    return await new_talk(client, harness_name="base", capabilities=[{"ref": "deferring"}], **fields)


async def _parked(talk: Talk) -> Json:
    """The session, once it rests with a parked call."""
    await talk.logged_until("act.completed")
    return await talk.read()


async def _open(talk: Talk) -> list[Json]:
    found: list[Json] = (await talk.http.get(talk.path("/callbacks"))).json()["data"]
    return found


async def test_a_parked_call_gets_its_result_from_its_url(desk: Desk, client: httpx.AsyncClient) -> None:
    talk = await _talk(client)
    (url,) = await desk.order(talk)
    session = await _parked(talk)
    (parked,) = session["parked_on"]
    assert session["status"] == "active"
    assert (parked["kind"], parked["tool_call_id"], parked["tool_name"]) == ("callback", "c1", "order")
    (listed,) = await _open(talk)
    assert (
        listed["tool_call_id"],
        listed["in_background"],
        listed["expires_at"] >= parked["until"][:19],
    ) == (
        "c1",
        False,
        True,
    )
    answer = await client.post(url, json={"arrived": True})
    assert (answer.status_code, answer.json()) == (200, {"status": "accepted"})
    events = await talk.logged_until("session.idled")
    assert json.loads(result_of(events, "c1")["result"][0]["text"]) == {"arrived": True}
    assert kinds_of(events)[-8:].count("turn.completed") == 1
    (act,) = [event["data"] for event in events if event["type"] == "act.completed"]
    assert (act["completed"], act["success_count"], act["error_count"]) == (False, 0, 0)
    (event,) = [event["data"] for event in events if event["type"] == "tool.parked"]
    assert event["kind"] == "callback"
    assert 3_500_000 < event["timeout_ms"] <= 3_600_000
    assert "parked_on" not in await talk.read()
    assert await _open(talk) == []
    # The token is nowhere: what the tool said about it is redacted.
    token = url.rsplit("/", 1)[1]
    assert token not in json.dumps(events)
    assert "a delivery to" in event["message"]
    assert token not in desk.server.log.read_text()


@pytest.mark.parametrize(
    ("content", "media", "succeeds", "expected"),
    [
        (b'{"result": {"a": 1}}', "application/json", True, '{"a":1}'),
        (b'{"result": null}', "application/json", True, "null"),
        (b'{"error": "sold out"}', "application/json", False, "sold out"),
        (b'{"error": "e", "more": 1}', "application/json", True, '{"error":"e","more":1}'),
        (b'{"error": {"code": 7}}', "application/json", True, '{"error":{"code":7}}'),
        (b"[1, 2]", "application/vnd.x+json", True, "[1,2]"),
        (b"it is here", "text/plain; charset=utf-8", True, "it is here"),
        (b'{"error": "as text"}', "text/plain", True, '{"error": "as text"}'),
        (b'{"result": "curl"}', "application/x-www-form-urlencoded", True, "curl"),
        ("déjà".encode(), "", True, "déjà"),
        (b"", "", True, "null"),
    ],
)
async def test_json_and_text_are_results(
    content: bytes, media: str, succeeds: bool, expected: str, desk: Desk, client: httpx.AsyncClient
) -> None:
    talk = await _talk(client)
    (url,) = await desk.order(talk)
    headers = {"content-type": media} if media else {}
    assert (await client.post(url, content=content, headers=headers)).status_code == 200
    done = result_of(await talk.logged_until("session.idled"), "c1")
    assert done["success"] is succeeds
    assert (done["result"][0]["text"] if succeeds else done["error"]) == expected


async def test_what_cannot_be_a_result_is_refused_and_the_url_stays_valid(
    desk: Desk, client: httpx.AsyncClient
) -> None:
    talk = await _talk(client)
    (url,) = await desk.order(talk)
    deep = b"[" * 5000 + b"]" * 5000
    json_type = {"content-type": "application/json"}
    for content, headers, status in (
        (b"{", json_type, 400),
        (deep, json_type, 400),
        (b"\xff\xfe", {}, 400),
        (b'"a\\u0000"', json_type, 400),
        (b"a\x00", {"content-type": "text/plain"}, 400),
        (json.dumps("x" * 110_000).encode(), json_type, 413),
        (json.dumps({"error": "x" * 110_000}).encode(), json_type, 413),
        (b"x" * 1_100_000, {}, 413),
        (b"x", {"content-encoding": "gzip"}, 415),
        *((json.dumps(image).encode(), json_type, 400) for image in IMAGES),
    ):
        answer = await client.post(url, content=content, headers=headers)
        assert answer.status_code == status, (content[:20], answer.text)
        assert url.rsplit("/", 1)[1] not in answer.text
    assert (await client.get(url)).status_code == 405
    assert (await client.post(url, json="at last")).status_code == 200
    assert result_of(await talk.logged_until("session.idled"), "c1")["result"][0]["text"] == "at last"


async def test_used_late_cancelled_and_unknown_urls_answer_alike(
    desk: Desk, client: httpx.AsyncClient
) -> None:
    gone: list[str] = [
        f"{desk.server.url}/v1/callbacks/pdr_cb_{'x' * 43}",
        f"{desk.server.url}/v1/callbacks/é",
    ]
    used = await _talk(client)
    gone += await desk.order(used)
    assert (await client.post(gone[-1], json=1)).status_code == 200

    cancelled = await _talk(client)
    gone += await desk.order(cancelled)
    await _parked(cancelled)
    assert await cancelled.cancel() == "cancelled"
    assert "parked_on" not in await cancelled.read()
    assert (await _open(cancelled), (await cancelled.read())["status"]) == ([], "idle")

    deleted = await _talk(client)
    gone += await desk.order(deleted)
    await _parked(deleted)
    assert (await client.delete(deleted.path())).status_code == 204

    late = await _talk(client)
    gone += await desk.order(late, seconds=0.3)
    events = await late.logged_until("session.idled")
    assert result_of(events, "c1")["status"] == "timeout"

    done = await _talk(client)
    gone += await desk.order(done, early="I have it already")
    await done.logged_until("session.idled")
    assert await _open(done) == []

    withdrawn = await _talk(client)
    gone += await desk.order(withdrawn)
    (listed,) = await _open(withdrawn)
    path = withdrawn.path(f"/callbacks/{listed['id']}")
    assert (await client.delete(path)).status_code == 204
    assert (await client.delete(path)).json()["code"] == "callback_not_found"
    assert result_of(await withdrawn.logged_until("session.idled"), "c1")["status"] == "cancelled"

    bodies = set()
    for url in gone:
        answer = await client.post(url, json={"a": 1}, headers={"X-Request-Id": "the-same"})
        assert answer.status_code == 410, url
        bodies.add(answer.text)
    assert len(bodies) == 1
    assert json.loads(bodies.pop())["code"] == "gone"


async def test_the_same_answer_again_gets_the_same_response_and_has_no_effect(
    desk: Desk, client: httpx.AsyncClient
) -> None:
    json_type = {"content-type": "application/json"}
    talk = await _talk(client)
    (url,) = await desk.order(talk)
    answers = await asyncio.gather(*(client.post(url, json={"a": 1, "b": [None, "é"]}) for _ in range(5)))
    assert {(answer.status_code, answer.text) for answer in answers} == {(200, '{"status":"accepted"}')}
    await talk.logged_until("session.idled")

    async def again(content: bytes) -> int:
        return (await client.post(url, content=content, headers=json_type)).status_code

    same = (
        b'{"b": [null, "\\u00e9"], "a": 1}',
        b'{"result": {"a": 1, "b": [null, "\xc3\xa9"]}}',
    )
    others = (b'{"a": 1, "b": [null]}', b'{"a": 1.5, "b": [null, "e"]}', b"", b'{"error": "e"}', b'"answer"')
    # A further callback, a cancel of its turn, and its answer do not change what is known of the first.
    (second,) = await desk.order(talk)
    await _parked(talk)
    assert [await again(content) for content in (*same, *others)] == [200] * 2 + [410] * 5
    assert [callback["in_background"] for callback in await _open(talk)] == [False]
    assert await talk.cancel() == "cancelled"
    assert [await again(content) for content in (*same, *others)] == [200] * 2 + [410] * 5
    assert (await client.post(second, json={"a": 1})).status_code == 410
    events = await talk.events()
    done = [event["data"] for event in events if event["type"] == "tool.completed"]
    assert [each["success"] for each in done] == [True]
    assert kinds_of(events).count("input.message") == 3, "two orders, and the notice of the cancel"
    assert (await client.delete(talk.path())).status_code == 204
    assert await again(same[0]) == 410


@pytest.mark.parametrize("body", [{"error": "sold out"}, {"result": None}, "late"])
async def test_failures_and_late_results_can_be_sent_again(
    body: Any, desk: Desk, client: httpx.AsyncClient
) -> None:
    talk = await _talk(client)
    (url, other) = await desk.order(talk, urls=2)
    await _parked(talk)
    if body == "late":
        await talk.turn({"text": "Meanwhile."}, ask="Something else.")
    before = (await talk.events())[-1]["sequence"]
    assert [(await client.post(url, json=body)).status_code for _ in range(3)] == [200] * 3
    await talk.logged_until("session.idled", after=before)
    assert [(await client.post(url, json=body)).status_code for _ in range(2)] == [200] * 2
    assert (await client.post(other, json=body)).status_code == 410, "its call has a result from elsewhere"
    kinds = kinds_of(await talk.events())
    assert kinds.count("tool.completed") == 1
    assert kinds.count("input.message") == (3 if body == "late" else 1)


async def test_a_url_that_is_used_too_often_is_refused_for_a_moment_and_others_are_not(
    desk: Desk, client: httpx.AsyncClient
) -> None:
    talk, other = await _talk(client), await _talk(client)
    (url,), (quiet,) = await desk.order(talk), await desk.order(other)
    for _ in range(2_000):
        answer = await client.post(url, json=1)
        if answer.status_code != 200:
            break
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    assert int(answer.headers["retry-after"]) >= 1
    assert url.rsplit("/", 1)[1] not in answer.text
    assert (await client.post(quiet, json=1)).status_code == 200
    await other.logged_until("session.idled")


async def test_a_fork_neither_takes_nor_closes_a_callback(desk: Desk, client: httpx.AsyncClient) -> None:
    talk = await _talk(client)
    (url,) = await desk.order(talk)
    await _parked(talk)
    fork = Talk(client, (await post(client, talk.path("/fork"), {}))["id"])
    assert ("parked_on" in await fork.read(), (await fork.read())["status"]) == (False, "idle")
    assert await _open(fork) == []
    before = len(await fork.events())
    assert (await client.post(url, json="for the original")).status_code == 200
    assert result_of(await talk.logged_until("session.idled"), "c1")["success"]
    assert len(await fork.events()) == before


async def test_a_callback_before_the_tool_returns_is_the_result(
    desk: Desk, client: httpx.AsyncClient
) -> None:
    for more in ({}, {"early": "the tool's own result, too late"}):
        talk = await _talk(client)
        (url,) = await desk.order(talk, slow=0.3, **more)
        assert (await client.post(url, json="first")).status_code == 200
        assert (await client.post(url, json="second")).status_code == 410
        events = await talk.logged_until("session.idled")
        assert result_of(events, "c1")["result"][0]["text"] == "first"
        assert "tool.parked" not in kinds_of(events)
        (act,) = [event["data"] for event in events if event["type"] == "act.completed"]
        assert (act["completed"], act["success_count"]) == (True, 1)


async def test_other_calls_do_not_wait_for_a_parked_one(desk: Desk, client: httpx.AsyncClient) -> None:
    talk = await _talk(client, tools=[WEATHER])
    (url,) = await desk.order(talk, call("forget", _id="c2"), call("weather", _id="c3"))
    events = await talk.logged_until("tool.call_requested")
    assert "without opening a callback" in result_of(events, "c2")["error"]
    session = await talk.read()
    assert session["status"] == "waiting_for_tool_results"
    assert sorted(each["kind"] for each in session["parked_on"]) == ["callback", "client"]
    wrong = [{"tool_call_id": "c3", "result": "sunny"}, {"tool_call_id": "c1", "result": "forged"}]
    assert (await talk.answer(*wrong, status=400))["code"] == "unknown_tool_call"
    await talk.answer({"tool_call_id": "c3", "result": "sunny"})

    async def rests() -> bool:
        return [each["kind"] for each in (await talk.read()).get("parked_on", ())] == ["callback"]

    await when(rests)
    assert (await talk.read())["status"] == "active"
    assert (await talk.answer({"tool_call_id": "c1", "result": "forged"}, status=409))["code"]
    assert (await client.post(url, json="here")).status_code == 200
    events = await talk.logged_until("session.idled")
    assert result_of(events, "c1")["result"][0]["text"] == "here"
    results = [each for each in await talk.messages() if each["role"] == "tool_result"]
    assert len(results) == 3


async def test_the_first_of_two_callbacks_of_a_call_counts(desk: Desk, client: httpx.AsyncClient) -> None:
    talk = await _talk(client)
    urls = await desk.order(talk, urls=2)
    first, _ = await _open(talk)
    assert (await client.delete(talk.path(f"/callbacks/{first['id']}"))).status_code == 204
    assert (await client.post(urls[0], json=0)).status_code == 410
    answers = await asyncio.gather(*(client.post(urls[1], json=number) for number in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 410, 410, 410]
    accepted = next(number for number, answer in enumerate(answers) if answer.status_code == 200)
    assert result_of(await talk.logged_until("session.idled"), "c1")["result"][0]["text"] == str(accepted)


async def test_after_a_message_the_call_continues_in_the_background(
    desk: Desk, client: httpx.AsyncClient
) -> None:
    talk = await _talk(client)
    await client.put(talk.path("/storage/secrets"), json={"secrets": {"KEY": "correct-horse-battery"}})
    (url,) = await desk.order(talk)
    await _parked(talk)
    events = await talk.turn({"text": "Meanwhile."}, ask="Something else.")
    said = result_of(events, "c1")
    assert said["success"]
    assert "continues in the background" in said["result"][0]["text"]
    assert [each["in_background"] for each in await _open(talk)] == [True]
    assert "parked_on" not in await talk.read()
    last = (await talk.events())[-1]["sequence"]
    assert (await client.post(url, json="correct-horse-battery arrived")).status_code == 200
    assert (await client.post(url, json="again")).status_code == 410
    events = await talk.logged_until("session.idled", after=last)
    (data,) = [event["data"] for event in events if event["type"] == "input.message"]
    message = data["message"]
    assert (data["origin"], message["metadata"]["callback"]["tool_call_id"]) == ("callback", "c1")
    assert text_in(message).endswith("[secret KEY] arrived")
    assert await _open(talk) == []


async def test_metadata_of_clients_has_no_meaning_for_the_server(client: httpx.AsyncClient) -> None:
    talk = await _talk(client, tools=[WEATHER])
    for metadata in (
        {"callback": {"callback_id": f"callback_{'0' * 32}", "tool_call_id": "c1", "tool_name": "order"}},
        {"scheduled": {"schedule_id": "schedule_1", "due_at": "2026-05-01T00:00:00Z"}},
        {"cancel_notice": True},
        {"origin": "callback"},
    ):
        before = (await talk.say(script({"tool_calls": [call("weather", _id="c1")]})))["sequence"]
        await talk.logged_until("tool.call_requested", after=before)
        sent = await talk.say(script({"text": "So."}, ask="Never mind."), metadata=metadata)
        assert sent["metadata"] == metadata
        events = await talk.logged_until("session.idled", after=before)
        assert result_of(events, "c1")["error"] == "cancelled: the user sent a new message", metadata
        assert "origin" not in next(
            event["data"] for event in events if event["sequence"] == sent["sequence"]
        )


@pytest.mark.parametrize(
    ("how", "outcome"),
    [
        ("a person", "cannot defer its result to the kind"),
        ("no time", "The tool failed: TypeError"),
        ("long ago", "The tool failed"),
        ("a fraction", None),
        ("never", None),
        ("much to say", None),
        ("a number to say", "The tool failed"),
        ("no time at all", "a callback stays open for more than 0"),
        ("too much time", "at most"),
        ("no number", "not nan"),
    ],
)
async def test_whatever_a_tool_returns_the_turn_can_go_on(
    how: str, outcome: str | None, client: httpx.AsyncClient
) -> None:
    talk = await _talk(client)
    await talk.say(script({"tool_calls": [call("odd", _id="c1", how=how)]}, {"text": "So."}))
    if outcome is None:
        assert len((await _parked(talk))["parked_on"]) == 1
        (listed,) = await _open(talk)
        assert (await client.delete(talk.path(f"/callbacks/{listed['id']}"))).status_code == 204
        outcome = "cancelled"
    assert outcome in result_of(await talk.logged_until("session.idled"), "c1")["error"]
