"""The file tools, each called through the model loop: results, errors and logged events."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from perdure.tools.built_in import catalogue
from tests.journeys.trees import Tree
from tests.server import Server, use_simulated_model
from tests.talk import Json, Talk, call, new_talk, script, when


class Desk:
    """A session whose model calls file tools."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.tree = Tree(talk, talk.path())

    async def all(self, *calls: Json) -> list[Json]:
        """The results of the calls of one answer, in order."""
        events = await self.talk.turn({"tool_calls": list(calls)}, {"text": "Done."})
        assert events[-2]["type"] == "turn.completed"
        return [event["data"] for event in events if event["type"] == "tool.completed"]

    async def use(self, name: str, **arguments: Any) -> Json:
        """The value of one call that must succeed."""
        (result,) = await self.all(call(name, **arguments))
        assert result["success"], result
        value: Json = json.loads(result["result"][0]["text"])
        return value

    async def fails(self, name: str, **arguments: Any) -> str:
        """The error of one call, which must fail."""
        (result,) = await self.all(call(name, **arguments))
        assert (result["success"], result["status"]) == (False, "error"), result
        return str(result["error"])

    async def files(self, **contents: str) -> None:
        await asyncio.gather(
            *(self.tree.create(name.replace("__", "/"), content=text) for name, text in contents.items())
        )


@pytest.fixture
async def desk(api: httpx.AsyncClient) -> Desk:
    return Desk(await new_talk(api))


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# --- reading ----------------------------------------------------------------


async def test_read_file_returns_lines_and_says_what_is_left(desk: Desk) -> None:
    await desk.tree.create("a", content="".join(f"line {number}\n" for number in range(1, 11)))
    whole = await desk.use("read_file", path="/a")
    assert (whole["lines"], whole["content"].count("\n"), "shown" in whole) == (10, 10, False)
    part = await desk.use("read_file", path="/a", offset=3, limit=2)
    assert (part["content"], part["shown"], part["next_offset"]) == ("line 3\nline 4\n", "lines 3 to 4", 5)
    last = await desk.use("read_file", path="/a", offset=10, limit=5)
    assert (last["content"], "next_offset" in last) == ("line 10\n", False)
    numbered = await desk.use("read_file", path="/a", offset=9, numbered=True)
    assert numbered["content"] == "     9\tline 9\n    10\tline 10\n"
    assert (await desk.use("read_file", path="/a", offset=99))["shown"] == "nothing: the file has 10 lines"


@pytest.mark.parametrize("text", ["", "x", "x\n", "x\ny", "\n\n", "a\r\nb\r\n", "a\u2028b\n", "tab\tend\n"])
async def test_read_file_returns_text_unchanged(desk: Desk, text: str) -> None:
    await desk.tree.create("a", content=text)
    read = await desk.use("read_file", path="/a")
    assert (read["content"], read["hash"]) == (text, sha(text))


async def test_read_file_limits_what_it_shows(desk: Desk) -> None:
    await desk.tree.create("wide", content="w" * 500_000)
    wide = await desk.use("read_file", path="/wide")
    assert len(wide["content"]) < 3_000
    assert "498000 characters left out" in wide["content"]
    await desk.tree.create("long", content="x" * 99 + "\n" + ("y" * 99 + "\n") * 20_000)
    offset, seen = 1, 0
    for _ in range(3):
        page = await desk.use("read_file", path="/long", offset=offset, limit=100_000)
        assert len(page["content"]) <= 50_000
        seen += page["content"].count("\n")
        offset = page["next_offset"]
        assert offset == seen + 1


async def test_read_file_returns_bytes_in_base64_piece_by_piece(desk: Desk) -> None:
    data = os.urandom(80_000)
    await desk.tree.create("bin", content=base64.b64encode(data).decode(), encoding="base64")
    got, offset = b"", 0
    while True:
        piece = await desk.use("read_file", path="/bin", byte_offset=offset)
        assert (piece["encoding"], piece["size_bytes"]) == ("base64", 80_000)
        got += base64.b64decode(piece["content"])
        if "next_byte_offset" not in piece:
            break
        offset = piece["next_byte_offset"]
    assert got == data


