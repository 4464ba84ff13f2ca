"""What one user's memory holds reaches no other user, whatever they ask for and however they ask."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import httpx
import pytest

from tests.journeys.families import spawns
from tests.journeys.keyed import add_member, person, with_login
from tests.journeys.people import elsewhere, fresh, new_agent
from tests.journeys.stores import Store, fails, mounts, results, sha, use
from tests.journeys.trees import Tree
from tests.journeys.whole_api import ENDLESS, OF_THE_SERVER, SAME, operations_in
from tests.mcp_client import use_tool
from tests.media_files import png
from tests.server import Server, post
from tests.talk import Json, Talk, body_of, call, new_talk, script

MARK = "swordfish"
MINE = {"name": "me", "scope": "user", "mode": "read_write"}


class People(NamedTuple):
    """Three users of one organization: Ada, whose memory it is, Bob, and an owner."""

    server: Server
    ada: httpx.AsyncClient
    bob: httpx.AsyncClient
    owner: httpx.AsyncClient

    @property
    def others(self) -> tuple[httpx.AsyncClient, ...]:
        return self.bob, self.owner


@pytest.fixture
async def people(any_server: Server) -> AsyncIterator[People]:
    token = await with_login(any_server)
    async with person(any_server, token) as owner:
        _, adas = await add_member(owner, "ada")
        _, bobs = await add_member(owner, "bob")
        async with person(any_server, adas) as ada, person(any_server, bobs) as bob:
            yield People(any_server, ada, bob, owner)


async def remembering(http: httpx.AsyncClient, **fields: Any) -> Talk:
    """A session of a user that has written the mark into the user's memory, and read it."""
    also = [{"ref": "bashkit_shell"}, {"ref": "subagents"}]
    talk = await new_talk(http, capabilities=mounts(MINE, also=also), **fields)
    await talk.turn(
        {"tool_calls": [call("write_file", path="/memories/me/a.md", content=f"{MARK}\n")]},
        {"tool_calls": [call("read_file", path="/memories/me/a.md")]},
        {"tool_calls": [spawns(MARK, {"text": MARK}, mode="foreground")]},
        {"text": f"I know {MARK}."},
    )
    return talk


async def image_of(http: httpx.AsyncClient, session_id: str) -> Json:
    """An image that ends with a session."""
    files = {"file": (f"{MARK}.png", png(3, 3), "image/png")}
    made = await http.post("/v1/images", files=files, params={"session_id": session_id})
    assert made.status_code == 201, made.text
    found: Json = made.json()
    return found


async def own_memory(http: httpx.AsyncClient) -> Store:
    found = (await http.get("/v1/memories")).json()["data"]
    (mine,) = [each for each in found if each["scope"] == "user"]
    return Store(http, mine)


async def _change_everything(ada: httpx.AsyncClient, talk: Talk, memory: str) -> None:
    """Change what belongs to a closed session and to a user's memory, and name the mark each time."""
    cron = {"message": MARK, "cron": "0 9 * * *"}
    for method, path, body in (
        ("PATCH", talk.path(), {"title": f"All about {MARK}", "metadata": {"a": MARK}}),
        ("PUT", talk.path("/storage/secrets"), {"secrets": {MARK.upper(): MARK}}),
        ("POST", talk.path(f"/fs/{MARK}.md"), {"content": MARK}),
        ("POST", talk.path("/schedules"), cron),
        ("POST", talk.path("/databases"), {"name": MARK}),
        ("PATCH", f"/v1/memories/{memory}", {"description": MARK}),
        ("POST", f"/v1/memories/{memory}/fs/{MARK}.md", {"content": MARK}),
        ("DELETE", f"/v1/memories/{memory}/fs/{MARK}.md", None),
    ):
        answer = await ada.request(method, path, json=body)
        assert answer.status_code < 300, (path, answer.text)


async def _check_audit_log(people: People, talk: Talk, memory: str) -> None:
    """Check that administrators see that something was changed, and nothing of it."""
    await _change_everything(people.ada, talk, memory)
    org = (await talk.read())["organization_id"]
    log = (await people.owner.get(f"/v1/orgs/{org}/audit-logs", params={"limit": 1000})).json()["data"]
    changed = {each["action"] for each in log if each["actor"].get("name") == "ada"}
    assert {"session.created", "session.updated", "secret.created", "file.created"} <= changed
    assert "memory.updated" in changed
    assert MARK not in json.dumps(log).lower()


