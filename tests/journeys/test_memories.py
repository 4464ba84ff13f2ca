"""Memories: text files that sessions share, their versions, and what sessions see of them."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from tests.journeys.families import spawns
from tests.journeys.people import fresh, get, new_agent, patch
from tests.journeys.stores import Store, fails, mounts, new_store, results, sha, talk_with, use
from tests.journeys.trees import Tree
from tests.server import post
from tests.talk import Json, call, new_talk, script


@pytest.fixture
async def store(api: httpx.AsyncClient) -> Store:
    return await new_store(api)


# --- the routes -------------------------------------------------------------


async def test_a_memory_is_created_found_changed_archived_and_purged(api: httpx.AsyncClient) -> None:
    store = await new_store(api, description="What was decided")
    memory, name = store.memory, store.memory["name"]
    assert (memory["source_type"], memory["source"], memory["scope"]) == (
        "manual",
        {"provider": "manual"},
        "named",
    )
    taken = await api.post("/v1/memories", json={"name": name})
    assert (taken.status_code, taken.json()["code"]) == (409, "name_taken")
    found = await get(api, "/v1/memories", search=name[3:])
    assert [each["id"] for each in found["data"]] == [memory["id"]]
    changed = await patch(api, store.base, {"description": "Why"})
    assert (changed["description"], changed["name"]) == ("Why", name)
    await store.write("/a.md", "kept")
    await store.send("DELETE", "", 409, params={"purge": True})
    await store.send("DELETE", "", 204)
    assert (await get(api, "/v1/memories", search=name))["data"] == []
    archived = (await get(api, "/v1/memories", search=name, include_archived=True))["data"]
    assert [(each["status"], each["is_readonly"]) for each in archived] == [("archived", True)]
    refused = await store.send("POST", "/fs/b.md", 409, json={"content": "b"})
    assert refused["code"] == "memory_archived"
    assert await store.text("/a.md") == "kept"
    restored = await patch(api, store.base, {"status": "active"})
    assert restored["status"] == "active"
    await store.send("DELETE", "", 204)
    await store.send("DELETE", "", 204, params={"purge": True})
    gone = await store.send("GET", "", 404)
    assert gone["code"] == "memory_not_found"


@pytest.mark.parametrize("source", [{"type": "github", "repository": "a/b"}, {"type": "git", "url": "x"}])
async def test_sources_elsewhere_are_refused(api: httpx.AsyncClient, source: Json, store: Store) -> None:
    for answer in (
        await api.post("/v1/memories", json={"name": fresh("n"), "source": source}),
        await api.patch(store.base, json={"source": source}),
        await api.post(f"{store.base}/sync"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (400, "unsupported_memory_source")


async def test_files_are_written_read_searched_and_deleted(store: Store) -> None:
    made = await store.write("/plans/a.md", "one\ntwo\n")
    assert (made["path"], made["content_hash"], made["size_bytes"]) == ("/plans/a.md", sha("one\ntwo\n"), 8)
    await store.send("POST", "/fs/plans/a.md", 409, json={"content": ""})
    await store.send("POST", "/fs/empty", 201, json={"is_directory": True})
    await store.write("/b.txt", "three")
    root = (await store.send("GET", "/fs", 200))["data"]
    assert [each["path"] for each in root] == ["/b.txt", "/empty", "/plans"]
    every = (await store.send("GET", "/fs", 200, params={"recursive": True}))["data"]
    assert [each["path"] for each in every] == ["/b.txt", "/empty", "/plans", "/plans/a.md"]
    found = await store.send("POST", "/fs/_/grep", 200, json={"pattern": "t[wh]", "path_pattern": "**/*.md"})
    assert found["data"] == [{"path": "/plans/a.md", "size_bytes": 8}]
    stat = await store.send("POST", "/fs/_/stat", 200, json={"path": "/plans"})
    assert stat["is_directory"]
    loaded = await store.http.get(f"{store.base}/fs/_/download/plans/a.md")
    assert (loaded.content, loaded.headers["content-disposition"][:10]) == (b"one\ntwo\n", "attachment")
    await store.send("DELETE", "/fs/plans", 409)
    await store.send("DELETE", "/fs/plans", 204, params={"recursive": True})
    await store.send("DELETE", "/fs/plans", 404)
    memory = await store.send("GET", "", 200)
    assert (memory["size_bytes"], memory["file_count"]) == (5, 2)


async def test_only_text_of_up_to_100_kb_is_kept(store: Store) -> None:
    await store.write("/most", "x" * 102_400)
    large = await store.send("POST", "/fs/more", 413, json={"content": "x" * 102_401})
    assert large["code"] == "memory_file_too_large"
    binary = await store.send("POST", "/fs/b", 400, json={"content": "AAAA", "encoding": "base64"})
    assert binary["code"] == "memory_text_only"
    assert [each["path"] for each in (await store.send("GET", "/fs", 200))["data"]] == ["/most"]


async def test_a_memory_holds_10_mb(store: Store) -> None:
    await asyncio.gather(*(store.write(f"/{index}", f"{index:03}" + "x" * 102_397) for index in range(102)))
    full = await store.send("POST", "/fs/more", 413, json={"content": "x" * 100_000})
    assert full["code"] == "memory_full"
    memory = await store.send("GET", "", 200)
    assert (memory["file_count"], memory["size_bytes"]) == (102, 102 * 102_400)
    assert len(await store.versions(limit=1000)) == 102


async def test_every_write_leaves_a_version_that_can_be_read_and_compared(store: Store) -> None:
    await store.write("/a.md", "one\ntwo\n")
    await store.put("/a.md", "one\nthree\n")
    await store.put("/a.md", "one\nthree\n")  # changes nothing
    await store.send("DELETE", "/fs/a.md", 204)
    await store.write("/a.md", "again\n")
    await store.write("/b.md", "b")
    versions = await store.versions(path="/a.md")
    assert [(each["version"], each["operation"], each.get("content_hash")) for each in versions] == [
        (4, "create", sha("again\n")),
        (3, "delete", None),
        (2, "update", sha("one\nthree\n")),
        (1, "create", sha("one\ntwo\n")),
    ]
    assert all(each["user_id"].startswith("user_") for each in versions)
    page = await store.versions(before_sequence=versions[2]["sequence"] + 1, limit=1)
    assert page == [versions[2]]
    first = await store.send("GET", f"/versions/{versions[3]['id']}", 200)
    assert first["content"] == "one\ntwo\n"
    diff = await store.send("GET", f"/versions/{versions[2]['id']}/diff", 200)
    assert (diff["from_version"], diff["to_version"]) == (1, 2)
    assert [(each["sign"], each["line"]) for each in diff["lines"]] == [
        (" ", "one\n"),
        ("-", "two\n"),
        ("+", "three\n"),
    ]
    far = await store.send(
        "GET", f"/versions/{versions[0]['id']}/diff", 200, params={"against": versions[3]["id"]}
    )
    assert (far["from_version"], far["to_version"]) == (1, 4)
    gone = await store.send("GET", f"/versions/{versions[1]['id']}", 200)
    assert "content" not in gone


async def test_a_redacted_version_keeps_its_hash_and_nothing_else(store: Store) -> None:
    secret = "the password is swordfish\n"
    await store.write("/a.md", secret)
    await store.write("/copy.md", secret)
    await store.put("/a.md", "clean\n")
    newest, copied, first = await store.versions()
    current = await store.send("POST", f"/versions/{first['id']}/redact", 409)
    assert current["code"] == "memory_version_current"
    await store.send("DELETE", "/fs/copy.md", 204)
    redacted = await store.send("POST", f"/versions/{first['id']}/redact", 200)
    assert (redacted["content_hash"], redacted["redacted_by"]) == (sha(secret), first["user_id"])
    assert await store.send("POST", f"/versions/{first['id']}/redact", 200) == redacted
    for version in (first, copied):
        read = await store.send("GET", f"/versions/{version['id']}", 200)
        assert ("content" in read, "redacted_at" in read) == (False, True)
    diff = await store.send("GET", f"/versions/{newest['id']}/diff", 409)
    assert diff["code"] == "memory_version_redacted"
    memory = await store.send("GET", "", 200)
    assert memory["history_bytes"] == len("clean\n")


async def test_a_writer_that_read_something_else_changes_nothing(store: Store) -> None:
    await store.write("/a.md", "one")
    lost = await store.put("/a.md", "mine", 412, expected_hash=sha("zero"))
    assert lost["code"] == "precondition_failed"
    tag = {"If-Match": f'"{sha("zero")}"'}
    await store.send("PUT", "/fs/a.md", 412, json={"content": "mine"}, headers=tag)
    await store.send("DELETE", "/fs/a.md", 412, headers=tag)
    assert await store.text("/a.md") == "one"
    await store.put("/a.md", "two", expected_hash=sha("one"))
    assert len(await store.versions()) == 2


async def test_of_writers_at_once_with_one_hash_exactly_one_succeeds(store: Store) -> None:
    await store.write("/a.md", "start")
    answers = await asyncio.gather(
        *(
            store.http.put(f"{store.base}/fs/a.md", json={"content": f"{n}", "expected_hash": sha("start")})
            for n in range(8)
        )
    )
    assert sorted(each.status_code for each in answers) == [200, *[412] * 7]
    assert len(await store.versions()) == 2


# --- in sessions ------------------------------------------------------------


async def test_a_session_works_on_a_memory_as_on_a_folder(store: Store) -> None:
    await store.write("/plans/a.md", "needle one\n")
    talk = await talk_with(store)
    listed = await use(talk, "list_directory", path="/", recursive=True)
    assert [each["path"] for each in listed["entries"]] == [
        "/memories",
        "/memories/notes",
        "/memories/notes/plans",
        "/memories/notes/plans/a.md",
    ]
    read = await use(talk, "read_file", path="/memories/notes/plans/a.md")
    assert (read["path"], read["content"]) == ("/memories/notes/plans/a.md", "needle one\n")
    found = await use(talk, "grep_files", pattern="needle")
    assert [each["path"] for each in found["matches"]] == ["/memories/notes/plans/a.md"]
    globbed = await use(talk, "glob", pattern="*.md", path="/memories")
    assert globbed["paths"] == ["/memories/notes/plans/a.md"]
    wrote = await use(talk, "write_file", path="/workspace/memories/notes/b.md", content="b\n")
    assert (wrote["path"], wrote["created"]) == ("/memories/notes/b.md", True)
    await use(talk, "edit_file", path="/memories/notes/b.md", old_text="b", new_text="c")
    stat = await use(talk, "stat_file", path="/memories/notes/b.md")
    assert stat["hash"] == sha("c\n")
    await use(talk, "delete_file", path="/memories/notes/plans", recursive=True)
    assert await store.text("/b.md") == "c\n"
    versions = await store.versions()
    assert [(each["path"], each["operation"]) for each in versions] == [
        ("/plans/a.md", "delete"),
        ("/b.md", "update"),
        ("/b.md", "create"),
        ("/plans/a.md", "create"),
    ]
    assert [each.get("session_id") for each in versions] == [talk.id, talk.id, talk.id, None]
    told = await Tree(talk, talk.path()).told()
    assert [(operation, path) for operation, path, *_ in told] == [
        ("write", "/memories/notes/b.md"),
        ("edit", "/memories/notes/b.md"),
        ("delete", "/memories/notes/plans"),
    ]


async def test_another_sessions_change_is_never_overwritten_blindly(store: Store) -> None:
    one, two = await talk_with(store), await talk_with(store)
    await use(one, "write_file", path="/memories/notes/a.md", content="one\n")
    read = await use(two, "read_file", path="/memories/notes/a.md")
    blind = await fails(two, "write_file", path="/memories/notes/a.md", content="two\n")
    assert "expected_hash" in blind
    await use(one, "edit_file", path="/memories/notes/a.md", old_text="one", new_text="uno")
    stale = await fails(
        two, "write_file", path="/memories/notes/a.md", content="two\n", expected_hash=read["hash"]
    )
    assert "has changed since it was read" in stale
    assert await store.text("/a.md") == "uno\n"
    again = await use(two, "read_file", path="/memories/notes/a.md")
    await use(two, "write_file", path="/memories/notes/a.md", content="two\n", expected_hash=again["hash"])
    assert await store.text("/a.md") == "two\n"


async def test_edits_of_two_sessions_at_once_are_both_kept(store: Store) -> None:
    await store.write("/a.md", "first: \nsecond: \n")
    talks = [await talk_with(store) for _ in range(2)]
    await asyncio.gather(
        *(
            use(
                talk,
                "edit_file",
                path="/memories/notes/a.md",
                old_text=f"{word}: ",
                new_text=f"{word}: done",
            )
            for talk, word in zip(talks, ("first", "second"), strict=True)
        )
    )
    assert await store.text("/a.md") == "first: done\nsecond: done\n"
    assert len(await store.versions()) == 3


async def test_a_read_only_memory_is_not_changed_by_anything(store: Store) -> None:
    await store.write("/a.md", "kept")
    talk = await talk_with(store, "read_only")
    assert "mounted read-only" in await fails(talk, "write_file", path="/memories/notes/b", content="b")
    assert "mounted read-only" in await fails(talk, "delete_file", path="/memories/notes/a.md")
    assert "mounted read-only" in await fails(
        talk, "edit_file", path="/memories/notes/a.md", old_text="k", new_text="l"
    )
    tree = Tree(talk, talk.path())
    for problem in (
        await tree.create("/memories/notes/b", 403, content="b"),
        await tree.put("/memories/notes/a.md", 403, content="b"),
        await tree.delete("/memories/notes/a.md", 403),
        await tree.act("move", 403, src_path="/memories/notes/a.md", dst_path="/a.md"),
    ):
        assert problem["code"] == "memory_read_only"
    assert (await store.text("/a.md"), len(await store.versions())) == ("kept", 1)


async def test_the_shell_sees_memories_and_its_changes_are_kept(store: Store) -> None:
    await store.write("/a.md", "one\n")
    await store.write("/old.md", "old\n")
    mount = {"name": "notes", "memory_id": store.memory["id"], "mode": "read_write"}
    other = await new_store(store.http)
    await other.write("/x.md", "x\n")
    fixed = {"name": "fixed", "memory_id": other.memory["id"]}
    talk = await new_talk(store.http, capabilities=mounts(mount, fixed, also=[{"ref": "bashkit_shell"}]))
    ran = await use(
        talk,
        "bash",
        command="cd /workspace/memories; cat notes/a.md >> notes/new.md; echo two >> notes/a.md;"
        " rm notes/old.md; echo y > fixed/x.md; echo stray > stray.md; cat fixed/x.md",
    )
    assert ran["stdout"] == "y\n"
    assert any("fixed/x.md was not changed" in note for note in ran["notes"]), ran
    assert any("no such memory at /memories/stray.md" in note for note in ran["notes"]), ran
    assert (await store.text("/a.md"), await store.text("/new.md")) == ("one\ntwo\n", "one\n")
    await store.send("GET", "/fs/old.md", 404)
    assert (await other.text("/x.md"), len(await other.versions())) == ("x\n", 1)
    assert (await store.versions())[0]["session_id"] == talk.id


async def test_files_are_copied_and_moved_into_out_of_and_within_memories(store: Store) -> None:
    talk = await talk_with(store)
    tree = Tree(talk, talk.path())
    await tree.create("/own.md", content="own")
    await tree.act("copy", 201, src_path="/own.md", dst_path="/memories/notes/in.md")
    await tree.act("move", src_path="/memories/notes/in.md", dst_path="/memories/notes/deep/moved.md")
    await tree.act("move", src_path="/memories/notes/deep/moved.md", dst_path="/out.md")
    assert (await tree.read("/out.md"))["content"] == "own"
    assert sorted(await tree.paths()) == ["/memories", "/out.md", "/own.md"]
    taken = await tree.act("copy", 409, src_path="/own.md", dst_path="/out.md")
    assert taken["code"] == "file_exists"
    folder = await tree.act("copy", 409, src_path="/memories/notes/deep", dst_path="/deep")
    assert folder["code"] == "memory_folder"
    await tree.create("/large", content="x" * 102_401)
    large = await tree.act("copy", 413, src_path="/large", dst_path="/memories/notes/large")
    assert large["code"] == "memory_file_too_large"
    memory = await store.send("GET", "", 200)
    assert (memory["size_bytes"], memory["file_count"]) == (0, 1)
    told = [(each["operation"], each["path"]) for each in await store.versions()]
    assert told == [
        ("delete", "/deep/moved.md"),
        ("delete", "/in.md"),
        ("create", "/deep/moved.md"),
        ("create", "/in.md"),
    ]


async def test_what_is_below_memories_belongs_to_memories(store: Store) -> None:
    talk = await talk_with(store)
    assert "no such memory" in await fails(talk, "write_file", path="/memories/nots/a", content="a")
    assert "whole memory" in await fails(talk, "delete_file", path="/memories/notes", recursive=True)
    missing = await Tree(talk, talk.path()).create("/memories/nots/a", 404, content="a")
    assert missing["code"] == "memory_not_mounted"
    await store.send("DELETE", "", 204)
    assert (await use(talk, "list_directory", path="/memories"))["entries"] == []


async def test_an_agents_memory_is_made_on_first_use_and_shared_by_its_sessions(
    api: httpx.AsyncClient,
) -> None:
    mine = mounts({"name": "journal", "scope": "agent", "mode": "read_write"})
    agent, other = [await new_agent(api, capabilities=mine) for _ in range(2)]
    first = await new_talk(api, agent_id=agent["id"])
    assert (await use(first, "list_directory", path="/memories/journal"))["entries"] == []
    await use(first, "write_file", path="/memories/journal/a.md", content="learned")
    second = await new_talk(api, agent_id=agent["id"])
    assert (await use(second, "read_file", path="/memories/journal/a.md"))["content"] == "learned"
    third = await new_talk(api, agent_id=other["id"])
    assert "no such file" in await fails(third, "read_file", path="/memories/journal/a.md")
    made = [each for each in (await get(api, "/v1/memories"))["data"] if each.get("agent_id") == agent["id"]]
    assert [(each["scope"], each["name"]) for each in made] == [("agent", "journal")]


async def test_sessions_that_make_an_agents_memory_at_once_make_one(api: httpx.AsyncClient) -> None:
    mine = mounts({"name": "journal", "scope": "agent", "mode": "read_write"})
    agent = await new_agent(api, capabilities=mine)
    talks = [await new_talk(api, agent_id=agent["id"]) for _ in range(4)]
    await asyncio.gather(
        *(use(talk, "write_file", path=f"/memories/journal/{talk.id}", content="x") for talk in talks)
    )
    made = [each for each in (await get(api, "/v1/memories"))["data"] if each.get("agent_id") == agent["id"]]
    assert [each["file_count"] for each in made] == [4]


async def test_layers_add_memories_and_none_loosens_another(store: Store) -> None:
    fixed = {"name": "notes", "memory_id": store.memory["id"]}
    agent = await new_agent(store.http, capabilities=mounts(fixed))
    more = await new_store(store.http)
    talk = await new_talk(
        store.http,
        agent_id=agent["id"],
        capabilities=mounts(
            {**fixed, "mode": "read_write"},
            {"name": "more", "memory_id": more.memory["id"], "mode": "read_write"},
        ),
    )
    assert "read-only" in await fails(talk, "write_file", path="/memories/notes/a", content="a")
    await use(talk, "write_file", path="/memories/more/a", content="a")
    assert await more.text("/a") == "a"


async def test_the_default_approval_mode_asks_before_a_memory_changes(store: Store) -> None:
    mount = {"name": "notes", "memory_id": store.memory["id"], "mode": "read_write"}
    also = [{"ref": "tool_approval", "config": {"mode": "normal"}}, {"ref": "bashkit_shell"}]
    talk = await new_talk(store.http, capabilities=mounts(mount, also=also))
    writes = call("write_file", path="/memories/notes/a", content="a")
    shell = call("bash", "shell", command="echo a > /workspace/memories/notes/a; echo b > /workspace/b")
    await talk.say(script({"tool_calls": [shell]}, {"tool_calls": [writes]}, {"text": "ok"}))
    asked = (await talk.logged_until("tool.call_requested"))[-1]
    allowed = {"decisions": [{"tool_call_id": "shell", "decision": "allow"}]}
    await post(store.http, talk.path("/tool-approvals"), allowed, 200)
    events = await talk.logged_until("tool.call_requested", after=asked["sequence"])
    ran = [event["data"] for event in events if event["type"] == "tool.completed"][-1]
    assert "/memories/notes/a was not changed" in ran["result"][0]["text"]
    (item,) = (await get(store.http, "/v1/inbox", session_id=talk.id))["data"]
    assert "memory of other sessions" in json.dumps(item)
    assert await store.versions() == []


async def test_a_sub_agent_has_its_parents_memories(store: Store) -> None:
    mount = {"name": "notes", "memory_id": store.memory["id"], "mode": "read_write"}
    talk = await new_talk(store.http, capabilities=mounts(mount, also=[{"ref": "subagents"}]))
    writes = {"tool_calls": [call("write_file", path="/memories/notes/child.md", content="child")]}
    await talk.turn(
        {"tool_calls": [spawns("child", writes, {"text": "done"}, mode="foreground")]}, {"text": "ok"}
    )
    assert await store.text("/child.md") == "child"
    (version,) = await store.versions()
    assert version["session_id"] != talk.id


async def test_text_from_outside_counts_as_such_where_a_memory_brings_it(store: Store) -> None:
    outside = {
        "type": "client_side",
        "name": "look_up",
        "description": "Look something up.",
        "parameters": {"type": "object"},
        "hints": {"open_world": True},
    }
    first = await talk_with(store, tools=[outside])
    writes = call("write_file", path="/memories/notes/a.md", content="As found.")
    await first.say(script({"tool_calls": [call("look_up", "1")]}, {"tool_calls": [writes]}, {"text": "ok"}))
    await first.logged_until("tool.call_requested")
    await first.answer({"tool_call_id": "1", "result": "found"})
    await first.logged_until("session.idled")
    second = await talk_with(store, "read_only")
    (result,) = await results(second, call("read_file", path="/memories/notes/a.md"))
    assert "the client's tool look_up" in result["external"]["source"]
