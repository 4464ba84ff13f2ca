"""Versions of agents: each change adds one.

They can be marked, compared, gone back to, branched off and run.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.journeys.people import PROMPT, fresh, get, new_agent, new_harness, patch, watched_model, without
from tests.server import post
from tests.talk import Json, new_talk


async def versions_of(http: httpx.AsyncClient, agent: Json, **query: Any) -> list[Json]:
    """Newest first."""
    found: list[Json] = await get(http, f"/v1/agents/{agent['id']}/versions", **query)
    return found


def path_of(agent: Json, version: Json, what: str) -> str:
    return f"/v1/agents/{agent['id']}/versions/{version['id']}/{what}"


async def test_every_change_of_the_configuration_leaves_a_version_behind(api: httpx.AsyncClient) -> None:
    agent = await new_agent(api)
    path = f"/v1/agents/{agent['id']}"
    await patch(api, path, {"system_prompt": "Two."})
    await post(api, "/v1/agents", {"name": agent["name"], "system_prompt": "Three."}, 200)
    await api.put(path, json={"name": agent["name"], "system_prompt": "Four."})
    found = await versions_of(api, agent)
    assert [each["authored_config"]["system_prompt"] for each in found] == ["Four.", "Three.", "Two.", PROMPT]
    assert [(each["version_number"], each["version"]) for each in found] == [
        (4, "1.0.3"),
        (3, "1.0.2"),
        (2, "1.0.1"),
        (1, "1.0.0"),
    ]
    assert {(each["change_kind"], each["is_published"]) for each in found} == {("auto", False)}
    assert len({each["config_hash"] for each in found}) == 4
    assert (await versions_of(api, agent, limit=1, offset=1))[0]["id"] == found[1]["id"]


async def test_what_is_no_change_of_the_configuration_leaves_none(api: httpx.AsyncClient) -> None:
    agent = await new_agent(api)
    path = f"/v1/agents/{agent['id']}"
    await patch(api, path, {"system_prompt": PROMPT, "name": fresh("renamed")})
    await api.delete(path)
    await patch(api, path, {"status": "active"})
    await api.get(f"{path}/export")
    assert len(await versions_of(api, agent)) == 1


async def test_a_refused_change_leaves_none(api: httpx.AsyncClient) -> None:
    tool = {"type": "client_side", "name": "get_current_time", "description": "x", "parameters": {}}
    agent = await new_agent(api, harness_name="base", tools=[tool])
    await patch(api, f"/v1/agents/{agent['id']}", {"capabilities": [{"ref": "current_time"}]}, 400)
    assert len(await versions_of(api, agent)) == 1


async def test_a_version_shows_what_the_configuration_came_to_over_its_harness(
    api: httpx.AsyncClient,
) -> None:
    top = await new_harness(
        api, system_prompt="Top.", capabilities=[{"ref": "tool_approval", "config": {"mode": "off"}}]
    )
    low = await new_harness(api, system_prompt="Low.", parent_harness_id=top["id"])
    approval = {"ref": "tool_approval", "config": {"mode": "protective"}}
    agent = await new_agent(api, harness_id=low["id"], capabilities=[approval, {"ref": "current_time"}])
    (version,) = await versions_of(api, agent)
    resolved = version["resolved_config"]
    assert resolved["harnesses"] == [top["name"], low["name"]]
    assert resolved["capabilities"] == [approval, {"ref": "current_time"}]
    assert resolved["tools"] == ["get_current_time"]
    places = [resolved["system_prompt"].index(text) for text in ("Top.", "Low.", PROMPT)]
    assert places == sorted(places)


async def test_a_version_made_on_purpose_has_a_number_and_words_of_ones_own(api: httpx.AsyncClient) -> None:
    agent = await new_agent(api)
    path = f"/v1/agents/{agent['id']}/versions"
    made = [
        await post(api, path, body, 200)
        for body in (
            {},
            {"change_kind": "minor", "summary": "Refunds"},
            {"change_kind": "patch"},
            {"change_kind": "major"},
        )
    ]
    assert [each["version"] for each in made] == ["1.0.1", "1.1.0", "1.1.1", "2.0.0"]
    assert [each["change_kind"] for each in made] == ["manual", "minor", "patch", "major"]
    assert (made[1]["summary"], made[1]["is_published"]) == ("Refunds", True)
    assert len({each["config_hash"] for each in await versions_of(api, agent)}) == 1
    for body in ({"change_kind": "auto"}, {"change_kind": "rollback"}, {"summary": "x" * 1001}):
        await post(api, path, body, 400)


async def test_the_difference_of_two_versions_is_a_json_patch(api: httpx.AsyncClient) -> None:
    agent = await new_agent(
        api, harness_name="base", description="Old", network_access={"allowed": ["a.example"]}
    )
    path = f"/v1/agents/{agent['id']}"
    await patch(
        api,
        path,
        {
            "description": None,
            "tags": ["new"],
            "network_access": {"allowed": ["b.example"]},
            "capabilities": [{"ref": "session"}],
        },
    )
    new, old = await versions_of(api, agent)
    diff = await get(api, path_of(agent, old, f"diff/{new['id']}"))
    assert diff["authored_diff"] == [
        {"op": "add", "path": "/capabilities", "value": [{"ref": "session"}]},
        {"op": "remove", "path": "/description", "old": "Old"},
        {"op": "replace", "path": "/network_access/allowed", "value": ["b.example"], "old": ["a.example"]},
        {"op": "add", "path": "/tags", "value": ["new"]},
    ]
    assert [step["path"] for step in diff["resolved_diff"]] == ["/capabilities", "/tools"]
    assert (diff["from_version_id"], diff["to_version_id"]) == (old["id"], new["id"])
    assert (await get(api, path_of(agent, old, f"diff/{old['id']}")))["authored_diff"] == []


async def test_going_back_sets_the_configuration_but_not_the_name(api: httpx.AsyncClient) -> None:
    agent = await new_agent(api, tags=["old"], max_iterations=3)
    path = f"/v1/agents/{agent['id']}"
    name = fresh("renamed")
    await patch(api, path, {"name": name, "tags": ["new"], "max_iterations": None, "system_prompt": "New."})
    second, first = await versions_of(api, agent)
    back = await post(api, path_of(agent, first, "rollback"), {"summary": "Worse"}, 200)
    assert without(back, "name") == without(agent, "name")
    assert back["name"] == name
    newest = (await versions_of(api, agent))[0]
    assert (newest["change_kind"], newest["summary"], newest["version_number"]) == ("rollback", "Worse", 3)
    assert (newest["source_version_id"], newest["parent_version_id"]) == (first["id"], second["id"])
    assert newest["config_hash"] == first["config_hash"]


async def test_going_back_can_do_without_a_new_version(api: httpx.AsyncClient) -> None:
    agent = await new_agent(api)
    path = f"/v1/agents/{agent['id']}"
    await patch(api, path, {"system_prompt": "Two."})
    _, first = await versions_of(api, agent)
    assert (await post(api, path_of(agent, first, "rollback"), {"save_version": False}, 200))[
        "system_prompt"
    ] == PROMPT
    assert len(await versions_of(api, agent)) == 2
    await patch(api, path, {"system_prompt": "Three."})
    assert (await versions_of(api, agent))[0]["parent_version_id"] == first["id"]


async def test_nobody_goes_back_to_what_is_not_there_any_more(api: httpx.AsyncClient) -> None:
    harness = await new_harness(api)
    agent = await new_agent(api, harness_id=harness["id"])
    path = f"/v1/agents/{agent['id']}"
    await patch(api, path, {"harness_name": "generic"})
    _, first = await versions_of(api, agent)
    await api.delete(f"/v1/harnesses/{harness['id']}")
    for what, body in (("rollback", {}), ("fork", {"name": fresh("fork")})):
        assert (await post(api, path_of(agent, first, what), body, 400))["code"] == "harness_archived"
    async with watched_model(api) as model:
        await patch(api, path, {"default_model_id": model.id})
        with_model = (await versions_of(api, agent))[0]
        await patch(api, path, {"default_model_id": None})
    assert (await post(api, path_of(agent, with_model, "rollback"), {}, 404))["code"] == "model_not_found"


async def test_a_fork_begins_as_the_version_and_remembers_where_it_comes_from(api: httpx.AsyncClient) -> None:
    agent = await new_agent(api, description="Old", tags=["old"])
    await patch(api, f"/v1/agents/{agent['id']}", {"tags": ["new"]})
    _, first = await versions_of(api, agent)
    fork = await post(
        api, path_of(agent, first, "fork"), {"name": fresh("fork"), "display_name": "Fork"}, 200
    )
    assert (fork["tags"], fork["description"], fork["display_name"]) == (["old"], "Old", "Fork")
    assert (fork["forked_from_agent_id"], fork["forked_from_version_id"], fork["root_agent_id"]) == (
        agent["id"],
        first["id"],
        agent["id"],
    )
    (version,) = await versions_of(api, fork)
    assert (version["change_kind"], version["source_version_id"], version["version"]) == (
        "fork",
        first["id"],
        "1.0.0",
    )
    again = await post(api, path_of(fork, version, "fork"), {"name": fresh("fork")}, 200)
    assert (again["forked_from_agent_id"], again["root_agent_id"]) == (fork["id"], agent["id"])
    assert (await post(api, path_of(agent, first, "fork"), {"name": fork["name"]}, 409))[
        "code"
    ] == "name_taken"
    assert (await post(api, path_of(agent, first, "fork"), {"name": "import"}, 400))[
        "code"
    ] == "reserved_name"


async def test_sessions_run_the_default_version_and_stay_with_it(api: httpx.AsyncClient) -> None:
    async with watched_model(api) as model:
        agent = await new_agent(
            api, harness_name="base", default_model_id=model.id, capabilities=[{"ref": "current_time"}]
        )
        path = f"/v1/agents/{agent['id']}"
        following = await new_talk(api, agent_id=agent["id"])
        (first,) = await versions_of(api, agent)
        assert (await post(api, f"{path}/versions/default", {"version_id": first["id"]}, 200))[
            "default_version_id"
        ] == first["id"]
        pinned = await new_talk(api, agent_name=agent["name"])
        await patch(api, path, {"system_prompt": "Now.", "capabilities": []})
        late = await new_talk(api, agent_id=agent["id"])
        for talk, told, version_id in (
            (following, "Now.", None),
            (pinned, PROMPT, first["id"]),
            (late, PROMPT, first["id"]),
        ):
            model.will_answer()
            await talk.turn()
            assert f"\n{told}\n" in model.told
            assert ("get_current_time" in model.tools) == (told == PROMPT)
            assert (await talk.read()).get("agent_version_id") == version_id
        assert (await post(api, f"{path}/versions/default", {"version_id": None}, 200)).get(
            "default_version_id"
        ) is None
        assert "agent_version_id" not in await (await new_talk(api, agent_id=agent["id"])).read()
        copy = await post(api, pinned.path("/fork"), {})
        assert copy["agent_version_id"] == first["id"]


async def test_sessions_of_a_version_have_its_harness_its_files_and_its_features(
    api: httpx.AsyncClient,
) -> None:
    harness = await new_harness(api, capabilities=[{"ref": "session_file_system"}])
    agent = await new_agent(
        api, harness_id=harness["id"], initial_files=[{"path": "/then.md", "content": "Then."}]
    )
    path = f"/v1/agents/{agent['id']}"
    (first,) = await versions_of(api, agent)
    await post(api, f"{path}/versions/default", {"version_id": first["id"]}, 200)
    await patch(api, path, {"harness_name": "base", "initial_files": []})
    session = await (await new_talk(api, agent_id=agent["id"])).read()
    assert (session["harness_id"], session["features"]) == (harness["id"], ["file_system"])


async def test_an_archived_agents_versions_stop_as_well(api: httpx.AsyncClient) -> None:
    agent = await new_agent(api)
    (first,) = await versions_of(api, agent)
    await post(api, f"/v1/agents/{agent['id']}/versions/default", {"version_id": first["id"]}, 200)
    talk = await new_talk(api, agent_id=agent["id"])
    await api.delete(f"/v1/agents/{agent['id']}")
    assert "turn.failed" in [event["type"] for event in await talk.turn({"text": "Hi."})]
    assert len(await versions_of(api, agent)) == 1


@pytest.mark.parametrize("what", ["rollback", "fork", "diff"])
async def test_a_version_of_another_agent_is_not_found(api: httpx.AsyncClient, what: str) -> None:
    one, other = await new_agent(api), await new_agent(api)
    (mine,), (theirs,) = await versions_of(api, one), await versions_of(api, other)
    if what == "diff":
        for pair in ((mine, theirs), (theirs, mine)):
            await get(api, path_of(one, pair[0], f"diff/{pair[1]['id']}"), 404)
    else:
        body = {"name": fresh("fork")} if what == "fork" else {}
        assert (await post(api, path_of(one, theirs, what), body, 404))["code"] == "agent_version_not_found"
    body = {"version_id": theirs["id"]}
    assert (await post(api, f"/v1/agents/{one['id']}/versions/default", body, 404))[
        "code"
    ] == "agent_version_not_found"
    for bad in ({"version_id": "agentver_1"}, {"version_id": one["id"]}, {}):
        await post(api, f"/v1/agents/{one['id']}/versions/default", bad, 400)