async def test_no_operation_tells_another_user_anything(people: People) -> None:
    """Walk every operation that names the session, the memory or what belongs to them, and every list."""
    talk = await remembering(people.ada, title=f"About {MARK}", tags=[MARK])
    store = await own_memory(people.ada)
    (version,) = await store.versions()
    session = await talk.read()
    messages = await talk.messages()
    asks = [{"ref": "tool_approval", "config": {"mode": "protective"}}]
    waits = await new_talk(people.ada, capabilities=mounts(MINE, also=asks))
    await waits.say(script({"tool_calls": [call("write_file", path="/x", content=MARK)]}))
    await waits.logged_until("tool.call_requested")
    (item,) = (await people.ada.get("/v1/inbox", params={"session_id": waits.id})).json()["data"]
    values = {
        **SAME,
        "session_id": talk.id,
        "workspace_id": session["workspace_id"],
        "memory_id": store.memory["id"],
        "memory_version_id": version["id"],
        "path": "memories/me/a.md",
        "message_id": messages[-1]["id"],
        "item_id": item["id"],
        "workflow_id": f"{talk.id}.{(await talk.events(types='turn.completed'))[-1]['data']['turn_id']}",
        "image_id": (await image_of(people.ada, talk.id))["id"],
    }
    document = (await people.ada.get("/api-doc/openapi.json")).json()
    told, asked = [], 0
    ours = {"session_id", "workspace_id", "memory_id", "item_id", "workflow_id", "image_id"}
    for each in operations_in(document):
        named = set(each.names) - OF_THE_SERVER
        mine = bool(named & ours)
        if each.public or not (mine or (each.method == "GET" and not named)):
            continue
        if each.id in ENDLESS and not mine:
            continue
        given = {name: values.get(name, f"{name}_{'0' * 32}") for name in each.names}
        for http in people.others:
            answer = await each.send(http, given)
            asked += 1
            if MARK in answer.text or (mine and answer.status_code < 400):
                told.append(f"{each.id}: {answer.status_code} {answer.text[:200]}")
    assert told == []
    assert asked > 150
    assert MARK in (await people.ada.get("/v1/tasks")).text
    for http in people.others:
        assert (await http.get("/v1/sessions", params={"search": MARK})).json()["data"] == []
        assert (await http.get("/v1/sessions", params={"tag": MARK})).json()["data"] == []
        listed = (await http.get("/v1/sessions", params={"order": "last_activity"})).json()
        assert talk.id not in json.dumps(listed)
        assert (await http.get("/v1/memories", params={"include_archived": True})).json()["data"] == []
    await _check_audit_log(people, talk, store.memory["id"])
    # Nothing has changed for Ada.
    assert await store.text("/a.md") == f"{MARK}\n"
    assert (await talk.read())["id"] == talk.id
    assert (await people.ada.get("/v1/sessions", params={"search": MARK})).json()["total"] == 2


async def test_the_same_configuration_gives_each_user_their_own_memory(people: People) -> None:
    agent = await new_agent(people.ada, capabilities=mounts(MINE, also=[{"ref": "bashkit_shell"}]))
    await remembering(people.ada)
    bob = await new_talk(people.bob, agent_id=agent["id"])
    assert "no such file" in await fails(bob, "read_file", path="/memories/me/a.md")
    assert (await use(bob, "grep_files", pattern=MARK))["matches"] == []
    assert (await use(bob, "glob", pattern="**/*"))["paths"] == []
    assert (await use(bob, "list_directory", path="/memories/me"))["entries"] == []
    shell = await use(bob, "bash", command="cat /workspace/memories/me/* ; grep -r sword /workspace")
    assert MARK not in json.dumps(shell["stdout"])
    await use(bob, "write_file", path="/memories/me/a.md", content="of Bob\n")
    assert await (await own_memory(people.ada)).text("/a.md") == f"{MARK}\n"
    assert await (await own_memory(people.bob)).text("/a.md") == "of Bob\n"