async def test_read_many_files_returns_what_it_can(desk: Desk) -> None:
    await desk.files(a="one", b="two\n" * 20_000, c="three")
    await desk.tree.create("bin", content="AAAA", encoding="base64")
    await desk.tree.create("folder", is_directory=True)
    shown = (await desk.use("read_many_files", paths=["/a", "/missing", "/bin", "/folder", "/a", "b", "/c"]))[
        "files"
    ]
    assert [each["path"] for each in shown] == ["/a", "/missing", "/bin", "/folder", "/b", "/c"]
    assert shown[0]["content"] == "one"
    assert all("error" in each for each in shown[1:4])
    assert shown[4]["next_offset"] == 2_001
    assert shown[5]["content"] == "three"


async def test_list_directory_and_glob_find_what_is_there(desk: Desk) -> None:
    await desk.files(a__b__c="1", a__d="22", e="333")
    await desk.tree.put("e", is_readonly=True)
    top = await desk.use("list_directory")
    assert top["entries"] == [
        {"path": "/a", "type": "directory"},
        {"path": "/e", "type": "file", "size_bytes": 3, "is_readonly": True},
    ]
    deep = await desk.use("list_directory", path="a", recursive=True)
    assert [each["path"] for each in deep["entries"]] == ["/a/b", "/a/b/c", "/a/d"]
    assert (await desk.use("glob", pattern="**/c"))["paths"] == ["/a/b/c"]
    assert (await desk.use("glob", pattern="[de]"))["paths"] == ["/a/d", "/e"]
    assert (await desk.use("glob", pattern="*", path="/a/b"))["paths"] == ["/a/b/c"]
    assert (await desk.use("glob", pattern="a/*"))["paths"] == ["/a/d"]
    assert "/nothing" in await desk.fails("list_directory", path="/nothing")
    assert "not a folder" in await desk.fails("list_directory", path="/e")
    assert "pattern" in await desk.fails("glob", pattern="{a")


async def test_a_glob_is_relative_to_its_folder_and_accepts_the_other_name_of_the_root(desk: Desk) -> None:
    await desk.files(p__src__a="x", src__b="x")
    assert (await desk.use("glob", pattern="src/*", path="/p"))["paths"] == ["/p/src/a"]
    assert (await desk.use("glob", pattern="/p/src/*", path="/p"))["paths"] == ["/p/src/a"]
    assert (await desk.use("glob", pattern="./src/*"))["paths"] == ["/src/b"]
    assert (await desk.use("glob", pattern="/workspace/p/**"))["paths"] == ["/p/src/a"]
    found = await desk.use("grep_files", pattern="x", path_pattern="/workspace/src/*")
    assert [each["path"] for each in found["matches"]] == ["/src/b"]
    found = await desk.use("grep_files", pattern="x", path_pattern="src/*", path="p")
    assert [each["path"] for each in found["matches"]] == ["/p/src/a"]
    await desk.files(workspace__src__c="x")
    assert (await desk.use("glob", pattern="/workspace/src/*"))["paths"] == ["/workspace/src/c"]


async def test_an_edit_that_fails_because_of_line_endings_says_so(desk: Desk) -> None:
    await desk.files(dos="one\r\ntwo\r\n", unix="one\ntwo\n")
    assert r"\r\n" in await desk.fails("edit_file", path="/dos", old_text="one\ntwo", new_text="three")
    assert await desk.fails("edit_file", path="/unix", old_text="one\r\ntwo", new_text="three") == (
        r"old_text does not occur in /unix: only the line endings differ, and the file uses \n"
    )
    assert (
        await desk.fails("edit_file", path="/dos", old_text="four", new_text="five")
        == "old_text does not occur in /dos"
    )


async def test_edits_of_one_file_in_one_answer_all_run_in_order(desk: Desk) -> None:
    await desk.files(code="".join(f"v{number} = 0;\n" for number in range(20)), list="0")
    edits = [
        call("edit_file", path="/code", old_text=f"v{number} = 0", new_text=f"v{number} = 1")
        for number in range(20)
    ]
    edits += [
        call("edit_file", path="/list", old_text=str(number), new_text=str(number + 1)) for number in range(5)
    ]
    done = [
        event["data"]
        for event in await desk.talk.turn({"tool_calls": edits})
        if event["type"] == "tool.completed"
    ]
    assert [each["success"] for each in done] == [True] * 25
    assert (await desk.use("read_file", path="/code"))["content"].count("= 1") == 20
    assert (await desk.use("read_file", path="/list"))["content"] == "5"


