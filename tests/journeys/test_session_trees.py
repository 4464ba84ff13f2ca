"""Trees of sessions: what is below a session, and which sessions belong to it."""

from __future__ import annotations

import httpx

from perdure.domain.ids import new_id
from tests.journeys.families import ASKS, SLOW, WEATHER, new_family, spawns, task_in, tasks_of
from tests.journeys.world import refusal
from tests.talk import Json, Talk, new_talk


async def tree_of(talk: Talk) -> Json:
    answer = await talk.http.get(talk.path("/tree"))
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


async def listed(http: httpx.AsyncClient, **filters: str) -> list[str]:
    answer = await http.get("/v1/sessions", params=filters)
    assert answer.status_code == 200, answer.text
    assert answer.json()["total"] == len(answer.json()["data"])
    return [session["title"] for session in answer.json()["data"]]


def inner(*steps: Json) -> Json:
    return {"tool_calls": [spawns("inner", *steps, mode="foreground")]}


async def test_a_tree_has_each_session_before_its_sub_agents(api: httpx.AsyncClient) -> None:
    talk = await new_family(
        api,
        spawns("first", inner({"text": "the bottom"}), {"text": "the middle"}, mode="foreground"),
        spawns("second", {"fail": {"code": "provider_auth", "message": "bad key"}}, mode="foreground"),
        text="the top",
        title="Family",
    )
    tree = await tree_of(talk)
    assert (tree["root_session_id"], tree["truncated"]) == (talk.id, False)
    top, *below = tree["nodes"]
    assert (top["session_id"], top["depth"], top["name"], top["answer"]) == (talk.id, 0, "Family", "the top")
    assert not {"task_id", "state", "parent_session_id", "finished_at"} & top.keys()
    by_name = {node["name"]: node for node in below}
    assert {name: (node["depth"], node["state"], node["status"]) for name, node in by_name.items()} == {
        "first": (1, "succeeded", "idle"),
        "inner": (2, "succeeded", "idle"),
        "second": (1, "failed", "idle"),
    }
    names = [node["name"] for node in below]
    assert names.index("inner") == names.index("first") + 1
    assert by_name["inner"]["parent_session_id"] == by_name["first"]["session_id"]
    assert [by_name[name].get("answer") for name in ("first", "inner")] == ["the middle", "the bottom"]
    assert by_name["second"]["error"]["message"] == "bad key"
    assert all(node["created_at"] <= node["started_at"] <= node["finished_at"] for node in below)
    used = [node["usage"]["input_tokens"] for node in tree["nodes"] if "usage" in node]
    assert tree["usage"]["input_tokens"] == sum(used) > top["usage"]["input_tokens"]


async def test_a_part_of_a_tree_names_the_top_of_it(api: httpx.AsyncClient) -> None:
    talk = await new_family(api, spawns("first", inner({"text": "1"}), {"text": "2"}, mode="foreground"))
    (task,) = await tasks_of(talk)
    part = await tree_of(Talk(api, task["links"]["child_session_id"]))
    assert part["root_session_id"] == talk.id
    assert [(node["name"], node["depth"]) for node in part["nodes"]] == [("first", 1), ("inner", 2)]
    alone = await tree_of(await new_talk(api, title="Alone"))
    assert [node["name"] for node in alone["nodes"]] == ["Alone"]
    assert "usage" not in alone


async def test_a_tree_says_what_a_sub_agent_waits_for(api: httpx.AsyncClient) -> None:
    talk = await new_family(api, spawns("asker", ASKS, {"text": "done"}), tools=[WEATHER])
    (task,) = await tasks_of(talk)
    await task_in(talk, task["id"], "awaiting_input")
    _, node = (await tree_of(talk))["nodes"]
    assert (node["state"], node["status"]) == ("awaiting_input", "waiting_for_tool_results")
    assert "weather" in node["waits_for"]
    await api.delete(talk.path())
    assert refusal(await api.get(talk.path("/tree"))) == (404, "session_not_found")


async def test_sub_agents_are_listed_like_other_sessions_and_by_their_tree(api: httpx.AsyncClient) -> None:
    talk = await new_family(api, spawns("first", inner(SLOW), {"text": "2"}), title="Top")
    (task,) = await tasks_of(talk)
    first = Talk(api, task["links"]["child_session_id"])
    await first.logged_until("task.created")
    below = {"root_session_id": talk.id}
    assert await listed(api, **below) == ["inner", "first"]
    assert await listed(api, **below, source="subagent") == ["inner", "first"]
    assert await listed(api, **below, source="api") == []
    assert await listed(api, **below, search="INN") == ["inner"]
    assert await listed(api, parent_session_id=talk.id) == ["first"]
    assert await listed(api, parent_session_id=first.id) == ["inner"]
    assert await listed(api, parent_session_id=new_id("session")) == []
    newest = (await api.get("/v1/sessions", params={"limit": 3})).json()["data"]
    assert [session["title"] for session in newest] == ["inner", "first", "Top"]
    facets = (await api.get("/v1/sessions/facets", params=below)).json()
    assert (facets["total"], facets["sources"]) == (2, {"subagent": 2})
    for name in ("parent_session_id", "root_session_id"):
        assert refusal(await api.get("/v1/sessions", params={name: "session_1"})) == (400, "invalid_id")
    await api.delete(talk.path())
    assert await listed(api, **below) == []