async def test_a_configuration_may_spell_the_users_memory_in_the_name_or_in_the_scope(people: People) -> None:
    stores = ({"name": "{{user}}", "mode": "read_write"}, {"name": "me", "scope": "{{user}}"})
    agent = await new_agent(people.owner, capabilities=mounts(*stores))
    written = await new_talk(people.ada, capabilities=mounts({**MINE, "name": "user"}, MINE))
    await use(written, "write_file", path="/memories/user/a.md", content=MARK)
    await use(written, "write_file", path="/memories/me/a.md", content=f"also {MARK}")
    ada, bob = [await new_talk(http, agent_id=agent["id"]) for http in (people.ada, people.bob)]
    assert MARK in json.dumps(await use(ada, "read_file", path="/memories/user/a.md"))
    assert f"also {MARK}" in json.dumps(await use(ada, "read_file", path="/memories/me/a.md"))
    for path in ("/memories/user/a.md", "/memories/me/a.md"):
        assert "no such file" in await fails(bob, "read_file", path=path)
    assert "read-only" in await fails(ada, "write_file", path="/memories/me/b.md", content="x")
    for http in people.others:
        assert (await http.get(f"/v1/sessions/{ada.id}")).status_code == 404
    # A layer below that mounts it read-only keeps it so, whichever spelling the layers have.
    lower = {"name": "user", "scope": "user"}
    agent = await new_agent(people.owner, capabilities=mounts(lower))
    talk = await new_talk(people.ada, agent_id=agent["id"], capabilities=mounts(stores[0]))
    assert "read-only" in await fails(talk, "write_file", path="/memories/user/b.md", content="x")


async def test_no_mount_reaches_a_users_memory_by_its_id_or_name(people: People) -> None:
    await remembering(people.ada)
    store = await own_memory(people.ada)
    named = {"name": "me", "memory_id": store.memory["id"], "mode": "read_write"}
    for stores in ([named], [{"name": "me"}], [{"name": "me", "scope": "agent"}]):
        bob = await new_talk(people.bob, capabilities=mounts(*stores))
        assert "no such file" in await fails(bob, "read_file", path="/memories/me/a.md")
        tree = Tree(bob, bob.path())
        await tree.read("/memories/me/a.md", 404)
        await tree.act("copy", 404, src_path="/memories/me/a.md", dst_path="/a.md")
    workspace = f"workspace_{store.memory['id'][-32:]}"
    for path in (f"/v1/workspaces/{workspace}", f"/v1/workspaces/{workspace}/fs/a.md"):
        assert (await people.bob.get(path)).status_code == 404


async def test_a_fork_of_a_session_that_knows_a_memory_is_its_owners_alone(people: People) -> None:
    talk = await remembering(people.ada)
    assert (await people.bob.post(talk.path("/fork"), json={})).status_code == 404
    copy = await post(people.ada, talk.path("/fork"), {"title": "Copy"})
    early = await post(people.ada, talk.path("/fork"), {"from_sequence": 1})
    again = await post(people.ada, f"/v1/sessions/{copy['id']}/fork", {})
    for session in (copy, early, again):
        assert (await people.ada.get(f"/v1/sessions/{session['id']}/export")).status_code == 200
        for http in people.others:
            for rest in ("", "/export", "/events", "/messages", "/fs", "/sse"):
                answer = await http.get(f"/v1/sessions/{session['id']}{rest}")
                assert (answer.status_code, MARK in answer.text) == (404, False), rest


async def test_a_sub_agent_that_reads_a_memory_closes_the_whole_tree(people: People) -> None:
    """The agent mounts it; the parent's own session does not, and is closed with its sub-agent."""
    await remembering(people.ada)
    agent = await new_agent(people.ada, capabilities=mounts(MINE))
    family = [{"ref": "subagents", "config": {"agents": [agent["name"]]}}]
    talk = await new_talk(people.ada, capabilities=family)
    assert (await people.bob.get(talk.path())).status_code == 200
    reads = {"tool_calls": [call("read_file", path="/memories/me/a.md")]}
    spawn = spawns("reader", reads, {"text": MARK}, mode="foreground", agent=agent["name"])
    events = await talk.turn({"tool_calls": [spawn]}, {"text": "ok"})
    assert MARK in json.dumps(events)
    children = (await people.ada.get("/v1/sessions", params={"include_subagents": True})).json()["data"]
    for identifier in (talk.id, *(each["id"] for each in children)):
        assert (await people.bob.get(f"/v1/sessions/{identifier}/events")).status_code == 404


