"""Sub-agents over HTTP: what they are, what they inherit, and what their parents get from them."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from perdure.tools.built_in import catalogue
from tests.journeys.family import (
    SUBAGENTS,
    begin,
    calls,
    child_of,
    children_of,
    end_in,
    ended_task,
    new_parent,
    result_in,
    result_of,
    states_in,
    tasks_in,
    text_of_result,
    until_state,
    until_woken,
)
from tests.journeys.people import get, new_agent, new_harness, watched_model
from tests.server import post
from tests.talk import Json, Talk, call, new_talk, script

SECRET = "hunter2-is-no-secret"


async def test_a_call_in_the_foreground_gets_the_answer_of_its_sub_agent(api: httpx.AsyncClient) -> None:
    talk = await new_parent(api)
    events = await talk.turn(
        calls(begin("one", {"text": "First."}, _id="a"), begin("two", {"text": "Second."}, _id="b")),
        {"text": "Both are done."},
    )
    assert [text_of_result(result_of(events, each)) for each in "ab"] == ["First.", "Second."]
    assert states_in(events, "one")[0] == "queued"
    task = end_in(events, "one")
    assert (task["state"], task["summary"], task["mode"]) == ("succeeded", "First.", "foreground")
    assert task["spec"]["instructions"].startswith("Work on one.")
    assert kinds_about_tasks(events) == []
    child = await child_of(talk, task).read()
    assert (child["source"], child["parent_session_id"], child["root_session_id"], child["task_id"]) == (
        "subagent", talk.id, talk.id, task["id"],
    )  # fmt: skip
    assert (child["title"], child["status"]) == ("one", "idle")


def kinds_about_tasks(events: list[Json]) -> list[str]:
    return [e["type"] for e in events if e["type"] == "input.message" and e["data"].get("origin") == "task"]


async def test_a_task_in_the_background_wakes_the_session_with_its_answer(api: httpx.AsyncClient) -> None:
    talk = await new_parent(api)
    events = await talk.turn(
        calls(begin("slow", {"text": "At last."}, mode="background")), {"text": "Begun."}
    )
    told = json.loads(text_of_result(result_in(events)))
    task = await ended_task(talk, "slow")
    assert (told["task_id"], told["session_id"]) == (task["id"], task["links"]["child_session_id"])
    (message,) = await until_woken(talk)
    assert message.endswith("]\nAt last.")


async def test_a_sub_agent_has_the_parents_agent_version_settings_and_model(http: httpx.AsyncClient) -> None:
    provider = await post(http, "/v1/providers", {"name": "Other", "provider_type": "llmsim"})
    model = await post(
        http, f"/v1/providers/{provider['id']}/models", {"model_id": "other", "display_name": "Other"}
    )
    agent = await new_agent(http, variables={"who": {"default": "all"}}, system_prompt="You help {{who}}.")
    tool = {"type": "client_side", "name": "ask", "description": "Ask.", "parameters": {"type": "object"}}
    talk = await new_parent(
        http,
        agent_id=agent["id"],
        system_prompt="Be brief.",
        max_iterations=7,
        tools=[tool],
        initial_files=[{"path": "/a", "content": "a"}],
        metadata={"customer": "4711"},
        tags=["a"],
    )
    text = script(calls(begin("twin", {"text": "Yes."})), {"text": "Done."})
    await talk.say(text, controls={"model_id": model["id"], "variables": {"who": "Ada"}})
    events = await talk.logged_until("session.idled")
    twin = child_of(talk, end_in(events, "twin"))
    child, parent = await twin.read(), await talk.read()
    for name in ("agent_id", "agent_version_id", "harness_id", "system_prompt", "max_iterations", "tools",
                 "capabilities", "owner_principal_id", "workspace_id"):  # fmt: skip
        assert child.get(name) == parent.get(name), name
    assert child["model_id"] == model["id"]
    assert (child["tags"], "metadata" in child) == ([], False)
    (mine, *_), (own, *_) = [await each.events(types="llm.generation") for each in (talk, twin)]
    assert own["data"]["metadata"]["model"] == mine["data"]["metadata"]["model"] == "other"


async def test_a_sub_agent_inherits_no_secrets_values_databases_or_standing_approvals(
    api: httpx.AsyncClient,
) -> None:
    talk = await new_parent(
        api,
        capabilities=[
            {"ref": "session_storage"},
            {"ref": "session_sql_database"},
            {"ref": "tool_approval"},
            {"ref": "session_file_system"},
        ],
    )
    await api.put(talk.path("/storage/secrets"), json={"secrets": {"TOKEN": SECRET}})
    await api.put(talk.path("/storage/keys/color"), json={"value": "red"})
    remember = calls(
        call("kv_store", operation="set", key="color", value="red"), call("delete_file", path="/x")
    )
    await talk.say(script(remember, {"text": "Noted."}))
    await decide_all(talk, "allow_always")
    looks = calls(
        call("secret_store", operation="list"),
        call("kv_store", operation="list"),
        call("delete_file", path="/y"),
    )
    told = begin("blind", looks, {"text": f"No {SECRET}."}, mode="background")
    last = (await talk.turn(calls(told), {"text": "Begun."}))[-1]["sequence"]
    blind = (await children_of(talk))["blind"]
    await decide_all(blind, "allow")
    task = await ended_task(talk, "blind")
    events = await blind.events()
    listed = [text_of_result(result_in(events, name)) for name in ("secret_store", "kv_store")]
    assert not any("TOKEN" in each or "color" in each for each in listed), listed
    # Nor does the parent's secret reach the child's log through its instructions, or the rows of its task.
    assert SECRET not in json.dumps(await blind.events())
    assert SECRET not in json.dumps(task)
    assert last < len(await talk.events())


async def decide_all(talk: Talk, decision: str) -> None:
    """Decide on what a session asks for next."""
    event = (await talk.logged_until("tool.call_requested"))[-1]
    ids = [each["arguments"]["tool_call_id"] for each in event["data"]["tool_calls"]]
    decisions = [{"tool_call_id": each, "decision": decision} for each in ids]
    await post(talk.http, talk.path("/tool-approvals"), {"decisions": decisions}, 200)


FILES = {"ref": "session_file_system"}
READ, WRITE = call("read_file", path="/a"), call("write_file", path="/b", content="child's")


@pytest.mark.parametrize(
    ("files", "reads", "written"), [("shared", True, True), ("fork", True, False), ("none", False, False)]
)
async def test_the_files_of_a_sub_agent(
    api: httpx.AsyncClient, files: str, reads: bool, written: bool
) -> None:
    talk = await new_parent(api, capabilities=[FILES], initial_files=[{"path": "/a", "content": "parent's"}])
    events = await talk.turn(
        calls(begin("clerk", calls(READ, WRITE), {"text": "Done."}, files=files)), {"text": "Done."}
    )
    clerk = child_of(talk, end_in(events, "clerk"))
    assert result_in(await clerk.events(), "read_file")["success"] is reads
    assert result_in(await clerk.events(), "write_file")["success"] is True
    events = await talk.turn(calls(call("read_file", path="/b")), {"text": "Read."})
    assert result_in(events, "read_file")["success"] is written
    # Whoever goes first, the other one keeps its files.
    shared = (await clerk.read())["workspace_id"] == (await talk.read())["workspace_id"]
    assert shared is (files == "shared")
    assert (await api.delete(clerk.path())).status_code == 204
    events = await talk.turn(calls(READ), {"text": "Read."})
    assert result_in(events, "read_file")["success"] is True


async def test_a_parent_and_its_copy_change_their_files_independently(api: httpx.AsyncClient) -> None:
    talk = await new_parent(api, capabilities=[FILES], initial_files=[{"path": "/a", "content": "old"}])
    gets = calls(call("read_file", path="/a"))
    await talk.turn(
        calls(begin("copy", {"text": "Ready.", "first_ms": 1}, files="fork")),
        calls(call("write_file", path="/a", content="new")),
        {"text": "Changed."},
    )
    copy = (await children_of(talk))["copy"]
    events = await copy.turn(gets, {"text": "Read."})
    assert json.loads(text_of_result(result_in(events, "read_file")))["content"] == "old"


async def test_a_deleted_parent_takes_its_tree_and_their_shared_files_along(api: httpx.AsyncClient) -> None:
    talk = await new_parent(api, capabilities=[FILES])
    inner = begin("inner", calls(WRITE), {"text": "Wrote."})
    events = await talk.turn(calls(begin("outer", calls(inner), {"text": "Done."})), {"text": "Done."})
    outer = child_of(talk, end_in(events, "outer"))
    inner_talk = (await children_of(outer))["inner"]
    assert (await inner_talk.read())["root_session_id"] == talk.id
    workspace = (await talk.read())["workspace_id"]
    assert (await api.delete(talk.path())).status_code == 204
    for path in (talk.path(), outer.path(), inner_talk.path(), f"/v1/workspaces/{workspace}"):
        assert (await api.get(path)).status_code == 404, path


async def test_the_typed_answer_of_a_sub_agent(api: httpx.AsyncClient) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    talk = await new_parent(api)
    events = await talk.turn(
        calls(
            begin("typed", {"output": {"n": 3}}, _id="a", output_schema=schema),
            begin("wrong", *[{"text": "three"}] * 4, _id="b", output_schema=schema),
            begin("odd", {"text": "?"}, _id="c", output_schema={"type": "nonsense"}),
        ),
        {"text": "Done."},
    )
    assert json.loads(text_of_result(result_of(events, "a"))) == {"n": 3}
    task = end_in(events, "typed")
    assert (task["state"], task["output"]) == ("succeeded", {"n": 3})
    wrong = end_in(events, "wrong")
    assert (wrong["state"], wrong["error"]["kind"]) == ("failed", "output_invalid")
    assert "output_invalid" in text_of_result(result_of(events, "b"))
    assert "odd" not in tasks_in(events)
    assert "output_schema" in text_of_result(result_of(events, "c"))


GATED = {
    "type": "builtin",
    "name": "write_file",
    "description": "Write.",
    "parameters": {"type": "object"},
    "policy": "requires_approval",
}


async def test_a_sub_agent_with_another_agent_is_bound_by_the_parents_policies(
    http: httpx.AsyncClient,
) -> None:
    house = await new_harness(
        http,
        capabilities=[{"ref": "tool_approval", "config": {"approvers": "owner"}}],
        network_access={"allowed": ["*.example.com"]},
    )
    boss = await new_agent(
        http,
        harness_id=house["id"],
        tools=[GATED],
    )
    model = (await get(http, "/v1/models"))["data"][0]["id"]
    free = await new_agent(
        http,
        harness_name="base",
        capabilities=[FILES, SUBAGENTS],
        description="Does all.",
        initial_files=[{"path": "/mine", "content": "agent's"}],
    )
    talk = await new_parent(
        http,
        {"agents": [free["name"]]},
        agent_id=boss["id"],
        model_id=model,
        network_access={"blocked": ["bad.example.com"]},
    )
    grandchild = begin("low", calls(call("delete_file", path="/x")), {"text": "Low."}, files="none")
    work = calls(WRITE, call("delete_file", path="/y"), call("read_file", path="/mine"))
    told = begin("free", work, calls(grandchild), {"text": "Free."}, agent=free["name"], mode="background")
    await talk.turn(calls(told), {"text": "Begun."})
    child = (await children_of(talk))["free"]
    row = await child.read()
    assert (row["agent_id"], row["harness_id"], row["model_id"]) == (free["id"], free["harness_id"], model)
    asked = (await child.logged_until("tool.call_requested"))[-1]["data"]["tool_calls"]
    assert [each["arguments"]["tool_name"] for each in asked] == ["write_file", "delete_file"]
    policy = (await get(http, child.path("/context-report")))["policy"]
    assert policy["allowed_hosts"] == [["*.example.com"]]
    assert policy["blocked_hosts"] == ["bad.example.com"]
    items = (await get(http, "/v1/inbox", session_id=child.id))["data"]
    assert {json.dumps(each["may_decide"]) for each in items} == {json.dumps({"owner": True})}
    await decide_all(child, "allow")
    low = await until_child(child, "low")
    assert (await low.logged_until("tool.call_requested"))[-1]["data"]["tool_calls"]
    await decide_all(low, "allow")
    assert (await ended_task(talk, "free"))["state"] == "succeeded"
    assert result_in(await child.events(), "read_file")["success"] is True


async def until_child(talk: Talk, name: str) -> Talk:
    """Wait until a session has begun a sub-agent of this name."""
    await talk.logged_until("task.created")
    return (await children_of(talk))[name]


async def test_blueprints_are_prepared_sub_agents(api: httpx.AsyncClient) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    config = {
        "blueprints": {
            "judge": {
                "description": "Judges an answer.",
                "system_prompt": "You judge.",
                "capabilities": [{"ref": "current_time"}],
                "max_iterations": 3,
                "output_schema": schema,
            },
            "clerk": {"description": "Files things."},
        },
        "time_limit": 60,
    }
    talk = await new_parent(api, config, system_prompt="You decide.", harness_name="base")
    events = await talk.turn(
        calls(begin("j", calls(call("get_current_time")), {"output": {"ok": True}}, blueprint="judge")),
        {"text": "Done."},
    )
    task = end_in(events, "j")
    assert (task["output"], task["spec"]["blueprint"]) == ({"ok": True}, "judge")
    child = await child_of(talk, task).read()
    assert (child["blueprint_id"], child["system_prompt"], child["max_iterations"]) == (
        "judge",
        "You judge.",
        3,
    )
    assert "blueprint_id" not in await talk.read()
    made = offered(config)
    assert made["blueprint"] == {
        "enum": ["clerk", "judge"],
        "description": "A prepared kind of sub-agent.\nclerk: Files things.\njudge: Judges an answer.",
    }
    assert made["time_limit"]["maximum"] == 60
    events = await talk.turn(calls(begin("x", {"text": "?"}, blueprint="nobody")), {"text": "Done."})
    assert "blueprint" in text_of_result(result_in(events))


def offered(config: Json | None) -> Json:
    """The parameters of `spawn_agent` with a configuration."""
    capability = next(each for each in catalogue() if each.id == "subagents")
    tool = next(each for each in capability.tools(config) if each.name == "spawn_agent")
    properties: Json = tool.parameters["properties"]
    return properties


async def test_the_model_is_told_of_the_agents_that_it_may_choose(api: httpx.AsyncClient) -> None:
    one, two = [await new_agent(api, description=f"Does {each}.") for each in ("one", "two")]
    talk = await new_parent(api, {"agents": [two["name"], one["id"]]})
    events = await talk.turn(calls(begin("o", {"text": "One."}, agent=one["id"])), {"text": "Done."})
    assert (await child_of(talk, end_in(events, "o")).read())["agent_id"] == one["id"]
    async with watched_model(api) as model:
        model.will_answer()
        await talk.say("Well?", controls={"model_id": model.id})
        await talk.logged_until("session.idled", after=events[-1]["sequence"])
        lines = [line for line in model.told.splitlines() if line.startswith("- ") and "Does" in line]
    assert lines == [f"- {one['id']} ({one['name']}): Does one.", f"- {two['name']}: Does two."]
    assert offered({"agents": [two["name"], one["id"]]})["agent"]["enum"] == [one["id"], two["name"]]
    # An agent that is archived meanwhile cannot be chosen any more, and the model is told so.
    await api.patch(two["self_url"], json={"status": "archived"})
    events = await talk.turn(calls(begin("t", {"text": "Two."}, agent=two["name"])), {"text": "Done."})
    assert "does not exist any more" in text_of_result(result_in(events))


async def test_a_session_without_choices_offers_none(api: httpx.AsyncClient) -> None:
    talk = await new_parent(api)
    events = await talk.turn(calls(begin("x", {"text": "?"}, agent="somebody")), {"text": "Done."})
    assert not result_in(events)["success"]
    assert {"agent", "blueprint"}.isdisjoint(offered(None))
    assert offered(None) == offered({})


BAD: list[tuple[Json, str]] = [
    ({"agents": ["nobody"]}, "capabilities[0].config.agents[0]"),
    ({"blueprints": {"a": {}}}, "capabilities[0].config.blueprints.a"),
    ({"blueprints": {"a b": {"description": "x"}}}, "capabilities[0].config.blueprints"),
    (
        {"blueprints": {"a": {"description": "x", "agent": "nobody"}}},
        "capabilities[0].config.blueprints.a.agent",
    ),
    (
        {"blueprints": {"a": {"description": "x", "model_id": f"model_{'0' * 32}"}}},
        "capabilities[0].config.blueprints.a.model_id",
    ),
    (
        {"blueprints": {"a": {"description": "x", "capabilities": [{"ref": "nothing"}]}}},
        "capabilities[0].config.blueprints.a.capabilities[0]",
    ),
    (
        {"blueprints": {"a": {"description": "x", "output_schema": {"type": "nonsense"}}}},
        "capabilities[0].config.blueprints.a.output_schema.type",
    ),
    ({"max_depth": 4}, "capabilities[0].config.max_depth"),
    ({"max_open": 26}, "capabilities[0].config.max_open"),
    ({"time_limit": 0}, "capabilities[0].config.time_limit"),
    ({"unknown": 1}, "capabilities[0].config"),
]


@pytest.mark.parametrize(("config", "field"), BAD)
async def test_a_wrong_configuration_is_refused_where_it_is_saved(
    api: httpx.AsyncClient, config: Json, field: str
) -> None:
    refs = [{**SUBAGENTS, "config": config}]
    bodies: list[tuple[str, Json]] = [
        ("/v1/sessions", {}), ("/v1/agents", {"name": "wrong", "system_prompt": "x"}),
        ("/v1/harnesses", {"name": "wrong"}),
    ]  # fmt: skip
    for path, body in bodies:
        answer = await api.post(path, json={**body, "capabilities": refs})
        assert (answer.status_code, answer.json().get("field")) == (400, field), answer.text


async def test_trees_are_as_deep_and_as_wide_as_allowed(api: httpx.AsyncClient) -> None:
    def nested(depth: int) -> Json:
        step = {"text": "Bottom."} if depth == 0 else calls(nested(depth - 1))
        return begin(f"level {depth}", step, {"text": f"Level {depth}."})

    for most, config in ((3, None), (1, {"max_depth": 1})):
        talk = await new_parent(api, config)
        await talk.turn(calls(nested(3)), {"text": "Top."})
        there, depth = talk, 0
        while found := await children_of(there):
            (there,), depth = found.values(), depth + 1
        assert depth == most
        refused = result_in(await there.events())
        assert not refused["success"]
        assert "levels below" in text_of_result(refused)
    talk = await new_parent(api, {"max_open": 2})
    slow: Any = {"text": "Slow.", "first_ms": 60_000}
    events = await talk.turn(
        calls(*(begin(f"s{n}", slow, mode="background") for n in range(3))), {"text": "Begun."}
    )
    results = sorted(result_in(events, nth=n)["success"] for n in range(3))
    assert results == [False, True, True]
    assert len(tasks_in(events)) == 2
    await talk.cancel()
    for name in tasks_in(events):
        assert (await ended_task(talk, name))["state"] == "canceled"


async def test_clients_run_a_childs_client_side_tools(api: httpx.AsyncClient) -> None:
    tool = {"type": "client_side", "name": "ask", "description": "Ask.", "parameters": {"type": "object"}}
    talk = await new_parent(api, tools=[tool])
    await talk.say(
        script(
            calls(begin("c", calls(call("ask", "q1")), {"text": "Asked.", "first_ms": 60_000})),
            {"text": "Done."},
        )
    )
    child = await until_child(talk, "c")
    await child.logged_until("tool.call_requested")
    task = await until_state(talk, "c", "awaiting_input")
    assert task["input_request"] == {"id": "q1", "prompt": "A client has to run ask."}
    before = (await talk.events())[-1]["sequence"]
    await child.answer({"tool_call_id": "q1", "result": "blue"})
    assert "input_request" not in await until_state(talk, "c", "running", after=before)
    await talk.cancel()
    assert (await ended_task(talk, "c"))["state"] == "canceled"


async def test_a_fork_of_a_sub_agent_is_nobodys_sub_agent(api: httpx.AsyncClient) -> None:
    talk = await new_parent(api)
    events = await talk.turn(calls(begin("one", {"text": "One."})), {"text": "Done."})
    child = child_of(talk, end_in(events, "one"))
    fork = await post(api, child.path("/fork"), {})
    assert {"parent_session_id", "task_id", "root_session_id"}.isdisjoint(fork)
    assert await new_talk(api) is not None
