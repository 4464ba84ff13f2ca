"""Harnesses: the layers below agents, which inherit from one another; built-in ones cannot be changed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from perdure.app.accounts import bootstrap
from perdure.app.harnesses import (
    archive_harness,
    change_harness,
    copy_harness,
    create_harness,
    import_harness,
    read_harness,
)
from perdure.domain.accounts import Caller
from perdure.domain.errors import Forbidden
from perdure.domain.examples import HARNESS_EXAMPLES
from perdure.domain.harnesses import CreateHarness, UpdateHarness
from perdure.domain.resources import policies_of
from perdure.settings import Settings
from perdure.wiring import open_parts
from tests.journeys.people import (
    PROMPT,
    elsewhere,
    fresh,
    get,
    new_agent,
    new_harness,
    patch,
    watched_model,
    without,
)
from tests.server import post
from tests.talk import Json, new_talk

FULL: Json = {
    "display_name": "Support house",
    "description": "For the support team",
    "system_prompt": "Answer briefly.",
    "capabilities": [{"ref": "session_file_system"}, {"ref": "tool_approval", "config": {"mode": "normal"}}],
    "tags": ["support"],
    "network_access": {"blocked": ["example.com"]},
    "embedder_metadata": {"team": "support"},
}


async def test_a_harness_keeps_all_that_it_was_given_and_is_found_by_id_and_by_name(
    api: httpx.AsyncClient,
) -> None:
    harness = await new_harness(api, **FULL)
    for ref in (harness["id"], harness["name"]):
        found = await get(api, f"/v1/harnesses/{ref}")
        assert {name: found[name] for name in FULL} == FULL
        assert (found["session_count"], found["status"], found["is_built_in"]) == (0, "active", False)
        assert {action["rel"] for action in found["allowed_actions"]} == {"self", "update", "delete", "copy"}


async def test_only_what_is_named_changes_and_null_clears_what_can_be_empty(api: httpx.AsyncClient) -> None:
    harness = await new_harness(api, **FULL)
    path = f"/v1/harnesses/{harness['name']}"
    assert (await patch(api, path, {}))["updated_at"] == harness["updated_at"]
    changed = await patch(api, path, {"system_prompt": None, "embedder_metadata": None, "unknown": 1})
    assert changed.pop("warnings") == ["unknown field `unknown` was ignored"]
    assert without(changed) == without(harness, "system_prompt", "embedder_metadata")
    assert changed["updated_at"] > harness["updated_at"]
    for name in ("name", "capabilities", "tags", "initial_files", "status"):
        await patch(api, path, {name: None}, 400)


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("name", "House", "invalid_request"),
        ("name", "check-name", "reserved_name"),
        ("name", "generic", "name_taken"),
        ("capabilities", [{"ref": "nothing"}], "unknown_capability"),
        ("capabilities", [{"ref": "tool_approval", "config": {"more": 1}}], "invalid_capability_config"),
        ("initial_files", [{"path": "/a", "content": "%", "encoding": "base64"}], "invalid_content"),
        ("parent_harness_id", "generic", "invalid_id"),
        ("parent_harness_id", f"harness_{'0' * 32}", "harness_not_found"),
        ("default_model_id", f"model_{'0' * 32}", "model_not_found"),
        ("embedder_metadata", {"": "x"}, "invalid_request"),
        ("system_prompt", "x" * 200_001, "invalid_request"),
        ("initial_files", [{"path": "/a", "content": "x" * 1_000_001}], "too_large"),
    ],
)
async def test_what_breaks_a_rule_is_refused_and_changes_nothing(
    api: httpx.AsyncClient, field: str, value: Any, code: str
) -> None:
    harness = await new_harness(api)
    status = {"name_taken": 409, "too_large": 413}.get(code, 404 if code.endswith("not_found") else 400)
    assert (await patch(api, f"/v1/harnesses/{harness['id']}", {field: value}, status))["code"] == code
    assert without(await get(api, f"/v1/harnesses/{harness['id']}"), "session_count", "app_count") == without(
        harness
    )
    assert (await post(api, "/v1/harnesses", {"name": fresh("house"), field: value}, status))["code"] == code


async def test_what_is_inherited_comes_before_ones_own(api: httpx.AsyncClient) -> None:
    top = await new_harness(api, system_prompt="Top.", capabilities=[{"ref": "current_time"}])
    low = await new_harness(api, system_prompt="Low.", parent_harness_id=top["id"])
    async with watched_model(api) as model:
        agent = await new_agent(api, harness_name=low["name"], default_model_id=model.id)
        talk = await new_talk(api, agent_id=agent["id"])
        model.will_answer()
        await talk.turn()
        places = [model.told.index(text) for text in ("Top.", "Low.", PROMPT)]
        assert places == sorted(places)
        assert model.tools == ["get_current_time"]
        await patch(api, f"/v1/harnesses/{top['id']}", {"system_prompt": "Summit."})
        model.will_answer()
        await talk.turn()
        assert "Summit." in model.told


async def test_no_harness_inherits_from_itself_not_even_by_way_of_others(api: httpx.AsyncClient) -> None:
    top = await new_harness(api)
    middle = await new_harness(api, parent_harness_id=top["id"])
    low = await new_harness(api, parent_harness_id=middle["id"])
    for parent in (top, middle, low):
        refused = await patch(api, f"/v1/harnesses/{top['id']}", {"parent_harness_id": parent["id"]}, 400)
        assert refused["code"] == "harness_cycle"
    assert "parent_harness_id" not in await patch(
        api, f"/v1/harnesses/{middle['id']}", {"parent_harness_id": None}
    )
    await patch(api, f"/v1/harnesses/{top['id']}", {"parent_harness_id": low["id"]})


async def test_no_line_gets_too_long_from_below_or_from_above(api: httpx.AsyncClient) -> None:
    line = [await new_harness(api)]
    while len(line) < 8:
        line.append(await new_harness(api, parent_harness_id=line[-1]["id"]))
    body = {"name": fresh("house"), "parent_harness_id": line[-1]["id"]}
    assert (await post(api, "/v1/harnesses", body, 400))["code"] == "harness_too_deep"
    above = await new_harness(api)
    refused = await patch(api, f"/v1/harnesses/{line[0]['id']}", {"parent_harness_id": above["id"]}, 400)
    assert refused["code"] == "harness_too_deep"
    await patch(api, f"/v1/harnesses/{line[1]['id']}", {"parent_harness_id": above["id"]})


async def test_two_changes_at_once_make_no_circle(api: httpx.AsyncClient) -> None:
    for _ in range(5):
        one, other = await new_harness(api), await new_harness(api)
        answers = await asyncio.gather(
            api.patch(f"/v1/harnesses/{one['id']}", json={"parent_harness_id": other["id"]}),
            api.patch(f"/v1/harnesses/{other['id']}", json={"parent_harness_id": one["id"]}),
        )
        assert sorted(answer.status_code for answer in answers) == [200, 400]


async def test_an_archived_harness_takes_nothing_new_on_and_carries_what_it_has(
    api: httpx.AsyncClient,
) -> None:
    harness = await new_harness(api, capabilities=[{"ref": "current_time"}])
    agent = await new_agent(api, harness_id=harness["id"])
    talk = await new_talk(api, agent_id=agent["id"])
    for _ in range(2):
        assert (await api.delete(f"/v1/harnesses/{harness['id']}")).status_code == 204
    assert harness["id"] not in [each["id"] for each in (await get(api, "/v1/harnesses"))["data"]]
    listed = (await get(api, "/v1/harnesses", include_archived="true", search=harness["name"]))["data"]
    assert [(each["id"], each["status"]) for each in listed] == [(harness["id"], "archived")]
    for path, body in (
        ("/v1/sessions", {"harness_id": harness["id"]}),
        ("/v1/agents", {"name": fresh("desk"), "system_prompt": PROMPT, "harness_id": harness["id"]}),
        ("/v1/harnesses", {"name": fresh("house"), "parent_harness_id": harness["id"]}),
    ):
        assert (await post(api, path, body, 400))["code"] == "harness_archived"
    assert (await talk.turn({"text": "Hi."}))[-2]["type"] == "turn.completed"
    await new_talk(api, agent_id=agent["id"])
    back = await patch(api, f"/v1/harnesses/{harness['id']}", {"status": "active"})
    assert (back["status"], back.get("archived_at")) == ("active", None)


async def test_a_deleted_harness_is_gone_for_good(api: httpx.AsyncClient) -> None:
    harness = await new_harness(api)
    assert "deleted_at" in await patch(api, f"/v1/harnesses/{harness['id']}", {"status": "deleted"})
    await get(api, f"/v1/harnesses/{harness['id']}", 404)
    await post(api, "/v1/sessions", {"harness_id": harness["id"]}, 404)
    await post(api, "/v1/harnesses", {"name": fresh("house"), "parent_harness_id": harness["id"]}, 404)


async def test_the_organizations_default_harness_cannot_be_archived(http: httpx.AsyncClient) -> None:
    harness = await new_harness(http)
    organization = (await get(http, "/v1/orgs"))["data"][0]["id"]
    await patch(http, f"/v1/orgs/{organization}", {"default_harness_id": harness["id"]})
    assert (await http.delete(f"/v1/harnesses/{harness['id']}")).json()["code"] == "harness_in_use"
    assert (await patch(http, f"/v1/harnesses/{harness['id']}", {"status": "archived"}, 409))[
        "code"
    ] == "harness_in_use"
    await patch(http, f"/v1/orgs/{organization}", {"default_harness_id": None})
    assert (await http.delete(f"/v1/harnesses/{harness['id']}")).status_code == 204


@pytest.mark.parametrize("name", ["base", "generic"])
async def test_a_built_in_harness_cannot_be_changed_but_copied(api: httpx.AsyncClient, name: str) -> None:
    harness = await get(api, f"/v1/harnesses/{name}")
    assert harness["is_built_in"]
    for method, body in (("PATCH", {"description": "Mine"}), ("PATCH", {}), ("DELETE", None)):
        answer = await api.request(method, f"/v1/harnesses/{name}", json=body)
        assert (answer.status_code, answer.json()["code"]) == (403, "built_in_read_only")
    copy = await post(api, f"/v1/harnesses/{name}/copy", {})
    assert copy["name"].startswith(f"{name}-copy")
    assert without(copy, "name", "is_built_in") == without(
        harness, "name", "is_built_in", "session_count", "app_count"
    )
    assert (await patch(api, f"/v1/harnesses/{copy['id']}", {"description": "Mine"}))["description"] == "Mine"
    assert (await get(api, "/v1/harnesses"))["data"][0]["is_built_in"]


async def test_a_preview_puts_the_parents_first(api: httpx.AsyncClient) -> None:
    top = await new_harness(api, system_prompt="Top.", capabilities=[{"ref": "current_time"}])
    body = {"system_prompt": "Low.", "capabilities": [{"ref": "session"}], "parent_harness_id": top["id"]}
    preview = await post(api, "/v1/harnesses/preview", body, 200)
    assert (
        preview["system_prompt"]
        == f'<harness name="{top["name"]}">\nTop.\n</harness>\n\n<harness>\nLow.\n</harness>'
    )
    assert [tool["name"] for tool in preview["tools"]] == [
        "get_current_time",
        "get_session_info",
        "write_session_title",
    ]
    assert await post(api, "/v1/harnesses/preview", {}, 200) == {"system_prompt": "", "tools": []}
    assert (await post(api, "/v1/harnesses/preview", {"capabilities": [{"ref": "x"}]}, 400))[
        "code"
    ] == "unknown_capability"
    assert (await post(api, "/v1/harnesses/preview", {"parent_harness_id": f"harness_{'0' * 32}"}, 404))[
        "code"
    ] == "harness_not_found"


async def test_an_empty_name_is_no_harness(api: httpx.AsyncClient) -> None:
    for path, body in (
        ("/v1/sessions", {}),
        ("/v1/agents", {"name": fresh("desk"), "system_prompt": "Hello."}),
    ):
        refused = await api.post(path, json={**body, "harness_name": ""})
        assert (refused.status_code, refused.json()["code"]) == (404, "harness_not_found"), path


async def test_every_example_makes_a_harness_that_works(http: httpx.AsyncClient) -> None:
    examples = await get(http, "/v1/harness-examples")
    assert {each["name"] for each in examples} <= {each.entry.name for each in HARNESS_EXAMPLES}
    assert {"notebook", "careful"} <= {each["name"] for each in examples}
    for example in examples:
        harness = await post(http, f"/v1/harnesses/import?from-example={example['name']}", {})
        assert {
            name: harness[name] for name in ("name", "display_name", "description", "capabilities", "tags")
        } == {name: example[name] for name in ("name", "display_name", "description", "capabilities", "tags")}
        assert (await get(http, f"/v1/harnesses/{harness['parent_harness_id']}"))["name"] == example[
            "parent_name"
        ]
        talk = await new_talk(http, harness_name=example["name"])
        assert (await talk.turn({"text": "Hi."}))[-2]["type"] == "turn.completed"
        assert (await post(http, f"/v1/harnesses/import?from-example={example['name']}", {}, 409))[
            "code"
        ] == "name_taken"
    assert (await post(http, "/v1/harnesses/import?from-example=nothing", {}, 404))[
        "code"
    ] == "harness_example_not_found"
    assert "`from-example`" in (await post(http, "/v1/harnesses/import", {}, 400))["detail"]


async def test_a_name_can_be_checked_and_the_sessions_are_counted(api: httpx.AsyncClient) -> None:
    harness = await new_harness(api)
    assert await get(api, "/v1/harnesses/check-name", name=fresh("free")) == {"available": True}
    assert await get(api, "/v1/harnesses/check-name", name=harness["name"]) == {"available": False}
    assert await get(api, "/v1/harnesses/check-name", name=harness["name"], exclude_id=harness["id"]) == {
        "available": True
    }
    talk = await new_talk(api, harness_id=harness["id"])
    await talk.turn({"text": "Hi."})
    stats = await get(api, f"/v1/harnesses/{harness['name']}/stats")
    assert (stats["session_count"], stats["idle_session_count"], stats["execution_count"]) == (1, 1, 1)
    listed = (await get(api, "/v1/harnesses", search=harness["name"]))["data"]
    assert [each["session_count"] for each in listed] == [1]


async def test_another_organization_has_its_own_built_in_ones_and_sees_nothing_of_ours(
    api: httpx.AsyncClient,
) -> None:
    harness = await new_harness(api)
    headers = await elsewhere(api)
    base = f"/v1/harnesses/{harness['id']}"
    for method, path, body in (
        ("GET", base, None),
        ("PATCH", base, {}),
        ("DELETE", base, None),
        ("POST", f"{base}/copy", {}),
        ("GET", f"{base}/stats", None),
        ("GET", f"/v1/harnesses/{harness['name']}", None),
        ("POST", "/v1/harnesses/preview", {"parent_harness_id": harness["id"]}),
        ("POST", "/v1/harnesses", {"name": "mine", "parent_harness_id": harness["id"]}),
        ("POST", "/v1/agents", {"name": "mine", "system_prompt": PROMPT, "harness_id": harness["id"]}),
    ):
        answer = await api.request(method, path, json=body, headers=headers)
        assert answer.status_code == 404, f"{method} {path}: {answer.text}"
    theirs = (await api.get("/v1/harnesses", headers=headers)).json()["data"]
    assert {each["name"] for each in theirs} >= {"base", "generic"}
    assert not {each["id"] for each in theirs} & {
        each["id"] for each in (await get(api, "/v1/harnesses"))["data"]
    }


async def test_members_use_harnesses_and_leave_them_as_they_are(tmp_path: Path) -> None:
    async with open_parts(Settings(data=str(tmp_path))) as parts:
        app = parts.app
        owner = await bootstrap(app)
        member = Caller(owner.organization_id, owner.user_id, "member")
        admin = Caller(owner.organization_id, owner.user_id, "admin")
        harness = await create_harness(app, admin, CreateHarness("house"))
        assert (await read_harness(app, member, "house")).id == harness.id
        for attempt in (
            create_harness(app, member, CreateHarness("mine")),
            change_harness(app, member, "house", UpdateHarness(description="Mine")),
            archive_harness(app, member, "house"),
            copy_harness(app, member, "house"),
            import_harness(app, member, "notebook"),
        ):
            with pytest.raises(Forbidden):
                await attempt
    assert policies_of("member", "harness").policies == {"harness.manage": False}
    assert policies_of("admin", "harness").policies == {"harness.manage": True}
    assert policies_of("member", "agent").policies == {"agent.manage": True}