async def test_who_follows_a_session_hears_nothing_more_once_it_reads_a_memory(people: People) -> None:
    """The agent gets the memory after Bob has begun to follow Ada's session."""
    await remembering(people.ada)
    agent = await new_agent(people.ada, capabilities=[{"ref": "bashkit_shell"}])
    talk = await new_talk(people.ada, agent_id=agent["id"])
    await talk.turn({"text": "Hello."})
    guest = Talk(people.bob, talk.id)
    async with guest.follow() as stream:
        await stream.until("session.idled")
        also = mounts(MINE, also=[{"ref": "bashkit_shell"}])
        changed = await people.ada.patch(f"/v1/agents/{agent['id']}", json={"capabilities": also})
        assert changed.status_code == 200, changed.text
        await talk.turn(
            {"tool_calls": [call("bash", command="cat /workspace/memories/me/a.md; sleep 1")]},
            {"text": "I have read it."},
        )
        rest = await stream.to_end()
        assert MARK.encode() not in stream.raw
        assert "turn.completed" not in [frame.kind for frame in rest]
    assert (await people.bob.get(talk.path("/messages"))).status_code == 404


async def test_nobody_else_makes_a_session_with_a_users_memory_work(people: People) -> None:
    """From its first moment: what Bob writes must not become what Ada's agent remembers."""
    talk = await new_talk(people.ada, capabilities=mounts(MINE))
    writes = script({"tool_calls": [call("write_file", path="/memories/me/b.md", content="of Bob")]})
    for http in people.others:
        assert (await http.post(talk.path("/messages"), json=body_of(writes))).status_code == 404
        tree = Tree(Talk(http, talk.id), talk.path())
        await tree.create("/memories/me/b.md", 404, content="of Bob")
        await tree.create("/AGENTS.md", 404, content="of Bob")
    assert (await people.ada.get("/v1/memories")).json()["data"] == []


async def test_the_mcp_endpoint_and_commands_tell_nothing(people: People) -> None:
    talk = await remembering(people.ada, title=MARK)
    for name, arguments in (
        ("read_answer", {"session_id": talk.id}),
        ("send_message", {"session_id": talk.id, "message": "What do you know?"}),
        ("cancel_turn", {"session_id": talk.id}),
        ("list_approvals", {"session_id": talk.id}),
        ("answer_questions", {"session_id": talk.id, "tool_call_id": "call", "answers": {}}),
        ("list_sessions", {"search": MARK}),
    ):
        answer = json.dumps(await use_tool(people.bob, name, **arguments))
        assert MARK not in answer, name
        assert talk.id not in answer, name
    for command, params in (
        ("get_session", {"session_id": talk.id}),
        ("list_messages", {"session_id": talk.id}),
        ("list_sessions", {"search": MARK}),
    ):
        done = await people.bob.post(f"/v1/commands/{command}", json={"params": params})
        assert MARK not in done.text, command
        assert talk.id not in done.text, command


async def test_the_files_of_a_closed_session_are_not_shared_with_a_new_one(people: People) -> None:
    talk = await remembering(people.ada)
    space = (await talk.read())["workspace_id"]
    answer = await people.bob.post("/v1/sessions", json={"workspace_id": space})
    assert (answer.status_code, answer.json()["code"]) == (404, "workspace_not_found")
    assert (await people.ada.post("/v1/sessions", json={"workspace_id": space})).status_code == 201


@pytest.mark.parametrize("own", [False, True], ids=["a workspace", "the workspace of an open session"])
async def test_a_long_output_is_not_saved_where_others_read_it(people: People, own: bool) -> None:
    made = await (new_talk(people.ada) if own else post(people.ada, "/v1/workspaces", {"name": "Shared"}))
    space = (await made.read())["workspace_id"] if isinstance(made, Talk) else made["id"]
    also = [{"ref": "bashkit_shell"}]
    talk = await new_talk(people.ada, workspace_id=space, capabilities=mounts(MINE, also=also))
    await use(talk, "write_file", path="/memories/me/a.md", content=f"{MARK} " * 10_000)
    (result,) = await results(talk, call("bash", command="cat /workspace/memories/me/a.md"))
    assert MARK in json.dumps(result)
    found = await people.bob.get(f"/v1/workspaces/{space}/fs", params={"recursive": True})
    assert [each["path"] for each in found.json()["data"]] == []


