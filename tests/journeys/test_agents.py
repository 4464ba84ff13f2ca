"""Agents: created, found, changed, copied, exported and imported, archived.

And what their sessions get of them.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from perdure.domain.ids import new_id
from tests.journeys.people import (
    LOOK_UP,
    PROMPT,
    elsewhere,
    fresh,
    get,
    new_agent,
    new_harness,
    patch,
    without,
)
from tests.server import post
from tests.talk import Json, call, new_talk

FULL: Json = {
    "display_name": "Support desk",
    "description": "First level",
    "capabilities": [{"ref": "current_time"}, {"ref": "tool_approval", "config": {"mode": "normal"}}],
    "tools": [LOOK_UP],
    "tags": ["support", "eu"],
    "initial_files": [
        {"path": "/notes/a.md", "content": "# A\n\nyes: no\n", "encoding": "text", "is_readonly": True}
    ],
    "max_iterations": 7,
    "parallel_tool_calls": False,
    "network_access": {"allowed": ["example.com"]},
}


async def imported(http: httpx.AsyncClient, text: str, status: int = 201, **query: str) -> Json:
    answer = await http.post(
        "/v1/agents/import", content=text.encode(), headers={"content-type": "text/markdown"}, params=query
    )
    assert answer.status_code == status, answer.text
    found: Json = answer.json()
    return found


async def test_an_agent_keeps_all_that_it_was_given_and_is_found_by_id_and_by_name(
    api: httpx.AsyncClient,
) -> None:
    agent = await new_agent(api, **FULL)
    for ref in (agent["id"], agent["name"]):
        found = await get(api, f"/v1/agents/{ref}")
        assert {name: found[name] for name in FULL} == {
            **FULL,
            "initial_files": [{**FULL["initial_files"][0], "encoding": "text"}],
        } | {name: found[name] for name in ("initial_files", "tools")}
        assert found["initial_files"][0]["content"] == FULL["initial_files"][0]["content"]
        assert found["tools"][0]["name"] == "look_up"
        assert (found["session_count"], found["status"]) == (0, "active")
        assert {action["rel"] for action in found["allowed_actions"]} >= {
            "self",
            "update",
            "delete",
            "copy",
            "export",
            "versions",
        }


async def test_a_known_name_or_id_is_replaced_and_an_unknown_one_is_made(api: httpx.AsyncClient) -> None:
    agent = await new_agent(api, description="First")
    body = {"name": agent["name"], "system_prompt": "Second."}
    again = await post(api, "/v1/agents", body, 200)
    assert (again["id"], again["system_prompt"], again.get("description")) == (agent["id"], "Second.", None)
    assert again["updated_at"] > agent["updated_at"]
    renamed = await post(api, "/v1/agents", {**body, "id": agent["id"], "name": fresh("other")}, 200)
    assert renamed["id"] == agent["id"]
    chosen = new_id("agent")
    for status in (201, 200):
        answer = await api.put(
            f"/v1/agents/{chosen}", json={"name": fresh("chosen"), "system_prompt": PROMPT}
        )
        assert (answer.status_code, answer.json()["id"]) == (status, chosen)


async def test_many_at_once_with_one_name_make_one_agent(http: httpx.AsyncClient) -> None:
    body = {"name": "desk", "system_prompt": PROMPT}
    answers = await asyncio.gather(
        *(http.post("/v1/agents", json={**body, "description": str(n)}) for n in range(12))
    )
    assert sorted(answer.status_code for answer in answers) == [200] * 11 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    versions = await get(http, "/v1/agents/desk/versions")
    assert [each["version_number"] for each in versions] == list(range(len(versions), 0, -1))


async def test_many_changes_at_once_lose_none(api: httpx.AsyncClient) -> None:
    agent = await new_agent(api)
    changes: list[Json] = [
        {"description": "d"},
        {"display_name": "D"},
        {"max_iterations": 3},
        {"parallel_tool_calls": True},
        {"tags": ["t"]},
        {"network_access": {"blocked": ["x"]}},
        {"capabilities": [{"ref": "session"}]},
        {"tools": [LOOK_UP]},
    ]
    await asyncio.gather(*(patch(api, f"/v1/agents/{agent['id']}", change) for change in changes))
    found = await get(api, f"/v1/agents/{agent['id']}")
    for change in changes:
        for name, value in change.items():
            assert name == "tools" or found[name] == value
    assert found["tools"][0]["name"] == "look_up"
    versions = await get(api, f"/v1/agents/{agent['id']}/versions")
    assert [each["version_number"] for each in versions] == list(range(9, 0, -1))
    parents = {each["id"]: each.get("parent_version_id") for each in versions}
    assert [parents[each["id"]] for each in versions] == [*(each["id"] for each in versions[1:]), None]


async def test_only_what_is_named_changes_and_null_clears_what_can_be_empty(api: httpx.AsyncClient) -> None:
    agent = await new_agent(api, **FULL)
    path = f"/v1/agents/{agent['name']}"
    assert without(await patch(api, path, {})) == without(agent)
    assert (await patch(api, path, {}))["updated_at"] == agent["updated_at"]
    changed = await patch(api, path, {"description": None, "max_iterations": None, "unknown": 1})
    assert changed.pop("warnings") == ["unknown field `unknown` was ignored"]
    assert without(changed) == without(agent, "description", "max_iterations")
    assert changed["updated_at"] > agent["updated_at"]
    for name in (
        "name",
        "system_prompt",
        "capabilities",
        "tools",
        "tags",
        "initial_files",
        "harness_id",
        "status",
    ):
        await patch(api, path, {name: None}, 400)


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("name", "Desk", "invalid_request"),
        ("name", "a--b", "invalid_request"),
        ("name", "-a", "invalid_request"),
        ("name", "a\n", "invalid_request"),
        ("name", "a" * 65, "invalid_request"),
        ("name", "config", "reserved_name"),
        ("system_prompt", "x" * 200_001, "invalid_request"),
        ("capabilities", [{"ref": "nothing"}], "unknown_capability"),
        ("capabilities", [{"ref": "tool_approval", "config": {"mode": "x"}}], "invalid_capability_config"),
        ("tools", [LOOK_UP, LOOK_UP], "duplicate_tool"),
        ("tools", [{**LOOK_UP, "name": "get_current_time"}], "duplicate_tool"),
        ("tags", [" "], "invalid_request"),
        ("max_iterations", 0, "invalid_request"),
        ("initial_files", [{"path": "/", "content": ""}], "invalid_path"),
        ("initial_files", [{"path": "/a", "content": "%", "encoding": "base64"}], "invalid_content"),
        ("initial_files", [{"path": "/a", "content": ""}, {"path": "a", "content": ""}], "invalid_request"),
        ("harness_id", "generic", "invalid_id"),
        ("harness_id", f"harness_{'0' * 32}", "harness_not_found"),
        ("harness_name", "nowhere", "harness_not_found"),
        ("default_model_id", f"model_{'0' * 32}", "model_not_found"),
        ("status", "gone", "invalid_request"),
    ],
)
async def test_what_breaks_a_rule_is_refused_and_changes_nothing(
    api: httpx.AsyncClient, field: str, value: Any, code: str
) -> None:
    agent = await new_agent(api, capabilities=[{"ref": "current_time"}])
    assert (
        await patch(
            api, f"/v1/agents/{agent['id']}", {field: value}, 404 if code.endswith("not_found") else 400
        )
    )["code"] == code
    assert without(await get(api, f"/v1/agents/{agent['id']}"), "session_count", "app_count") == without(
        agent
    )
    if field != "status":
        answer = await api.post(
            "/v1/agents",
            json={"name": fresh("desk"), "system_prompt": PROMPT, **agent_fields(field), field: value},
        )
        assert (answer.status_code, answer.json()["code"]) == (
            404 if code.endswith("not_found") else 400,
            code,
        )


def agent_fields(field: str) -> Json:
    return {} if field == "capabilities" else {"capabilities": [{"ref": "current_time"}]}


async def test_a_configuration_has_a_limit_that_its_files_count_towards(api: httpx.AsyncClient) -> None:
    agent = await new_agent(api)
    body = {"initial_files": [{"path": "/big", "content": "x" * 1_000_001}]}
    assert (await patch(api, f"/v1/agents/{agent['id']}", body, 413))["code"] == "too_large"
    assert "initial_files" not in await get(api, f"/v1/agents/{agent['id']}")


async def test_two_agents_cannot_have_one_name_but_an_archived_ones_is_free(api: httpx.AsyncClient) -> None:
    one, other = await new_agent(api), await new_agent(api)
    assert (await patch(api, f"/v1/agents/{one['id']}", {"name": other["name"]}, 409))["code"] == "name_taken"
    assert (await api.delete(f"/v1/agents/{other['id']}")).status_code == 204
    await patch(api, f"/v1/agents/{one['id']}", {"name": other["name"]})
    assert (await patch(api, f"/v1/agents/{other['id']}", {"status": "active"}, 409))["code"] == "name_taken"
    await patch(api, f"/v1/agents/{other['id']}", {"status": "active", "name": fresh("back")})


async def test_a_name_can_be_checked_before_it_is_used(api: httpx.AsyncClient) -> None:
    agent = await new_agent(api)
    assert await get(api, "/v1/agents/check-name", name=fresh("free")) == {"available": True}
    assert await get(api, "/v1/agents/check-name", name=agent["name"]) == {"available": False}
    assert await get(api, "/v1/agents/check-name", name=agent["name"], exclude_id=agent["id"]) == {
        "available": True
    }
    assert await get(api, "/v1/agents/check-name", name="import") == {"available": False}
    for query in ({}, {"name": "A"}, {"name": "a", "exclude_id": "x"}):
        await get(api, "/v1/agents/check-name", 400, **query)


async def test_an_archived_agent_is_hidden_and_starts_nothing_until_it_is_brought_back(
    api: httpx.AsyncClient,
) -> None:
    agent = await new_agent(api)
    talk = await new_talk(api, agent_id=agent["id"])
    for _ in range(2):
        assert (await api.delete(f"/v1/agents/{agent['id']}")).status_code == 204
    await get(api, f"/v1/agents/{agent['name']}", 404)
    archived = await get(api, f"/v1/agents/{agent['id']}")
    assert (archived["status"], "archived_at" in archived) == ("archived", True)
    assert (await post(api, "/v1/sessions", {"agent_id": agent["id"]}, 400))["code"] == "agent_archived"
    await post(api, "/v1/sessions", {"agent_name": agent["name"]}, 404)
    failed = next(event for event in await talk.turn({"text": "Hi."}) if event["type"] == "turn.failed")
    assert failed["data"]["error_code"] == "agent_archived"
    back = await patch(api, f"/v1/agents/{agent['id']}", {"status": "active"})
    assert (back["status"], back.get("archived_at")) == ("active", None)
    assert (await talk.turn({"text": "Hi."}))[-2]["type"] == "turn.completed"


async def test_a_deleted_agent_is_gone_for_good(api: httpx.AsyncClient) -> None:
    agent = await new_agent(api)
    assert "deleted_at" in await patch(api, f"/v1/agents/{agent['id']}", {"status": "deleted"})
    for ref in (agent["id"], agent["name"]):
        await get(api, f"/v1/agents/{ref}", 404)
    await post(api, "/v1/sessions", {"agent_id": agent["id"]}, 404)
    await post(api, "/v1/agents", {"name": fresh("again"), "system_prompt": PROMPT, "id": agent["id"]}, 404)


async def test_lists_are_searched_and_paged(api: httpx.AsyncClient) -> None:
    word = fresh("rare")
    agents = [await new_agent(api, description=f"{word.upper()} {n}") for n in range(3)]
    await api.delete(f"/v1/agents/{agents[0]['id']}")
    found = await get(api, "/v1/agents", search=word)
    assert [each["id"] for each in found["data"]] == [agents[2]["id"], agents[1]["id"]]
    found = await get(api, "/v1/agents", search=word, include_archived="true", offset=1, limit=1)
    assert ([each["id"] for each in found["data"]], found["total"]) == ([agents[1]["id"]], 3)


@pytest.mark.parametrize("kind", ["agents", "harnesses"])
async def test_copies_that_are_made_at_once_have_names_of_their_own(
    http: httpx.AsyncClient, kind: str
) -> None:
    source = await (new_agent if kind == "agents" else new_harness)(http)
    answers = await asyncio.gather(*(http.post(f"{source['self_url']}/copy") for _ in range(6)))
    assert [answer.status_code for answer in answers] == [201] * 6
    stem = f"{source['name']}-copy"
    assert {answer.json()["name"] for answer in answers} == {
        stem,
        *(f"{stem}-{number}" for number in range(2, 7)),
    }


async def test_a_copy_is_a_new_agent_with_the_same_configuration(api: httpx.AsyncClient) -> None:
    agent = await new_agent(api, **FULL)
    copies = [await post(api, f"/v1/agents/{agent['id']}/copy", {}) for _ in range(2)]
    assert [each["name"] for each in copies] == [f"{agent['name']}-copy", f"{agent['name']}-copy-2"]
    for each in copies:
        assert without(each, "name") == without(agent, "name")
    await patch(api, f"/v1/agents/{copies[0]['id']}", {"system_prompt": "Other."})
    assert (await get(api, f"/v1/agents/{agent['id']}"))["system_prompt"] == PROMPT
    assert len(await get(api, f"/v1/agents/{copies[1]['id']}/versions")) == 1


async def test_an_agent_goes_out_to_a_file_and_comes_back_as_it_was(api: httpx.AsyncClient) -> None:
    harness = await new_harness(api)
    prompt = "  Two\r\nlines, \u2028 and 🙂.\n---\n"
    agent = await new_agent(api, **FULL, harness_id=harness["id"])
    agent = await patch(api, f"/v1/agents/{agent['id']}", {"system_prompt": prompt})
    answer = await api.get(f"/v1/agents/{agent['id']}/export")
    assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
    assert answer.headers["content-disposition"] == f'attachment; filename="{agent["name"]}.md"'
    text = answer.content.decode()
    same = await imported(api, text, 200)
    assert without(same) == without(agent)
    assert len(await get(api, f"/v1/agents/{agent['id']}/versions")) == 2
    other = await imported(api, text.replace(agent["name"], fresh("other")))
    assert without(other, "name") == without(agent, "name")
    (version,) = await get(api, f"/v1/agents/{other['id']}/versions")
    assert version["change_kind"] == "import"


async def test_a_file_that_is_not_understood_is_refused(api: httpx.AsyncClient) -> None:
    name = fresh("file")
    assert (await imported(api, f"---\nname: {name}\nmodle: x\n---\nHi.", 400))[
        "code"
    ] == "invalid_front_matter"
    assert (await imported(api, f"---\nname: {name}\nharness_name: nowhere\n---\nHi.", 404))[
        "code"
    ] == "harness_not_found"
    assert (await imported(api, "", 400))["code"] == "empty_file"
    sent = api.post("/v1/agents/import", content=b"\xff\xfe", headers={"content-type": "text/markdown"})
    assert (await sent).json()["code"] == "invalid_text"
    sent = api.post("/v1/agents/import", content=b"Hi.", headers={"content-type": "application/pdf"})
    assert (await sent).status_code == 415
    sent = api.post(
        "/v1/agents/import", content=b"x" * (4 * 1024 * 1024 + 1), headers={"content-type": "text/markdown"}
    )
    assert (await sent).status_code == 413
    await get(api, f"/v1/agents/{name}", 404)


async def test_an_example_makes_an_agent_that_works(http: httpx.AsyncClient) -> None:
    agent = await imported(http, "", **{"from-example": "meeting-notes"})
    assert (await imported(http, "", 200, **{"from-example": "meeting-notes"}))["id"] == agent["id"]
    assert (await imported(http, "", 404, **{"from-example": "nothing"}))["code"] == "agent_example_not_found"
    talk = await new_talk(http, agent_name="meeting-notes")
    assert (await talk.turn({"text": "Hi."}))[-2]["type"] == "turn.completed"


async def test_the_counts_of_an_agent_are_those_of_its_sessions(api: httpx.AsyncClient) -> None:
    agent = await new_agent(api)
    talks = [await new_talk(api, agent_id=agent["id"]) for _ in range(3)]
    for _ in range(2):
        await talks[0].turn({"text": "Hi.", "usage": {"input_tokens": 50, "output_tokens": 5}})
    assert (await api.delete(talks[2].path())).status_code == 204
    stats = await get(api, f"/v1/agents/{agent['name']}/stats")
    usage = (await talks[0].read())["usage"]
    assert (stats["session_count"], stats["started_session_count"], stats["idle_session_count"]) == (2, 1, 1)
    assert (stats["execution_count"], stats["total_input_tokens"]) == (2, usage["input_tokens"])
    assert stats["total_output_tokens"] == usage["output_tokens"] > 0
    assert stats["last_execution_at"] == (await talks[0].events(types="turn.started"))[-1]["ts"]
    assert (await get(api, f"/v1/agents/{agent['id']}"))["session_count"] == 2


async def test_the_files_of_an_agent_and_its_harness_are_in_its_sessions(api: httpx.AsyncClient) -> None:
    files = [{"path": "/a.md", "content": "harness"}, {"path": "/b.md", "content": "harness"}]
    harness = await new_harness(api, capabilities=[{"ref": "session_file_system"}], initial_files=files)
    agent = await new_agent(
        api, harness_id=harness["id"], initial_files=[{"path": "b.md", "content": "agent"}]
    )
    talk = await new_talk(api, agent_id=agent["id"])
    events = await talk.turn(
        {"tool_calls": [call("read_file", path="/a.md"), call("read_file", path="/b.md")]}, {"text": "Read."}
    )
    results = [str(event["data"]["result"]) for event in events if event["type"] == "tool.completed"]
    assert ["harness" in result for result in results] == [True, False]
    assert "agent" in results[1]


async def test_policies_say_what_the_caller_may_do(api: httpx.AsyncClient) -> None:
    assert await get(api, "/v1/agents/config") == {"policies": {"agent.manage": True}}


async def test_a_change_can_be_tied_to_what_was_read(api: httpx.AsyncClient) -> None:
    agent = await new_agent(api)
    path = f"/v1/agents/{agent['id']}"
    tag = (await api.get(path)).headers["etag"]
    assert (await api.get(path, headers={"If-None-Match": tag})).status_code == 304
    first = await api.patch(path, json={"description": "1"}, headers={"If-Match": tag})
    assert first.status_code == 200
    assert (await api.patch(path, json={"description": "2"}, headers={"If-Match": tag})).status_code == 412
    assert (
        await api.patch(path, json={"description": "3"}, headers={"If-Match": first.headers["etag"]})
    ).status_code == 200


async def test_another_organization_sees_nothing_of_it(api: httpx.AsyncClient) -> None:
    agent = await new_agent(api)
    (version,) = await get(api, f"/v1/agents/{agent['id']}/versions")
    headers = await elsewhere(api)
    base = f"/v1/agents/{agent['id']}"
    shape = {"name": fresh("x"), "system_prompt": PROMPT}
    for method, path, body in (
        ("GET", base, None),
        ("PATCH", base, {}),
        ("PUT", base, shape),
        ("DELETE", base, None),
        ("POST", f"{base}/copy", {}),
        ("GET", f"{base}/export", None),
        ("GET", f"{base}/stats", None),
        ("GET", f"{base}/versions", None),
        ("POST", f"{base}/versions", {}),
        ("POST", f"{base}/versions/default", {"version_id": version["id"]}),
        ("GET", f"{base}/versions/{version['id']}/diff/{version['id']}", None),
        ("POST", f"{base}/versions/{version['id']}/fork", {"name": fresh("x")}),
        ("POST", f"{base}/versions/{version['id']}/rollback", {}),
        ("GET", f"/v1/agents/{agent['name']}", None),
        ("POST", "/v1/sessions", {"agent_id": agent["id"]}),
    ):
        answer = await api.request(method, path, json=body, headers=headers)
        assert answer.status_code == 404, f"{method} {path}: {answer.text}"
    answer = await api.get("/v1/agents/check-name", params={"name": agent["name"]}, headers=headers)
    assert answer.json() == {"available": True}
    answer = await api.post(
        "/v1/agents", json={"name": agent["name"], "system_prompt": PROMPT}, headers=headers
    )
    assert answer.status_code == 201
    assert without(await get(api, base), "session_count", "app_count") == without(agent)


async def test_an_import_needs_its_content_type(api: httpx.AsyncClient) -> None:
    name = fresh("typed")
    text = f"---\nname: {name}\n---\nHi."
    for kind in ("text/plain", "text/plain;charset=UTF-8", "text/html", "application/json", "", "text/"):
        answer = await api.post("/v1/agents/import", content=text, headers={"content-type": kind})
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type"), kind
    await get(api, f"/v1/agents/{name}", 404)
    # A web page cannot send this header without asking first, so the older type does no harm with it.
    headers = {"content-type": "text/plain", "authorization": "Bearer any"}
    assert (await api.post("/v1/agents/import", content=text, headers=headers)).status_code == 201


@pytest.mark.parametrize("ref", ["Agent", "agent_1", "agent_" + "A" * 32, "a" * 65, "a%20b", "%F0%9F%99%82"])
async def test_what_is_neither_an_id_nor_a_name_is_refused(api: httpx.AsyncClient, ref: str) -> None:
    assert (await get(api, f"/v1/agents/{ref}", 400))["code"] == "invalid_id"
