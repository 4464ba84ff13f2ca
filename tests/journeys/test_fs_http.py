"""Files over HTTP, addressed by a session and by its workspace."""

from __future__ import annotations

import asyncio
import base64
import os

import httpx
import pytest

from tests.journeys.people import elsewhere, get
from tests.journeys.trees import Tree, code, sha
from tests.server import post
from tests.talk import Json, Talk, new_talk


@pytest.fixture(params=["session", "workspace"])
async def tree(request: pytest.FixtureRequest, api: httpx.AsyncClient) -> Tree:
    """A new session's files, addressed by the session's id and by the workspace's."""
    talk = await new_talk(api)
    workspace = (await talk.read())["workspace_id"]
    return Tree(talk, talk.path() if request.param == "session" else f"/v1/workspaces/{workspace}")


@pytest.fixture
async def one(api: httpx.AsyncClient) -> Tree:
    """The same by the session's id only, for tests that do not depend on the address."""
    talk = await new_talk(api)
    return Tree(talk, talk.path())


# --- operations -------------------------------------------------------


async def test_a_file_is_created_read_changed_and_deleted(tree: Tree) -> None:
    made = await tree.create("notes/today.md", content="Buy milk.\n")
    assert (made["path"], made["name"], made["size_bytes"]) == ("/notes/today.md", "today.md", 10)
    assert (made["is_directory"], made["is_readonly"], made["hash"]) == (False, False, sha(b"Buy milk.\n"))
    assert "content" not in made
    read = await tree.read("notes/today.md")
    assert (read["content"], read["encoding"]) == ("Buy milk.\n", "text")
    assert {**made, "content": read["content"], "encoding": "text"} == read
    assert code(await tree.create("notes/today.md", 409, content="x")) == "file_exists"
    changed = await tree.put("notes/today.md", content="Buy oat milk.\n")
    assert changed["id"] == made["id"]
    assert changed["updated_at"] > made["updated_at"]
    assert await tree.delete("notes/today.md") == {"deleted": True}
    assert await tree.delete("notes/today.md") == {"deleted": False}
    assert code(await tree.read("notes/today.md", 404)) == "file_not_found"
    missing = await tree.put("notes/today.md", 404, content="x")
    assert (code(missing), "?raw=true" in missing["detail"]) == ("file_not_found", True)


async def test_both_addresses_lead_to_the_same_files(api: httpx.AsyncClient) -> None:
    talk = await new_talk(api)
    session = Tree(talk, talk.path())
    workspace = Tree(talk, f"/v1/workspaces/{(await talk.read())['workspace_id']}")
    made = await session.create("a", content="1")
    assert await workspace.read("a") == await session.read("a")
    assert made["session_id"] == talk.id
    assert made["id"].startswith("file_")
    await workspace.create("b", content="2")
    assert await session.paths() == await workspace.paths() == ["/a", "/b"]


async def test_folders_are_made_listed_and_deleted(tree: Tree) -> None:
    folder = await tree.create("empty", is_directory=True)
    assert (folder["is_directory"], folder["size_bytes"], "hash" in folder) == (True, 0, False)
    await tree.create("a/b/c.txt", content="c")
    await tree.create("a/d.txt", content="d")
    assert await tree.paths() == ["/a", "/empty"]
    assert await tree.paths(recursive="true") == ["/a", "/a/b", "/a/b/c.txt", "/a/d.txt", "/empty"]
    assert await tree.paths("a") == ["/a/b", "/a/d.txt"]
    assert await tree.paths("a", recursive="true") == ["/a/b", "/a/b/c.txt", "/a/d.txt"]
    assert await tree.paths("empty") == []
    assert code(await tree.create("a", 409, is_directory=True)) == "file_exists"
    assert code(await tree.create("x", 400, is_directory=True, content="y")) == "invalid_request"
    assert code(await tree.put("a", 400, content="x")) == "is_a_folder"
    assert code(await tree.create("a/d.txt/e", 409, content="x")) == "not_a_folder"
    assert code(await tree.delete("a", 409)) == "folder_not_empty"
    assert await tree.delete("a", recursive="true") == {"deleted": True}
    assert await tree.delete("empty") == {"deleted": True}
    assert await tree.paths() == []


