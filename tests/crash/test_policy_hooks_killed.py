"""kill -9 around a policy hook's decision: what has not started is asked again, what is logged is not."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.crash.hanging_appends import AppendingServer, Moment
from tests.policies import PolicyHook, deciding, decisions_in, result_of
from tests.server import Server, use_simulated_model
from tests.talk import Json, call, kinds_of, new_talk, script

ENVIRONMENT = {"PERDURE_PRIVATE_ADDRESSES": "127.0.0.1"}
FILES = {"ref": "session_file_system"}
WRITES = {"tool_calls": [call("write_file", "call_1", path="/a", content="model")]}
DECIDED = 3
APPENDS = 5
"""The turn's start; the model's answer; the decision; the call's start; its result with the next call."""
PLACES: list[tuple[Moment, int]] = [
    (moment, number) for number in range(1, APPENDS + 1) for moment in ("before", "after")
]
SAMPLE: list[tuple[Moment, int]] = [("after", DECIDED)]
"""What `make test` plays; the soak plays the rest."""


def _checked(question: Json) -> Json:
    arguments = {**question["tool_call"]["arguments"], "content": "checked"}
    return {"decision": "modify", "arguments": arguments}


@pytest.mark.parametrize(
    ("moment", "number"),
    [pytest.param(*place, marks=() if place in SAMPLE else pytest.mark.soak) for place in PLACES],
)
async def test_a_modified_call_survives_the_death_of_its_server(
    tmp_path: Path, database_url: str, moment: Moment, number: int
) -> None:
    more = {"database_url": database_url, "environment": ENVIRONMENT}
    async with (
        deciding() as hook,
        AppendingServer(tmp_path / "data", moment, number, **more) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        hook.decide = _checked
        await use_simulated_model(http)
        talk = await new_talk(http, capabilities=[FILES, hook.ref()])
        await talk.say(script(WRITES, {"text": "Done."}))
        await server.until_it_hangs()
        await server.restart()
        await talk.logged_until("session.idled")
        events = await talk.events()
        assert (await http.get(talk.path("/fs/a"))).json()["content"] == "checked"
    assert [each["decision"] for each in decisions_in(events)] == ["modify"]
    starts = [each["data"]["tool_call"]["arguments"] for each in events if each["type"] == "tool.started"]
    assert starts == [{"path": "/a", "content": "checked"}]
    assert kinds_of(events).count("turn.completed") == 1
    # Only a decision that is not in the log is asked for again, with the same question.
    again = (moment, number) == ("before", DECIDED)
    assert len(hook.came) == (2 if again else 1)
    assert len({(each.id, each.body) for each in hook.came}) == 1


@pytest.mark.parametrize(
    ("moment", "asked"), [("before", 2), pytest.param("after", 1, marks=pytest.mark.soak)]
)
async def test_a_call_that_was_allowed_is_asked_about_again_unless_it_has_started(
    tmp_path: Path, moment: Moment, asked: int
) -> None:
    # Without a decision to log, the third append is the call's start.
    async with (
        deciding() as hook,
        AppendingServer(tmp_path / "data", moment, 3, environment=ENVIRONMENT) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        await use_simulated_model(http)
        talk = await new_talk(http, capabilities=[FILES, hook.ref()])
        await talk.say(script(WRITES, {"text": "Done."}))
        await server.until_it_hangs()
        hook.decide = lambda question: {"decision": "block", "reason": "No more."}
        await server.restart()
        events = await talk.logged_until("session.idled")
        written = (await http.get(talk.path("/fs/a"))).status_code
    assert len(hook.came) == asked
    assert (result_of(events, "call_1")["success"], written) == (asked == 1, 200 if asked == 1 else 404)


async def test_a_result_that_was_being_decided_on_is_not_seen_after_a_kill(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", environment=ENVIRONMENT)
    async with deciding() as hook, server, httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        await use_simulated_model(http)
        talk = await new_talk(http, capabilities=[FILES, {"ref": "current_time"}, _both(hook)])
        hook.held = "after_tool"
        hook.open.clear()
        calls = [call("get_current_time", "call_1"), call("get_current_time", "call_2")]
        message = await talk.say(script({"tool_calls": calls}, {"text": "Done."}))
        await hook.until(4)
        await server.kill()
        hook.decide = lambda question: {"decision": "block"}
        hook.open.set()
        await server.start()
        events = await talk.logged_until("session.idled", after=message["sequence"])
    assert {result_of(events, each)["status"] for each in ("call_1", "call_2")} == {"rejected"}
    # The calls may run again, so they do. Their starts are logged: only the results are decided on again.
    assert [len(hook.asked(each)) for each in ("before_tool", "after_tool")] == [2, 4]
    assert "Traceback" not in server.log.read_text()


def _both(hook: PolicyHook) -> Json:
    return hook.ref("before_tool", "after_tool")
