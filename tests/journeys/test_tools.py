"""Tool calls: rounds, concurrency within a round, and failures, which the model sees as results."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from perdure.app.feed import Frame, Want, open_follower
from perdure.app.storage import put_secrets
from perdure.domain.events import LIVE_TYPES
from perdure.domain.storage import SetSecrets
from tests.golden.events import check_events
from tests.inside import Gate, house_with, outcomes
from tests.talk import Json, call, kinds_of, new_talk, script


def results_in(events: list[Json]) -> list[Json]:
    return [event["data"] for event in events if event["type"] == "tool.completed"]


async def test_a_round_of_tools_leaves_exactly_these_events(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api, harness_name="base", capabilities=[{"ref": "session"}])
    usage = {"input_tokens": 20, "output_tokens": 4}
    steps = [
        {"text": "I name it.", "tool_calls": [call("write_session_title", title="Holidays")], "usage": usage},
        {"text": "It has a name.", "usage": usage},
    ]
    await talk.turn(*steps, ask="Name this session.")
    check_events("tool_round", await talk.events())


async def test_results_come_in_the_order_of_the_calls(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    calls = [
        call("write_file", path="/a", content="a"),
        call("get_current_time"),
        call("get_session_info"),
        call("nothing"),
    ]
    events = await talk.turn({"tool_calls": calls}, {"text": "Done."})
    kinds = kinds_of(events)
    assert kinds.count("act.started") == kinds.count("act.completed") == 1
    assert [kind for kind in kinds if kind.startswith("tool.")] == ["tool.started"] * 4 + [
        "tool.completed"
    ] * 4
    asked = next(
        event["data"]["message"]["content"] for event in events if event["type"] == "output.message.completed"
    )
    assert [result["tool_call_id"] for result in results_in(events)] == [part["id"] for part in asked]
    act = next(event["data"] for event in events if event["type"] == "act.completed")
    assert (act["success_count"], act["error_count"]) == (3, 1)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (call("get_current_time", timezone=7), "timezone"),
        (call("write_file", path="/a"), "content"),
        (call("get_current_time", zone="UTC"), "zone"),
        ({"name": "get_current_time", "arguments": "{not json"}, "not valid JSON"),
        ({"name": "get_current_time", "arguments": [1]}, "object"),
        ({"name": "get_current_time", "arguments": None}, "object"),
        (call("no_such_tool", x=1), "no_such_tool"),
        (call("get_current_time", timezone="Mars/Olympus"), "Mars/Olympus"),
        (call("read_file", path="/missing"), "/missing"),
    ],
    ids=[
        "wrong type",
        "missing",
        "unknown name",
        "not JSON",
        "a list",
        "null",
        "unknown tool",
        "refused",
        "failed",
    ],
)
async def test_an_impossible_call_becomes_an_error_that_the_model_sees(
    api: httpx.AsyncClient, wrong: Json, words: str
) -> None:
    talk = await new_talk(api)
    events = await talk.turn({"tool_calls": [wrong]}, {"text": "I see."})
    (result,) = results_in(events)
    assert (result["success"], result["status"]) == (False, "error")
    assert words in result["error"]
    shown = [event["data"]["messages"] for event in events if event["type"] == "llm.generation"][-1]
    assert shown[-1]["content"][0]["error"] == result["error"]
    assert events[-2]["type"] == "turn.completed"


async def test_calls_that_share_an_id_are_told_apart(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    twins = [call("get_current_time", "same"), call("get_session_info", "same")]
    results = results_in(await talk.turn({"tool_calls": twins}, {"text": "Done."}))
    assert [result["tool_name"] for result in results] == ["get_current_time", "get_session_info"]
    assert all(result["success"] for result in results)
    assert len({result["tool_call_id"] for result in results}) == 2


async def test_a_long_output_is_truncated_in_the_middle(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    content = "begin " + "x" * 100_000 + " end"
    write = {"tool_calls": [call("write_file", path="/long.txt", content=content)]}
    events = await talk.turn(write, {"tool_calls": [call("read_file", path="/long.txt")]}, {"text": "Done."})
    text = results_in(events)[1]["result"][0]["text"]
    assert len(text) < 66_000
    assert "characters left out" in text


async def test_the_calls_of_one_answer_run_at_the_same_time(tmp_path: Path) -> None:
    async with house_with(Gate(parties=3), tmp_path) as house:
        await house.say(script({"tool_calls": [call("meet"), call("meet"), call("meet")]}, {"text": "Met."}))
        assert [each.status for each in outcomes(await house.until_idle())] == ["success"] * 3


async def test_a_quick_call_waits_in_line_behind_a_slow_one(tmp_path: Path) -> None:
    gate = Gate(parties=1)
    async with house_with(gate, tmp_path) as house:
        await house.say(script({"tool_calls": [call("wait"), call("meet")]}, {"text": "Done."}))
        await gate.reached.wait()
        gate.open.set()
        assert [each.tool_name for each in outcomes(await house.until_idle())] == ["wait", "meet"]


async def test_a_tool_that_hangs_breaks_or_refuses_is_an_error_for_the_model(tmp_path: Path) -> None:
    async with house_with(Gate(parties=1), tmp_path) as house:
        await house.say(
            script(
                {"tool_calls": [call("hang"), call("explode"), call("refuse"), call("meet")]},
                {"text": "I see."},
            )
        )
        events = await house.until_idle()
        assert [each.status for each in outcomes(events)] == ["timeout", "error", "error", "success"]
        said = [each.error for each in outcomes(events)]
        assert "0.1 seconds" in said[0]
        assert "ZeroDivisionError" in said[1]
        assert "secret detail" not in said[1]
        assert said[2] == "Not on a Sunday."
        assert events[-2].type == "turn.completed"


async def test_output_that_cannot_be_logged_is_repaired_or_an_error_but_never_fails_the_turn(
    tmp_path: Path,
) -> None:
    async with house_with(Gate(parties=1), tmp_path) as house:
        calls = [call("mumble", how=how) for how in ("text", "inside", "object", "error")]
        await house.say(script({"tool_calls": calls}, {"text": "I see."}))
        events = await house.until_idle()
        text, inside, thing, error = outcomes(events)
        assert text.result[0].text == "half ?"
        assert json.loads(inside.result[0].text) == {"half ?": ["?"]}
        assert thing.error.startswith("The tool failed: TypeError. It may or may not have taken effect")
        assert error.error == "half ?"
        assert events[-2].type == "turn.completed"


async def test_followers_see_a_tools_progress_and_output_while_it_runs_and_the_log_keeps_only_the_result(
    tmp_path: Path,
) -> None:
    async with house_with(Gate(parties=1), tmp_path) as house:
        follower = await open_follower(house.parts.app, house.owner, house.session_id, 0, Want())
        await house.say(script({"tool_calls": [call("report", "call_1")]}, {"text": "Thank you."}))
        frames: list[Frame] = []
        while not frames or frames[-1].type != "session.idled":
            frames += await follower.frames(1)
        follower.close()
        live = [
            json.loads(frame.data)
            for frame in frames
            if frame.type.startswith("tool.") and frame.type in LIVE_TYPES
        ]
        assert [(each["type"], each["data"].get("message") or each["data"]["delta"]) for each in live] == [
            ("tool.progress", "Half done."),
            ("tool.output.delta", "one "),
            ("tool.output.delta", "two "),
            ("tool.output.delta", "oops"),
        ]
        assert [each["data"].get("stream") for each in live] == [None, "stdout", "stdout", "stderr"]
        assert {each["data"]["tool_call_id"] for each in live} == {"call_1"}
        assert not LIVE_TYPES & {event.type for event in await house.until_idle()}


async def test_followers_see_no_secret_in_a_tools_live_output_even_in_pieces(
    tmp_path: Path,
) -> None:
    async with house_with(Gate(parties=1), tmp_path) as house:
        app, owner = house.parts.app, house.owner
        await put_secrets(app, owner, house.session_id, SetSecrets({"COUNT": "one two", "PART": "Half"}))
        follower = await open_follower(
            app,
            owner,
            house.session_id,
            0,
            Want(frozenset({"tool.output.delta", "tool.progress", "session.idled"})),
        )
        await house.say(script({"tool_calls": [call("report")]}, {"text": "Thank you."}))
        frames: list[Frame] = []
        while not frames or frames[-1].type != "session.idled":
            frames += await follower.frames(10)
        follower.close()
        data = [json.loads(frame.data)["data"] for frame in frames[:-1]]
        assert next(each["message"] for each in data if "message" in each) == "[secret PART] done."
        assert "".join(each["delta"] for each in data if each.get("stream") == "stdout") == "[secret COUNT] "
        assert "".join(each["delta"] for each in data if each.get("stream") == "stderr") == "oops"