async def test_a_file_of_a_users_memory_in_a_message_closes_the_session(people: People) -> None:
    """The agent gets the memory after its session was begun, and reads nothing of it by itself."""
    await remembering(people.ada)
    agent = await new_agent(people.ada)
    talk, other = [await new_talk(people.ada, agent_id=agent["id"]) for _ in range(2)]
    changed = await people.ada.patch(f"/v1/agents/{agent['id']}", json={"capabilities": mounts(MINE)})
    assert changed.status_code == 200, changed.text
    part = {"type": "file", "path": "/memories/me/a.md"}
    body = {"message": {"content": [part, {"type": "text", "text": script({"text": "Seen."})}]}}
    assert (await people.bob.get(talk.path())).status_code == 200
    for http in people.others:
        refused = await http.post(other.path("/messages"), json=body)
        assert (refused.status_code, MARK in refused.text) == (404, False)
        assert (await http.get(other.path())).status_code == 200
    # They have tried to write in it: it is not closed to them, and does not get the memory.
    withheld = await people.ada.post(other.path("/messages"), json=body)
    assert (withheld.status_code, withheld.json()["code"]) == (403, "memory_withheld")
    sent = await post(people.ada, talk.path("/messages"), body)
    assert sent["content"][0]["stored"]["digest"] == sha(f"{MARK}\n")
    for http in people.others:
        assert (await http.get(talk.path("/events"))).status_code == 404


async def test_images_and_questions_of_a_closed_session_are_its_users(people: People) -> None:
    also = [{"ref": "ask_user"}]
    talk = await new_talk(people.ada, capabilities=mounts(MINE, also=also))
    image = await image_of(people.ada, talk.id)
    question = {"id": "q", "question": MARK, "type": "text"}
    await talk.say(script({"tool_calls": [call("ask_user", questions=[question])]}, {"text": "ok"}))
    parked = (await talk.logged_until("tool.parked"))[-1]["data"]
    (item,) = (await people.ada.get("/v1/inbox", params={"session_id": talk.id})).json()["data"]
    files = {"file": ("a.png", png(3, 3), "image/png")}
    results_of = {
        "tool_results": [{"tool_call_id": parked["tool_call_id"], "result": {"answers": {"q": "a"}}}]
    }
    for http in people.others:
        assert MARK not in (await http.get("/v1/images", params={"limit": 100})).text
        for answer in (
            await http.get(f"/v1/images/{image['id']}"),
            await http.get(f"/v1/images/{image['id']}/thumbnail"),
            await http.delete(f"/v1/images/{image['id']}"),
            await http.post("/v1/images", files=files, params={"session_id": talk.id}),
            await http.get(f"/v1/inbox/{item['id']}"),
            await http.post(f"/v1/inbox/{item['id']}/decision", json={"answers": {"q": "a"}}),
            await http.post(f"/v1/inbox/{item['id']}/links", json={}),
            await http.post(talk.path("/tool-results"), json=results_of),
            await http.put(talk.path("/fs/a.bin"), content=b"x"),
        ):
            assert (answer.status_code, MARK in answer.text) == (404, False), answer.request.url
        assert MARK not in (await http.get("/v1/inbox")).text
    tool = {"session_id": talk.id, "tool_call_id": parked["tool_call_id"], "answers": {"q": "a"}}
    assert MARK not in json.dumps(await use_tool(people.bob, "answer_questions", **tool))
    assert (await people.ada.get(f"/v1/images/{image['id']}")).status_code == 200
    assert (await talk.read())["status"] == "waiting_for_tool_results"


async def test_files_of_messages_are_not_put_where_others_read_them(people: People) -> None:
    shared = await post(people.ada, "/v1/workspaces", {"name": "Shared"})
    open_one = await (await new_talk(people.ada)).read()
    for space in (shared["id"], open_one["workspace_id"]):
        await is_not_put_into(people, space)


async def is_not_put_into(people: People, space: str) -> None:
    talk = await new_talk(people.ada, workspace_id=space, capabilities=mounts(MINE))
    part = {"type": "file", "base64": base64.b64encode(MARK.encode()).decode(), "filename": "a.txt"}
    body = {"message": {"content": [part, {"type": "text", "text": script({"text": "Seen."})}]}}
    sent = await post(people.ada, talk.path("/messages"), body)
    await talk.logged_until("session.idled")
    stored = sent["content"][0]["stored"]
    assert (stored["digest"], stored.get("path")) == (sha(MARK), None)
    found = await people.bob.get(f"/v1/workspaces/{space}/fs", params={"recursive": True})
    assert found.json()["data"] == []


