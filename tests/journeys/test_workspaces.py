"""Workspaces: made, listed, changed, archived, and shared between sessions."""

from __future__ import annotations

import httpx
import pytest

from perdure.domain.ids import new_id
from tests.journeys.people import elsewhere, fresh, get, patch
from tests.journeys.trees import Tree, code
from tests.server import post
from tests.talk import Json, call, new_talk


async def new_workspace(http: httpx.AsyncClient, **fields: str) -> Json:
    made: Json = await post(http, "/v1/workspaces", {"name": fresh("space"), **fields})
    return made


def one(workspace: Json) -> str:
    return f"/v1/workspaces/{workspace['id']}"


async def test_a_workspace_is_made_read_and_changed(api: httpx.AsyncClient) -> None:
    made = await new_workspace(api, description="For the report.")
    assert (made["status"], made["size_bytes"], made["file_count"], made["description"]) == (
        "active",
        0,
        0,
        "For the report.",
    )
    assert "session_id" not in made
    assert await get(api, one(made)) == made
    assert await patch(api, one(made), {}) == made
    name = fresh("renamed")
    changed = await patch(api, one(made), {"name": f" {name} ", "description": None})
    assert (changed["name"], "description" in changed) == (name, False)
    assert changed["updated_at"] > made["updated_at"]
    await post(api, f"{one(made)}/fs/a", {"content": "1234"})
    held = await get(api, one(made))
    assert (held["size_bytes"], held["file_count"], held["updated_at"]) == (4, 1, changed["updated_at"])


async def test_a_name_belongs_to_one_workspace(api: httpx.AsyncClient) -> None:
    first, second = await new_workspace(api), await new_workspace(api)
    taken = await post(api, "/v1/workspaces", {"name": first["name"]}, 409)
    assert code(taken) == "name_taken"
    assert code(await patch(api, one(second), {"name": first["name"]}, 409)) == "name_taken"
    assert (await api.delete(one(first))).status_code == 204
    await patch(api, one(second), {"name": first["name"]})
    assert code(await patch(api, one(first), {"status": "active"}, 409)) == "name_taken"
    await patch(api, one(first), {"name": fresh("other"), "status": "active"})


@pytest.mark.parametrize("name", ["", "  ", "x" * 201, "a\nb", None])
async def test_what_cannot_be_a_name_is_refused(api: httpx.AsyncClient, name: str | None) -> None:
    await post(api, "/v1/workspaces", {"name": name}, 400)
    await patch(api, one(await new_workspace(api)), {"name": name}, 400)


async def test_workspaces_are_listed_and_searched(api: httpx.AsyncClient) -> None:
    word = fresh("needle")
    first = await new_workspace(api, description=f"has a {word} in it")
    second = await new_workspace(api, name=f"{word.upper()} here")
    await new_talk(api)
    found = (await get(api, "/v1/workspaces", search=word))["data"]
    assert [each["id"] for each in found] == [second["id"], first["id"]]
    assert (await get(api, "/v1/workspaces", search=f"{word.upper()} H"))["data"] == found[:1]
    await api.delete(one(second))
    assert [each["id"] for each in (await get(api, "/v1/workspaces", search=word))["data"]] == [first["id"]]
    with_archived = (await get(api, "/v1/workspaces", search=word, include_archived="true"))["data"]
    assert [each["status"] for each in with_archived] == ["archived", "active"]
    everything = (await get(api, "/v1/workspaces", include_archived="true"))["data"]
    assert all("session_id" not in each for each in everything)


async def test_sessions_work_in_one_workspace(api: httpx.AsyncClient) -> None:
    workspace = await new_workspace(api)
    writer = await new_talk(api, workspace_id=workspace["id"])
    reader = await new_talk(api, workspace_id=workspace["id"])
    assert (await writer.read())["workspace_id"] == workspace["id"]
    await writer.turn(
        {"tool_calls": [call("write_file", path="/plan.md", content="Step one.")]}, {"text": "Done."}
    )
    events = await reader.turn({"tool_calls": [call("read_file", path="/plan.md")]}, {"text": "Read."})
    result = next(event["data"] for event in events if event["type"] == "tool.completed")
    assert "Step one." in result["result"][0]["text"]
    assert [event["data"]["path"] for event in await writer.events(types="file.written")] == ["/plan.md"]
    assert await reader.events(types="file.written") == []
    for talk in (writer, reader):
        assert (await api.delete(talk.path())).status_code == 204
    assert (await get(api, f"{one(workspace)}/fs/plan.md"))["content"] == "Step one."


async def test_a_sessions_own_workspace_can_be_shared_and_stays_as_long_as_it_is(
    api: httpx.AsyncClient,
) -> None:
    owner = await new_talk(api)
    own = (await owner.read())["workspace_id"]
    await post(api, owner.path("/fs/a"), {"content": "1"})
    guest = await new_talk(api, workspace_id=own)
    assert (await api.delete(owner.path())).status_code == 204
    assert (await get(api, guest.path("/fs/a")))["content"] == "1"
    await post(api, f"/v1/workspaces/{own}/fs/b", {"content": "2"})
    assert (await api.delete(guest.path())).status_code == 204
    await get(api, f"/v1/workspaces/{own}", 404)