async def test_an_unknown_tool_gets_an_error_that_lists_the_known_ones(desk: Desk) -> None:
    assert (
        await desk.fails("readfile", path="/a")
        == "There is no tool 'readfile'. Did you mean: read_file, edit_file, read_many_files"
    )
    named = await desk.fails("browser", url="/a")
    assert named.startswith("There is no tool 'browser'. There are: ")
    assert {"read_file", "bash", "kv_store"} <= set(named.partition("There are: ")[2].split(", "))


async def test_grep_files_finds_lines(desk: Desk) -> None:
    await desk.files(
        **{"a.py": "import os\nimport sys\n", "lib__b.py": "def os_name(): ...\n", "c.md": "os\n"}
    )
    found = await desk.use("grep_files", pattern=r"\bos\b")
    assert [(each["path"], each["line_number"]) for each in found["matches"]] == [("/a.py", 1), ("/c.md", 1)]
    assert (found["files_searched"], "truncated" in found) == (3, False)
    found = await desk.use("grep_files", pattern="OS", path_pattern="*.py", ignore_case=True)
    assert [each["line"] for each in found["matches"]] == ["import os", "def os_name(): ..."]
    assert [
        each["path"] for each in (await desk.use("grep_files", pattern="os", path="/lib"))["matches"]
    ] == ["/lib/b.py"]
    assert [
        each["path"] for each in (await desk.use("grep_files", pattern="os", path="/c.md"))["matches"]
    ] == ["/c.md"]
    assert "regular expression" in await desk.fails("grep_files", pattern="(")
    assert "/nothing" in await desk.fails("grep_files", pattern="x", path="/nothing")


async def test_grep_files_does_not_hang_and_limits_its_answer(desk: Desk) -> None:
    await desk.files(
        bait=("a" * 5_000 + "!\n") * 5, many="needle\n" * 5_000, long=("needle" + "x" * 20_000 + "\n") * 300
    )
    assert (await desk.use("grep_files", pattern="(a+)+$"))["matches"] == []
    found = await desk.use("grep_files", pattern="needle", path="/many")
    assert (len(found["matches"]), "truncated" in found) == (300, True)
    found = await desk.use("grep_files", pattern="needle", path="/long")
    assert "truncated" in found
    assert sum(len(each["line"]) for each in found["matches"]) < 60_000


async def test_stat_file_tells_what_is_at_a_path(desk: Desk) -> None:
    await desk.files(a__b="12345")
    stat = await desk.use("stat_file", path="/a/b")
    assert (stat["type"], stat["size_bytes"], stat["hash"], stat["is_text"]) == (
        "file",
        5,
        sha("12345"),
        True,
    )
    assert (await desk.use("stat_file", path="/a"))["type"] == "directory"
    assert "/c" in await desk.fails("stat_file", path="/c")


# --- changing ---------------------------------------------------------------


async def test_write_file_writes_text_and_bytes(desk: Desk) -> None:
    made = await desk.use("write_file", path="a/b.txt", content="Grüße")
    assert made == {"path": "/a/b.txt", "created": True, "size_bytes": 7, "hash": sha("Grüße")}
    assert not (await desk.use("write_file", path="/a/b.txt", content="x"))["created"]
    await desk.use("write_file", path="/bin", content=base64.b64encode(b"\0\1").decode(), encoding="base64")
    assert (await desk.tree.read("bin"))["encoding"] == "base64"
    assert "base64" in await desk.fails("write_file", path="/c", content="?", encoding="base64")
    assert "folder" in await desk.fails("write_file", path="/a", content="x")


async def test_write_file_does_not_overwrite_a_file_that_has_changed(desk: Desk) -> None:
    await desk.files(a="1")
    await desk.use("write_file", path="/a", content="2", expected_hash=sha("1"))
    assert "changed since" in await desk.fails("write_file", path="/a", content="3", expected_hash=sha("1"))
    # Repeating the same call, as after a crash, succeeds.
    assert (await desk.use("write_file", path="/a", content="2", expected_hash=sha("1")))["hash"] == sha("2")