async def test_other_organizations_have_other_memories(people: People) -> None:
    store = Store(people.owner, await post(people.owner, "/v1/memories", {"name": "shared"}))
    await store.write("/a.md", MARK)
    (version,) = await store.versions()
    headers = await elsewhere(people.owner)
    other = Store(
        people.owner,
        (await people.owner.post("/v1/memories", json={"name": "shared"}, headers=headers)).json(),
    )
    assert other.memory["id"] != store.memory["id"]
    foreign = f"{other.base}/versions/{version['id']}"
    for path in (store.base, f"{store.base}/fs/a.md", f"{store.base}/versions", foreign, f"{foreign}/diff"):
        answer = await people.owner.get(path, headers=headers)
        assert (answer.status_code, MARK in answer.text) == (404, False), path
    mount = {"name": "shared", "memory_id": store.memory["id"], "mode": "read_write"}
    made = await people.owner.post("/v1/sessions", json={"capabilities": mounts(mount)}, headers=headers)
    read = await people.owner.get(
        f"/v1/sessions/{made.json()['id']}/fs/memories/shared/a.md", headers=headers
    )
    assert (read.status_code, MARK in read.text) == (404, False)


async def test_only_keepers_destroy_what_a_memory_holds(people: People) -> None:
    store = Store(people.ada, await post(people.ada, "/v1/memories", {"name": fresh("shared")}))
    await store.write("/a.md", MARK)
    await store.put("/a.md", "clean")
    first = (await store.versions())[-1]
    redact = f"{store.base}/versions/{first['id']}/redact"
    refused = await people.bob.post(redact)
    assert (refused.status_code, refused.json()["code"]) == (403, "role_required")
    await store.send("DELETE", "", 204)
    assert (await people.bob.delete(store.base, params={"purge": True})).status_code == 403
    assert (await people.owner.post(redact)).status_code == 200
    assert (await people.owner.delete(store.base, params={"purge": True})).status_code == 204


PATHS = [
    "/memories/../etc/passwd",
    "/memories/notes/../../x",
    "/memories/notes/..",
    "/memories",
    "/memories/",
    "/memories/notes",
    "/memories/NOTES/x",
    "/memories/notes2/x",
    "/memories/no\u200btes/x",
    "/memories/notes/a\u202eb",
    "/memories/notes/_/download/x",
]


@pytest.mark.parametrize("path", PATHS)
async def test_odd_paths_stay_where_they_belong(api: httpx.AsyncClient, path: str) -> None:
    store = Store(api, await post(api, "/v1/memories", {"name": fresh("n")}))
    mount = {"name": "notes", "memory_id": store.memory["id"], "mode": "read_write"}
    talk = await new_talk(api, capabilities=mounts(mount))
    events = await talk.turn(
        {"tool_calls": [call("write_file", path=path, content=MARK)]},
        {"tool_calls": [call("delete_file", path=path, recursive=True)]},
        {"text": "ok"},
    )
    assert events[-2]["type"] == "turn.completed"
    for version in await store.versions():
        assert version["path"] == "/_/download/x"
    memory = await store.send("GET", "", 200)
    assert memory["status"] == "active"
    answers = await asyncio.gather(
        api.post(f"{talk.path()}/fs/_/stat", json={"path": path}),
        api.post(f"{talk.path()}/fs/_/copy", json={"src_path": path, "dst_path": "/copy"}),
        api.post(f"{talk.path()}/fs/_/move", json={"src_path": "/missing", "dst_path": path}),
    )
    assert all(each.status_code < 500 for each in answers)


async def test_a_configuration_that_is_no_mount_is_refused(api: httpx.AsyncClient) -> None:
    bad: list[Json] = [
        {"name": "../x"},
        {"name": "A"},
        {"name": ""},
        {"name": "a", "mode": "write"},
        {"name": "a", "scope": "organization"},
        {"name": "a", "memory_id": "memory_1"},
        {"name": "a", "more": 1},
        {"name": "{{user}}", "scope": "agent"},
        {"name": "{{user}}", "memory_id": f"memory_{'0' * 32}"},
        {"name": "{{user}}s"},
        {"name": "a", "scope": "user", "memory_id": f"memory_{'0' * 32}"},
        {"name": "a", "scope": "{{agent}}"},
    ]
    for each in bad:
        answer = await api.post("/v1/sessions", json={"capabilities": mounts(each)})
        found = answer.json()
        assert (answer.status_code, found["code"]) == (400, "invalid_capability_config"), each
        assert found["field"].startswith("capabilities[0].config.stores[0]"), found
    many = mounts(*({"name": f"n{number}"} for number in range(11)))
    assert (await api.post("/v1/sessions", json={"capabilities": many})).status_code == 400
