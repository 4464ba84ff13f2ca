"""The file tools, through the model loop: writes are stored, and no path leaves the session."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.talk import Json, Talk, call, new_talk


async def use(talk: Talk, name: str, **arguments: object) -> Json:
    """The result of one tool call."""
    events = await talk.turn({"tool_calls": [call(name, **arguments)]}, {"text": "Done."})
    assert events[-2]["type"] == "turn.completed"
    return next(event["data"] for event in events if event["type"] == "tool.completed")


def value(result: Json) -> object:
    assert result["success"], result
    text = result["result"][0]["text"]
    try:
        return json.loads(text)
    except ValueError:
        return text


async def test_a_file_is_written_read_and_edited_over_several_turns(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    value(await use(talk, "write_file", path="/notes/today.md", content="Buy milk.\nCall Ada.\n"))
    assert "Call Ada." in str(value(await use(talk, "read_file", path="notes/today.md")))
    value(await use(talk, "edit_file", path="/notes/today.md", old_text="milk", new_text="oat milk"))
    assert "Buy oat milk." in str(value(await use(talk, "read_file", path="/notes/../notes/today.md")))
    assert "today.md" in str(value(await use(talk, "list_directory", path="/notes")))


async def test_a_write_is_logged_as_an_event(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    await use(talk, "write_file", path="/a.txt", content="é")
    await use(talk, "write_file", path="/a.txt", content="eé")
    written = [event["data"] for event in await talk.events(types="file.written")]
    assert [(each["path"], each["created"], each["size_bytes"]) for each in written] == [
        ("/a.txt", True, 2),
        ("/a.txt", False, 3),
    ]


async def test_calls_of_one_answer_may_write_different_files(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    calls = [call("write_file", path=f"/f{number}", content=str(number)) for number in range(20)]
    await talk.turn({"tool_calls": calls}, {"text": "Done."})
    listed = str(value(await use(talk, "list_directory", path="/")))
    assert all(f"f{number}" in listed for number in range(20))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("read_file", {"path": "/nothing"}),
        ("read_file", {"path": "/dir"}),
        ("write_file", {"path": "/", "content": "x"}),
        ("write_file", {"path": "/dir", "content": "x"}),
        ("write_file", {"path": "/dir/file/below", "content": "x"}),
        ("write_file", {"path": "/" + "x" * 2000, "content": "x"}),
        ("edit_file", {"path": "/dir/file", "old_text": "absent", "new_text": "x"}),
        ("edit_file", {"path": "/nothing", "old_text": "a", "new_text": "b"}),
    ],
)
async def test_an_impossible_call_gets_a_clear_error(
    api: httpx.AsyncClient, name: str, arguments: Json
) -> None:
    talk = await new_talk(api)
    await use(talk, "write_file", path="/dir/file", content="present")
    result = await use(talk, name, **arguments)
    assert (result["success"], result["status"]) == (False, "error")
    assert result["error"]
    assert value(await use(talk, "read_file", path="/dir/file"))


async def test_no_path_leads_out_of_the_session(api: httpx.AsyncClient) -> None:
    mine, other = await new_talk(api), await new_talk(api)
    await use(mine, "write_file", path="../../etc/passwd", content="mine")
    assert "mine" in str(value(await use(mine, "read_file", path="/etc/passwd")))
    assert not (await use(other, "read_file", path="/etc/passwd"))["success"]


async def test_a_session_without_the_capability_has_no_files(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, harness_name="base")
    assert "file_system" not in (await talk.read())["features"]
    assert "write_file" in (await use(talk, "write_file", path="/a", content="x"))["error"]


async def test_initial_files_are_there_from_the_beginning(api: httpx.AsyncClient) -> None:
    files = [
        {"path": "/README", "content": "Read me."},
        {"path": "/fixed", "content": "Fixed.", "is_readonly": True},
    ]
    talk = await new_talk(api, initial_files=files)
    assert "Read me." in str(value(await use(talk, "read_file", path="/README")))
    assert "read-only" in (await use(talk, "write_file", path="/fixed", content="x"))["error"]
