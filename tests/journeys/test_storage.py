"""Key-value pairs and secrets: stored with the session; secrets are never shown."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import httpx
import pytest

from tests.server import Server, use_simulated_model
from tests.talk import Json, call, new_talk

SECRET = 'hunter2 "very" secret'


def results_in(events: list[Json]) -> list[Json]:
    return [event["data"] for event in events if event["type"] == "tool.completed"]


def value_of(result: Json) -> Json:
    found: Json = json.loads(result["result"][0]["text"])
    return found


async def test_values_are_set_read_listed_and_deleted(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    operations = [
        {"operation": "set", "key": "a", "value": "1"},
        {"operation": "set", "key": "b", "value": "é😀"},
        {"operation": "get", "key": "b"},
        {"operation": "delete", "key": "a"},
        {"operation": "list"},
        {"operation": "get", "key": "a"},
    ]
    steps = [{"tool_calls": [call("kv_store", **each)]} for each in operations]
    found = [value_of(result) for result in results_in(await talk.turn(*steps, {"text": "Done."}))]
    assert found[2]["value"] == "é😀"
    assert found[3]["deleted"]
    assert found[4]["keys"] == ["b"]
    assert not found[5]["found"]
    listed = (await api.get(talk.path("/storage/keys"))).json()["data"]
    assert [(each["key"], each["value"]) for each in listed] == [("b", "é😀")]


async def test_a_call_without_a_required_argument_gets_an_error(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    (result,) = results_in(
        await talk.turn({"tool_calls": [call("kv_store", operation="set", key="a")]}, {"text": "Done."})
    )
    assert result["error"] == "the operation set needs `value`"


async def test_secrets_are_written_over_http_and_only_their_names_come_back(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    answer = await api.put(
        talk.path("/storage/secrets"), json={"secrets": {"TOKEN": SECRET, "OTHER": "x" * 40}}
    )
    assert answer.json() == {"count": 2}
    listed = (await api.get(talk.path("/storage/secrets"))).json()["data"]
    assert [each["name"] for each in listed] == ["OTHER", "TOKEN"]
    assert "value" not in listed[0]


@pytest.mark.parametrize(
    "form", [SECRET, base64.b64encode(SECRET.encode()).decode(), json.dumps({"deep": json.dumps(SECRET)})]
)
async def test_a_secret_is_nowhere_in_the_log_however_it_arrives(api: httpx.AsyncClient, form: str) -> None:
    talk = await new_talk(api)
    await api.put(talk.path("/storage/secrets"), json={"secrets": {"TOKEN": SECRET}})
    steps = [
        {"text": f"I know {form}.", "tool_calls": [call("write_file", path="/x", content=form)]},
        {"tool_calls": [call("read_file", path="/x")]},
        {"text": f"It was {form}."},
    ]
    await talk.turn(*steps, ask=f"Mind {form}.")
    shown = json.dumps(await talk.events(), ensure_ascii=False) + json.dumps(
        await talk.messages(), ensure_ascii=False
    )
    exported = (await api.get(talk.path("/export"))).text
    for leak in ("hunter2", base64.b64encode(SECRET.encode()).decode().rstrip("=")):
        assert leak not in shown
        assert leak not in exported
    assert "[secret TOKEN]" in shown


async def test_a_secret_that_the_model_stores_reaches_the_store_and_no_event(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    store = call("secret_store", operation="set", key="PIN", value="walrus-2209")
    steps = [
        {"tool_calls": [store]},
        {"tool_calls": [call("secret_store", operation="get", key="PIN")]},
        {"text": "Kept."},
    ]
    # The first message contains the script, and therefore the value; no later event does.
    events = await talk.turn(*steps)
    after = [
        event
        for event in events
        if event["type"] != "input.message" and event["type"] not in ("turn.started", "turn.completed")
    ]
    spoken = [event for event in after if event["type"] != "llm.generation"]
    assert "zebra" not in json.dumps(spoken)
    assert value_of(results_in(events)[-1]) == {"key": "PIN", "found": True, "value": "[secret PIN]"}


async def test_live_text_shows_no_secret_even_when_it_arrives_in_pieces(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    await api.put(talk.path("/storage/secrets"), json={"secrets": {"TOKEN": "alpha beta gamma delta"}})
    async with talk.follow() as stream:
        await talk.say(
            "[[sim " + json.dumps([{"text": "It is alpha beta gamma delta, no more.", "delay_ms": 60}]) + "]]"
        )
        seen = await stream.until("turn.completed")
    texts = [each.data["data"]["accumulated"] for each in seen if each.kind == "output.message.delta"]
    assert texts
    assert not any("alpha" in text for text in texts), texts
    assert texts[-1] == "It is [secret TOKEN], no more."


async def test_a_stored_secret_is_unreadable_in_the_database_file(tmp_path: Path) -> None:
    async with Server(tmp_path / "data") as server, httpx.AsyncClient(base_url=server.url) as http:
        await use_simulated_model(http)
        talk = await new_talk(http)
        await http.put(talk.path("/storage/secrets"), json={"secrets": {"TOKEN": "plainly-to-be-seen"}})
    held = b"".join(path.read_bytes() for path in (tmp_path / "data").glob("perdure.db*"))
    assert b"plainly" not in held


async def test_a_message_with_a_secret_is_redacted_in_its_answer_and_idempotency_record(
    tmp_path: Path,
) -> None:
    async with Server(tmp_path / "data") as server, httpx.AsyncClient(base_url=server.url) as http:
        await use_simulated_model(http)
        talk = await new_talk(http)
        await http.put(talk.path("/storage/secrets"), json={"secrets": {"TOKEN": "plainly-to-be-seen"}})
        body = {"message": {"content": [{"type": "text", "text": "Use plainly-to-be-seen."}]}}
        key = {"Idempotency-Key": "once"}
        answers = [await http.post(talk.path("/messages"), json=body, headers=key) for _ in range(2)]
        assert [answer.json()["content"][0]["text"] for answer in answers] == ["Use [secret TOKEN]."] * 2
        assert answers[0].json()["id"] == answers[1].json()["id"]
        await talk.logged_until("session.idled")
    held = b"".join(path.read_bytes() for path in (tmp_path / "data").glob("perdure.db*"))
    assert b"plainly" not in held