async def test_tools_keep_the_limits_of_the_settings(database_url: str, tmp_path: Path) -> None:
    little = {"PERDURE_MAX_FILE_BYTES": "1000", "PERDURE_MAX_SESSION_FILE_BYTES": "1500"}
    async with (
        Server(tmp_path / "data", database_url=database_url, environment=little) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        await use_simulated_model(http)
        desk = Desk(await new_talk(http))
        assert "1 KB" in await desk.fails("write_file", path="/a", content="x" * 1001)
        await desk.use("write_file", path="/a", content="x" * 1000)
        assert "1500 bytes" in await desk.fails("write_file", path="/b", content="x" * 501)
        assert "1 KB" in await desk.fails(
            "edit_file", path="/a", old_text="x", new_text="xx", replace_all=True
        )
        # An upload may be larger than what tools hold.
        upload = await http.put(desk.tree.url("/a"), content=b"y" * 1200)
        assert upload.status_code == 200, upload.text
        assert "1200 bytes" in await desk.fails("read_file", path="/a")
        assert "1200 bytes" in await desk.fails("edit_file", path="/a", old_text="y", new_text="z")
        found = await desk.use("grep_files", pattern="y")
        assert "not searched" in json.dumps(found)
        shown = await desk.use("bash", command="ls; echo new > a; rm -f a; echo small > b")
        assert "/a was left out" in json.dumps(shown)
        assert await desk.tree.paths() == ["/a", "/b"]
        assert (await http.get(f"{desk.tree.base}/fs/_/download/a")).content == b"y" * 1200


async def test_edit_file_replaces_exactly_the_given_text(desk: Desk) -> None:
    await desk.files(a="one two one\n")
    assert "2 times" in await desk.fails("edit_file", path="/a", old_text="one", new_text="1")
    assert "does not occur" in await desk.fails("edit_file", path="/a", old_text="three", new_text="3")
    assert "same" in await desk.fails("edit_file", path="/a", old_text="two", new_text="two")
    done = await desk.use("edit_file", path="/a", old_text="one", new_text="1", replace_all=True)
    assert (done["replaced"], done["hash"]) == (2, sha("1 two 1\n"))
    await desk.use("edit_file", path="/a", old_text=" two", new_text="", expected_hash=done["hash"])
    assert (await desk.tree.read("a"))["content"] == "1 1\n"
    await desk.tree.create("bin", content="AAAA", encoding="base64")
    assert "not text" in await desk.fails("edit_file", path="/bin", old_text="a", new_text="b")


async def test_edit_file_refuses_a_stale_hash(desk: Desk) -> None:
    await desk.files(a="first\n")
    read = await desk.use("read_file", path="/a")
    await desk.tree.put("a", content="first, and more\n")
    words = await desk.fails(
        "edit_file", path="/a", old_text="first", new_text="second", expected_hash=read["hash"]
    )
    assert "changed since it was read" in words
    assert (await desk.tree.read("a"))["content"] == "first, and more\n"


async def test_concurrent_edits_of_one_answer_lose_no_change(desk: Desk) -> None:
    await desk.files(a="".join(f"<{number}>" for number in range(5)))
    edits = [
        call("edit_file", path="/a", old_text=f"<{number}>", new_text=f"[{number}]") for number in range(5)
    ]
    results = await desk.all(*edits)
    assert [result["success"] for result in results] == [True] * 5
    assert (await desk.tree.read("a"))["content"] == "[0][1][2][3][4]"


async def test_delete_file_is_idempotent(desk: Desk) -> None:
    await desk.files(a__b="1", a__c="2", d="3")
    assert "recursive" in await desk.fails("delete_file", path="/a")
    assert (await desk.use("delete_file", path="/a", recursive=True))["deleted"] == 3
    assert (await desk.use("delete_file", path="/a", recursive=True))["deleted"] == 0
    assert "changed since" in await desk.fails("delete_file", path="/d", expected_hash=sha("other"))
    assert (await desk.use("delete_file", path="/d", expected_hash=sha("3")))["deleted"] == 1
    assert "cannot be deleted" in await desk.fails("delete_file", path="/", recursive=True)
    assert await desk.tree.paths() == []


async def test_read_only_files_are_not_changed(desk: Desk) -> None:
    await desk.tree.create("fixed", content="fixed", is_readonly=True)
    for name, arguments in (
        ("write_file", {"content": "x"}),
        ("edit_file", {"old_text": "fixed", "new_text": "x"}),
        ("delete_file", {}),
    ):
        assert "read-only" in await desk.fails(name, path="/fixed", **arguments)
    assert (await desk.tree.read("fixed"))["content"] == "fixed"


async def test_changes_of_files_by_tools_are_logged(desk: Desk) -> None:
    await desk.use("write_file", path="/a", content="12")
    await desk.use("edit_file", path="/a", old_text="1", new_text="111")
    await desk.use("delete_file", path="/a")
    await desk.use("delete_file", path="/a")
    await desk.use("read_file", path="/b") if await desk.use("write_file", path="/b", content="") else None
    assert await desk.tree.told() == [
        ("write", "/a", True, 2),
        ("edit", "/a", False, 4),
        ("delete", "/a", False, 0),
        ("write", "/b", True, 0),
    ]
    written = await desk.talk.events(types="file.written")
    assert all(event["context"]["turn_id"] for event in written)


def test_the_hints_of_tools_are_correct() -> None:
    (files,) = [each for each in catalogue() if each.id == "session_file_system"]
    hints = {tool.name: tool.hints for tool in files.tools(None)}
    readonly = {name for name, each in hints.items() if each.readonly}
    assert readonly == {"read_file", "read_many_files", "list_directory", "glob", "grep_files", "stat_file"}
    assert {name for name, each in hints.items() if each.destructive} == {"delete_file"}
    assert {name for name, each in hints.items() if each.idempotent} == readonly | {
        "write_file",
        "delete_file",
    }
    assert set(hints) == readonly | {"write_file", "edit_file", "delete_file"}


# --- paths that models write ------------------------------------------------


async def test_a_path_as_the_shell_shows_it_means_the_same(desk: Desk) -> None:
    await desk.use("write_file", path="/workspace/notes/a", content="1")
    assert await desk.tree.paths(recursive="true") == ["/notes", "/notes/a"]
    assert (await desk.use("read_file", path="workspace/notes/a"))["path"] == "/notes/a"
    assert [each["path"] for each in (await desk.use("list_directory", path="/workspace"))["entries"]] == [
        "/notes"
    ]
    await desk.tree.create("workspace/real", content="2")
    assert (await desk.use("read_file", path="/workspace/real"))["path"] == "/workspace/real"
    assert "/workspace/notes/a" in await desk.fails("read_file", path="/workspace/notes/a")


@pytest.mark.parametrize(
    "path", ["../../etc/passwd", "/../etc/passwd", "a/../../etc/passwd", "/etc/./passwd", "etc//passwd"]
)
async def test_no_path_leads_out(desk: Desk, path: str) -> None:
    await desk.use("write_file", path=path, content="mine")
    assert await desk.tree.paths(recursive="true") == ["/etc", "/etc/passwd"]
    other = Desk(await new_talk(desk.talk.http))
    assert "/etc/passwd" in await other.fails("read_file", path=path)


@pytest.mark.parametrize(
    "path", ["a\nb", "a\u202eb", "a\\b", "/_/x", "/" + "x" * 300, "C:\\x", " ", "a\u0085"]
)
async def test_an_invalid_path_gets_a_clear_error(desk: Desk, path: str) -> None:
    for name, more in (
        ("write_file", {"content": "x"}),
        ("read_file", {}),
        ("delete_file", {}),
        ("list_directory", {}),
    ):
        assert "path" in await desk.fails(name, path=path, **more)
    assert await desk.tree.paths() == []


# --- after a crash ----------------------------------------------------------


async def test_writes_that_a_crash_interrupts_are_completed(database_url: str, tmp_path: Path) -> None:
    """Kills the server while many large files are being written.

    Each call runs again, and every file is complete (promise P5).
    """
    contents = [hashlib.sha256(b"%d" % number).hexdigest() * 1_000 for number in range(12)]
    async with Server(tmp_path / "data", database_url=database_url) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            await use_simulated_model(http)
            talk = await new_talk(http)
            calls = [
                call("write_file", path=f"/f{number}", content=text) for number, text in enumerate(contents)
            ]
            calls.append(call("edit_file", path="/f0", old_text="nowhere", new_text="x"))
            await talk.say(script({"tool_calls": calls}, {"text": "Done."}))
            async with talk.follow() as stream:
                await stream.until("tool.started")
                await server.kill()
        await server.start()
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            talk = Talk(http, talk.id)
            await talk.logged_until("session.idled")
            results = [event["data"] for event in await talk.events(types="tool.completed")]
            assert [result["status"] for result in results[:-1]] == ["success"] * 12
            assert results[-1]["status"] in ("interrupted", "error")
            tree = Tree(talk, talk.path())
            for number, text in enumerate(contents):
                assert (await tree.read(f"f{number}"))["content"] == text
            space = (await http.get(f"/v1/workspaces/{(await talk.read())['workspace_id']}")).json()
            assert (space["file_count"], space["size_bytes"]) == (12, sum(map(len, contents)))
            await when(_at_rest(talk))


def _at_rest(talk: Talk) -> Any:
    async def look() -> bool:
        return bool((await talk.read())["status"] == "idle")

    return look