async def test_bytes_come_back_unchanged(tree: Tree) -> None:
    data = bytes(range(256)) * 40
    await tree.create("blob.bin", content=base64.b64encode(data).decode(), encoding="base64")
    read = await tree.read("blob.bin")
    assert (read["encoding"], base64.b64decode(read["content"])) == ("base64", data)
    await tree.create("text.bin", content=base64.b64encode("Größe".encode()).decode(), encoding="base64")
    read = await tree.read("text.bin")
    assert (read["encoding"], read["content"]) == ("text", "Größe")
    assert code(await tree.create("x", 400, content="no base64!", encoding="base64")) == "invalid_content"


async def test_files_are_moved_and_copied(tree: Tree) -> None:
    await tree.create("src/a.txt", content="a")
    moved = await tree.act("move", src_path="/src/a.txt", dst_path="/dst/deep/b.txt")
    assert (moved["path"], moved["hash"]) == ("/dst/deep/b.txt", sha(b"a"))
    copied = await tree.act("copy", 201, src_path="/dst", dst_path="/again")
    assert (copied["path"], copied["is_directory"]) == ("/again", True)
    assert (await tree.read("again/deep/b.txt"))["content"] == "a"
    assert code(await tree.act("move", 404, src_path="/nothing", dst_path="/x")) == "file_not_found"
    assert code(await tree.act("copy", 409, src_path="/dst", dst_path="/again")) == "file_exists"
    assert code(await tree.act("move", 400, src_path="/dst", dst_path="/dst/x")) == "invalid_path"
    assert code(await tree.act("copy", 400, src_path="/", dst_path="/x")) == "invalid_path"


async def test_a_path_can_be_described(tree: Tree) -> None:
    await tree.create("a/b", content="12345")
    stat = await tree.act("stat", path="/a/b")
    assert (stat["name"], stat["size_bytes"], stat["is_directory"], stat["hash"]) == (
        "b",
        5,
        False,
        sha(b"12345"),
    )
    assert (await tree.act("stat", path="a"))["is_directory"]
    assert (await tree.act("stat", path="/"))["name"] == "/"
    assert code(await tree.act("stat", 404, path="/c")) == "file_not_found"


async def test_files_are_searched(tree: Tree) -> None:
    await tree.create("a.md", content="one\nTODO: two\nthree\n")
    await tree.create("deep/b.txt", content="todo\nTODO\n")
    await tree.create("bin", content=base64.b64encode(b"TODO\0").decode(), encoding="base64")
    found = await tree.act("grep", pattern="TODO")
    assert not found["truncated"]
    assert [
        (each["path"], [match["line_number"] for match in each["matches"]]) for each in found["data"]
    ] == [
        ("/a.md", [2]),
        ("/deep/b.txt", [2]),
    ]
    assert found["data"][0]["matches"][0] == {"path": "/a.md", "line_number": 2, "line": "TODO: two"}
    found = await tree.act("grep", pattern="(?i)todo", path_pattern="**/*.txt")
    assert [(each["path"], len(each["matches"])) for each in found["data"]] == [("/deep/b.txt", 2)]
    assert code(await tree.act("grep", 400, pattern="(")) == "invalid_pattern"
    assert code(await tree.act("grep", 400, pattern="x", path_pattern="{a")) == "invalid_pattern"
    await tree.create("many", content="x\n" * 1500)
    found = await tree.act("grep", pattern="^x$")
    assert (found["truncated"], len(found["data"][0]["matches"])) == (True, 1000)