async def test_initial_files_do_not_replace_shared_files(api: httpx.AsyncClient) -> None:
    workspace = await new_workspace(api)
    files = [{"path": "/a", "content": "first"}, {"path": "/b", "content": "first"}]
    await new_talk(api, workspace_id=workspace["id"], initial_files=files)
    again = [{"path": "/a", "content": "second"}, {"path": "/c", "content": "second"}]
    talk = await new_talk(api, workspace_id=workspace["id"], initial_files=again)
    contents = {path: (await get(api, talk.path(f"/fs{path}")))["content"] for path in ("/a", "/b", "/c")}
    assert contents == {"/a": "first", "/b": "first", "/c": "second"}


async def test_an_archived_workspace_is_read_only_and_takes_no_sessions(api: httpx.AsyncClient) -> None:
    workspace = await new_workspace(api)
    talk = await new_talk(api, workspace_id=workspace["id"])
    tree = Tree(talk, one(workspace))
    await tree.create("a", content="1")
    for _ in range(2):
        assert (await api.delete(one(workspace))).status_code == 204
    archived = await get(api, one(workspace))
    assert (archived["status"], "archived_at" in archived) == ("archived", True)
    assert (await tree.read("a"))["content"] == "1"
    for refusal in (
        tree.create("b", 409, content="2"),
        tree.put("a", 409, content="2"),
        tree.delete("a", 409),
        tree.act("move", 409, src_path="/a", dst_path="/b"),
        post(api, "/v1/sessions", {"workspace_id": workspace["id"]}, 409),
    ):
        assert code(await refusal) == "workspace_archived"
    events = await talk.turn({"tool_calls": [call("write_file", path="/a", content="2")]}, {"text": "I see."})
    result = next(event["data"] for event in events if event["type"] == "tool.completed")
    assert "archived" in result["error"]
    back = await patch(api, one(workspace), {"status": "active"})
    assert "archived_at" not in back
    await tree.put("a", content="2")


async def test_a_sessions_own_workspace_is_deleted_with_it(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    own = {"id": (await talk.read())["workspace_id"]}
    shown = await get(api, one(own))
    assert (shown["session_id"], shown["status"]) == (talk.id, "active")
    assert code((await api.delete(one(own))).json()) == "workspace_of_session"
    assert code(await patch(api, one(own), {"status": "archived"}, 409)) == "workspace_of_session"
    renamed = await patch(api, one(own), {"name": "Drafts"})
    assert (renamed["name"], renamed["session_id"]) == ("Drafts", talk.id)
    await patch(api, one({"id": (await (await new_talk(api)).read())["workspace_id"]}), {"name": "Drafts"})


async def test_missing_and_other_organizations_workspaces_are_not_found(api: httpx.AsyncClient) -> None:
    workspace, talk = await new_workspace(api), await new_talk(api)
    foreign = await elsewhere(api)
    for identifier in (workspace["id"], (await talk.read())["workspace_id"]):
        for method, body in (("GET", None), ("PATCH", {"name": "x"}), ("DELETE", None)):
            answer = await api.request(method, f"/v1/workspaces/{identifier}", json=body, headers=foreign)
            assert (answer.status_code, code(answer.json())) == (404, "workspace_not_found")
        refused = await api.post("/v1/sessions", json={"workspace_id": identifier}, headers=foreign)
        assert (refused.status_code, code(refused.json())) == (404, "workspace_not_found")
    assert (await api.get("/v1/workspaces", headers=foreign)).json()["data"] == []
    await get(api, f"/v1/workspaces/{new_id('workspace')}", 404)
    await get(api, "/v1/workspaces/nonsense", 400)
    assert code(await post(api, "/v1/sessions", {"workspace_id": "nonsense"}, 400)) == "invalid_id"


async def test_the_public_client_works_with_files_unchanged(api: httpx.AsyncClient) -> None:
    from everruns_sdk import Everruns

    talk = await new_talk(api)
    workspace = (await talk.read())["workspace_id"]
    client = Everruns(api_key="none", base_url=f"{str(api.base_url).rstrip('/')}/api")
    try:
        files = client.workspace_files
        made = await files.create(workspace, "/notes/a.txt", "hello\nworld\n")
        assert (made.path, made.is_directory) == ("/notes/a.txt", False)
        await files.create_dir(workspace, "/empty")
        assert [each.path for each in await files.list(workspace)] == ["/empty", "/notes"]
        assert [each.path for each in await files.list(workspace, "/notes", recursive=True)] == [
            "/notes/a.txt"
        ]
        assert (await files.read(workspace, "/notes/a.txt")).content == "hello\nworld\n"
        assert (await files.update(workspace, "/notes/a.txt", "hello\n")).size_bytes == 6
        assert (await files.move_file(workspace, "/notes/a.txt", "/b.txt")).path == "/b.txt"
        assert (await files.copy_file(workspace, "/b.txt", "/c.txt")).path == "/c.txt"
        assert [
            match.line_number for result in await files.grep(workspace, "hel+o") for match in result.matches
        ] == [1, 1]
        assert (await files.stat(workspace, "/c.txt")).size_bytes == 6
        assert (await files.delete(workspace, "/notes", recursive=True)).deleted
        made_one = await client.workspaces.create(fresh("theirs"))
        assert (await client.workspaces.get(made_one.id)).name == made_one.name
    finally:
        await client.close()