async def test_changes_of_files_are_logged(tree: Tree) -> None:
    await tree.create("a", content="12")
    await tree.put("a", content="123")
    await tree.put("a", is_readonly=True)
    await tree.put("a", is_readonly=False)
    await tree.act("move", src_path="a", dst_path="b")
    await tree.act("copy", 201, src_path="b", dst_path="c")
    await tree.delete("b")
    await tree.delete("b")
    assert await tree.told() == [
        ("write", "/a", True, 2),
        ("write", "/a", False, 3),
        ("move", "/b", True, 3),
        ("write", "/c", True, 3),
        ("delete", "/b", False, 0),
    ]


async def test_a_turn_continues_while_files_are_written(one: Tree) -> None:
    message = await one.talk.say(
        "Please. [[sim [" + ", ".join(['{"text": "word ", "delay_ms": 20}'] * 5) + "]]]"
    )
    await asyncio.gather(*(one.create(f"f{number}", content=str(number)) for number in range(20)))
    events = await one.talk.logged_until("session.idled", after=message["sequence"] - 1)
    assert events[-2]["type"] == "turn.completed"
    every = [event["sequence"] for event in await one.talk.events()]
    assert every == list(range(1, len(every) + 1))
    assert len(await one.paths()) == 20


# --- protection from overwriting -------------------------------------------


async def test_a_file_that_has_changed_since_it_was_read_is_not_overwritten(tree: Tree) -> None:
    await tree.create("a", content="1")
    read = await tree.http.get(tree.url("a"))
    tag, known = read.headers["etag"], read.json()["hash"]
    assert tag == f'"{known}"'
    await tree.put("a", content="2", expected_hash=known)
    for refusal in (
        tree.put("a", 412, content="3", expected_hash=known),
        tree.put("a", 412, content="3", headers={"If-Match": tag}),
        tree.put("a", 412, is_readonly=True, headers={"If-Match": tag}),
        tree.delete("a", 412, headers={"If-Match": tag}),
        tree.put("a", 412, content="3", expected_hash=sha(b"2"), headers={"If-Match": tag}),
    ):
        assert code(await refusal) == "precondition_failed"
    changed = await tree.put("a", content="3", expected_hash=sha(b"2"), headers={"If-Match": "*"})
    assert changed["hash"] == sha(b"3")
    await tree.delete("a", headers={"If-Match": f'"{sha(b"3")}"'})
    assert code(await tree.delete("a", 412, headers={"If-Match": "*"})) == "precondition_failed"
    assert code(await tree.put("a", 400, content="x", expected_hash="nonsense")) == "invalid_request"


async def test_one_of_many_concurrent_conditional_changes_succeeds(one: Tree) -> None:
    await one.create("a", content="0")
    tries = [
        one.http.put(one.url("a"), json={"content": str(number), "expected_hash": sha(b"0")})
        for number in range(1, 11)
    ]
    statuses = [answer.status_code for answer in await asyncio.gather(*tries)]
    assert sorted(statuses) == [200] + [412] * 9


async def test_a_known_file_is_not_sent_again(tree: Tree) -> None:
    made = await tree.create("a", content="1")
    for url in (tree.url("a"), f"{tree.base}/fs/_/download/a"):
        assert (await tree.http.get(url, headers={"If-None-Match": f'"{made["hash"]}"'})).status_code == 304
        assert (await tree.http.get(url, headers={"If-None-Match": '"other"'})).status_code == 200


async def test_a_read_only_file_is_not_changed_moved_or_deleted(tree: Tree) -> None:
    await tree.create("dir/fixed", content="fixed", is_readonly=True)
    for refusal in (
        tree.put("dir/fixed", 403, content="x"),
        tree.delete("dir/fixed", 403),
        tree.delete("dir", 403, recursive="true"),
        tree.act("move", 403, src_path="/dir", dst_path="/x"),
    ):
        assert code(await refusal) == "file_read_only"
    await tree.put("dir/fixed", content="open", is_readonly=False)
    await tree.put("dir/fixed", content="and closed", is_readonly=True)
    assert code(await tree.put("dir/fixed", 403, content="x")) == "file_read_only"
    assert (await tree.read("dir/fixed"))["content"] == "and closed"


async def test_the_same_creation_twice_is_one(one: Tree) -> None:
    headers = {"Idempotency-Key": "a-key"}
    answers = [await one.http.post(one.url("a"), json={"content": "1"}, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    assert await one.told() == [("write", "/a", True, 1)]


# --- download and preview -----------------------------------------------------


async def test_a_download_is_unchanged_and_cannot_run_scripts(tree: Tree) -> None:
    data = os.urandom(300_000)
    await tree.create("dir/a b.html", content=base64.b64encode(data).decode(), encoding="base64")
    answer = await tree.http.get(f"{tree.base}/fs/_/download/dir/a%20b.html")
    assert (answer.status_code, answer.content) == (200, data)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert (
        answer.headers["content-disposition"]
        == "attachment; filename=\"a b.html\"; filename*=UTF-8''a%20b.html"
    )
    assert (await tree.http.get(f"{tree.base}/fs/_/download/dir")).status_code == 400
    assert (await tree.http.get(f"{tree.base}/fs/_/download/nothing")).status_code == 404


@pytest.mark.parametrize(
    "name", ['a"; filename="evil.exe', "a;b", "ä.txt", "a%22b", "a'b", "\u540d\u524d.md"]
)
async def test_a_file_name_cannot_break_a_header(one: Tree, name: str) -> None:
    await one.create("tmp", content="x")
    await one.act("move", src_path="/tmp", dst_path=f"/{name}")
    (path,) = await one.paths()
    quoted = "".join(f"%{byte:02X}" for byte in path[1:].encode())
    answer = await one.http.get(f"{one.base}/fs/_/download/{quoted}")
    assert answer.status_code == 200, answer.text
    shown = answer.headers["content-disposition"]
    assert shown.isascii()
    assert shown.count('"') == 2
    assert shown.count(";") == 2
    assert shown.startswith('attachment; filename="')


async def test_an_empty_file_and_one_of_a_megabyte_are_downloaded_whole(one: Tree) -> None:
    await one.create("empty")
    await one.create("long", content="x" * 1_000_000)
    assert (await one.http.get(f"{one.base}/fs/_/download/empty")).content == b""
    assert (await one.http.get(f"{one.base}/fs/_/download/long")).content == b"x" * 1_000_000


async def test_text_is_shown_on_a_page_that_runs_nothing(tree: Tree) -> None:
    await tree.create("a.html", content="<script>alert('x')</script> & {name}\n")
    answer = await tree.http.get(f"{tree.base}/fs/_/preview/a.html")
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "<script" not in answer.text
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; {name}" in answer.text
    await tree.create("a.bin", content=base64.b64encode(b"\0").decode(), encoding="base64")
    refused = await tree.http.get(f"{tree.base}/fs/_/preview/a.bin")
    assert (refused.status_code, code(refused.json())) == (415, "no_preview")
    await tree.create("long", content="é" * 600_000)
    assert "200000 more bytes are not shown" in (await tree.http.get(f"{tree.base}/fs/_/preview/long")).text


# --- sizes ------------------------------------------------------------------


async def test_ten_megabytes_can_be_written_and_read(one: Tree) -> None:
    data = os.urandom(10 * 1024 * 1024)
    made = await one.create("big", content=base64.b64encode(data).decode(), encoding="base64")
    assert (made["size_bytes"], made["hash"]) == (len(data), sha(data))
    assert (await one.http.get(f"{one.base}/fs/_/download/big")).content == data
    assert base64.b64decode((await one.read("big"))["content"]) == data
    assert (await one.act("copy", 201, src_path="/big", dst_path="/copy"))["hash"] == sha(data)
    more = base64.b64encode(data + b"x").decode()
    assert code(await one.create("more", 413, content=more, encoding="base64")) == "file_too_large"
    assert code(await one.put("big", 413, content="x" * (len(data) + 1))) == "file_too_large"
    assert code(await one.create("more", 413, content="x" * 22_000_000)) == "too_large"
    assert await one.paths() == ["/big", "/copy"]


@pytest.fixture
def environment() -> dict[str, str]:
    """Small limits."""
    return {"PERDURE_MAX_FILE_BYTES": "1000", "PERDURE_MAX_SESSION_FILE_BYTES": "2500"}


async def test_the_limits_are_settings(http: httpx.AsyncClient) -> None:
    talk = await new_talk(http)
    tree = Tree(talk, talk.path())
    assert code(await tree.create("a", 413, content="x" * 1001)) == "file_too_large"
    assert code(await tree.create("a", 413, content="é" * 501)) == "file_too_large"
    for name in "ab":
        await tree.create(name, content=name * 1000)
    assert code(await tree.create("c", 413, content="c" * 501)) == "workspace_full"
    assert code(await tree.act("copy", 413, src_path="/a", dst_path="/c")) == "workspace_full"
    await tree.put("a", content="")
    await tree.create("c", content="c" * 501)
    files = [{"path": f"/{number}", "content": "x" * 900} for number in range(3)]
    refused = await http.post("/v1/sessions", json={"initial_files": files})
    assert (refused.status_code, code(refused.json())) == (413, "workspace_full")


# --- ownership ------------------------------------------------------------------


async def test_another_organizations_files_are_not_found(tree: Tree) -> None:
    await tree.create("a", content="1")
    foreign = await elsewhere(tree.http)
    body: dict[str, Json] = {
        "copy": {"src_path": "/a", "dst_path": "/b"},
        "move": {"src_path": "/a", "dst_path": "/b"},
        "grep": {"pattern": "1"},
        "stat": {"path": "/a"},
    }
    requests = [
        ("GET", f"{tree.base}/fs", None),
        ("GET", tree.url("a"), None),
        ("DELETE", tree.url("a"), None),
    ]
    requests += [("POST", f"{tree.base}/fs/_/{name}", json) for name, json in body.items()]
    requests += [("POST", tree.url("b"), {"content": "x"}), ("PUT", tree.url("a"), {"content": "x"})]
    requests += [("GET", f"{tree.base}/fs/_/{name}/a", None) for name in ("download", "preview")]
    for method, url, json in requests:
        answer = await tree.http.request(method, url, json=json, headers=foreign)
        wanted = "session_not_found" if "/sessions/" in url else "workspace_not_found"
        assert (answer.status_code, code(answer.json())) == (404, wanted), (method, url)
    assert await tree.paths() == ["/a"]
    assert (await tree.read("a"))["content"] == "1"


async def test_files_are_deleted_with_their_session(one: Tree) -> None:
    workspace = (await one.talk.read())["workspace_id"]
    await one.create("a", content="1")
    assert (await one.http.delete(one.base)).status_code == 204
    assert (await one.http.get(f"{one.base}/fs")).status_code == 404
    assert (await one.http.get(f"/v1/workspaces/{workspace}/fs")).status_code == 404
    assert (await one.http.get(f"/v1/workspaces/{workspace}")).status_code == 404


async def test_a_fork_has_the_same_files_and_its_own(one: Tree) -> None:
    await one.create("a/b", content="1", is_readonly=True)
    await one.create("c", content="2")
    fork = await post(one.http, one.talk.path("/fork"), {})
    assert fork["workspace_id"] != (await one.talk.read())["workspace_id"]
    copy = Tree(Talk(one.http, fork["id"]), f"/v1/sessions/{fork['id']}")
    assert await copy.paths(recursive="true") == ["/a", "/a/b", "/c"]
    assert (await copy.read("a/b"))["is_readonly"]
    await copy.put("c", content="changed")
    await one.create("d", content="3")
    assert (await one.read("c"))["content"] == "2"
    assert await copy.paths() == ["/a", "/c"]
    space = await get(one.http, f"/v1/workspaces/{fork['workspace_id']}")
    assert (space["file_count"], space["size_bytes"]) == (3, 8)
