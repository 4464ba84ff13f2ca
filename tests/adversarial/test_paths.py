"""Hostile paths and patterns: nothing leaves the workspace, no invalid name is accepted, nothing hangs."""

from __future__ import annotations

from urllib.parse import quote

import httpx
import pytest

from perdure.tools.built_in import catalogue
from tests.adversarial.attack import done, use, works
from tests.journeys.trees import Tree, code, raw
from tests.server import Server
from tests.talk import call, new_talk


@pytest.fixture(params=["session", "workspace"])
async def tree(request: pytest.FixtureRequest, each: httpx.AsyncClient) -> Tree:
    """A session's files, addressed by the session and by its workspace."""
    talk = await new_talk(each)
    return Tree(
        talk,
        talk.path()
        if request.param == "session"
        else f"/v1/workspaces/{(await talk.read())['workspace_id']}",
    )


TRAVERSALS = [
    "../../etc/passwd",
    "..%2F..%2Fetc%2Fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "%2E%2E%2Fetc%2Fpasswd",
    "a/../../../etc/passwd",
    "./././etc/passwd",
    "etc//passwd",
    "%2Fetc%2Fpasswd",
    "/etc/passwd/",
    "x/y/..%2f../../..%2Fetc/passwd",
]


@pytest.mark.parametrize("written", TRAVERSALS)
async def test_no_path_leads_out_of_the_workspace(shared_server: Server, tree: Tree, written: str) -> None:
    other = await new_talk(tree.http)
    status, answer = await raw(shared_server, "POST", f"{tree.base}/fs/{written}", b'{"content":"mine"}')
    assert (status, await tree.paths(recursive="true")) == (201, ["/etc", "/etc/passwd"]), answer
    assert (await tree.read("etc/passwd"))["content"] == "mine"
    assert (await raw(shared_server, "GET", f"{tree.base}/fs/{written}"))[0] == 200
    assert (await raw(shared_server, "GET", f"{other.path()}/fs/{written}"))[0] == 404


@pytest.mark.parametrize(
    "written",
    [
        "..%5C..%5Cetc", "a%5Cb", "a%00b", "%00", "a%0Ab", "a%0D%0AX-Evil:%201", "a%7F", "%C2%85", "%FF",
        "%C0%AF", "%C0%AE%C0%AE/x",
        "%ED%A0%80", "a%E2%80%AEb", "%EF%BB%BFa", "_", "_/x", "x" * 256, "/".join(["y" * 200] * 6),
        "/".join("z" * 70), "a%20/b",
        "%20",
    ],
)  # fmt: skip
async def test_an_invalid_path_is_refused(shared_server: Server, tree: Tree, written: str) -> None:
    for method, body in (
        ("POST", b'{"content":"x"}'),
        ("PUT", b'{"content":"x"}'),
        ("DELETE", b""),
        ("GET", b""),
    ):
        status, answer = await raw(shared_server, method, f"{tree.base}/fs/{written}", body)
        assert status == 400, (method, answer)
        assert b"Evil" not in answer.partition(b"\r\n\r\n")[0], answer
    assert await tree.paths() == []


async def test_a_path_is_decoded_once(shared_server: Server, tree: Tree) -> None:
    await raw(shared_server, "POST", f"{tree.base}/fs/a%252Fb", b'{"content":"x"}')
    await raw(shared_server, "POST", f"{tree.base}/fs/c%252e%252e", b'{"content":"x"}')
    await raw(shared_server, "POST", f"{tree.base}/fs/d%2Fe", b'{"content":"x"}')
    await raw(shared_server, "POST", f"{tree.base}/fs/f+g%2B", b'{"content":"x"}')
    await raw(shared_server, "POST", f"{tree.base}/fs/q%3Fx=1%23y", b'{"content":"x"}')
    assert await tree.paths(recursive="true") == ["/a%2Fb", "/c%2e%2e", "/d", "/d/e", "/f+g+", "/q?x=1#y"]


async def test_names_that_look_the_same_are_the_same_file(tree: Tree) -> None:
    await tree.create("caf\u00e9", content="1")
    assert code(await tree.create("cafe\u0301", 409, content="2")) == "file_exists"
    assert (await tree.read("cafe%CC%81"))["content"] == "1"
    assert code(await tree.act("copy", 409, src_path="cafe\u0301", dst_path="/caf\u00e9")) == "file_exists"


async def test_the_content_of_a_file_is_never_followed_as_a_link(tree: Tree) -> None:
    await tree.create("link", content="/etc/passwd")
    assert code(await tree.read("link/x", 404)) == "file_not_found"
    assert code(await tree.create("link/x", 409, content="x")) == "not_a_folder"


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(a|a)*b", "(x?){200}y", "(.*a){15}b", "^(([a-z])+.)+[A-Z]([a-z])+$"]
)
async def test_a_pattern_that_would_hang_elsewhere_does_not(tree: Tree, pattern: str) -> None:
    await tree.create("bait", content=("a" * 20_000 + "!\n") * 10)
    assert (await tree.act("grep", pattern=pattern))["truncated"] is False
    assert (await tree.http.get("/health")).status_code == 200


# --- everything else that takes a path
# ------------------------------------------------------------------------------

NO_PATHS = {
    "a backslash": "..\\..\\etc", "NUL": "a\x00b", "a line's end": "a\nb", "an escape": "a\x1b[2Jb",
    "DEL": "a\x7fb", "C1": "a\x85b",
    "turned around": "a\u202eb", "nothing seen": "a\u200bb", "a word joiner": "a\u2060b",
    "a soft hyphen": "a\u00adb",
    "a byte order mark": "\ufeffa", "tags": "a\U000e0041b", "a line separator": "a\u2028b",
    "too long a name": "x" * 256,
    "too long": "/".join(["y" * 200] * 6), "too deep": "/".join("z" * 70), "a name in spaces": "a/ b /c",
    "blank": "  ",
}  # fmt: skip
"""Invalid paths. In JSON they are not percent-decoded."""

OUTSIDE = {
    "up": "../../../etc/passwd", "from the top": "/../../etc/passwd",
    "through a folder": "a/../../../etc/passwd",
    "doubled": "//etc////passwd", "dots": "./././etc/./passwd", "the mount": "/workspace/../etc/passwd",
    "the mount, up": "/workspace/../../../etc/passwd", "its neighbour": "/workspaces/../etc/passwd",
}  # fmt: skip
"""Paths that try to leave the workspace: all of them mean the same path inside it."""

HARMLESS = {
    "encoded": "%2e%2e%2fetc", "doubly encoded": "%252e%252e%252fetc", "full width": "\uff0e\uff0e\uff0fetc",
    "one dot leader": "\u2024\u2024",
    "fraction slash": "..\u2044..\u2044etc", "division slash": "..\u2215etc", "three dots": "...",
    "a tilde": "~root", "a drive": "C:",
    "a scheme": "file:", "a variable": "$HOME", "options": "-rf", "a pattern": "*", "a device": "CON",
    "joined": "\u0646\u200c\u0647",
}  # fmt: skip
"""Ordinary names here, although they are special elsewhere."""

TOOLS: dict[str, dict[str, object]] = {
    "read_file": {"path": "@"}, "write_file": {"path": "@", "content": "mine"},
    "edit_file": {"path": "@", "old_text": "a", "new_text": "b"},
    "list_directory": {"path": "@"}, "grep_files": {"pattern": "x", "path": "@"},
    "glob": {"pattern": "*", "path": "@"},
    "delete_file": {"path": "@"}, "stat_file": {"path": "@"}, "read_many_files": {"paths": ["/fine", "@"]},
}  # fmt: skip


def with_path(arguments: dict[str, object], path: str) -> dict[str, object]:
    return {
        name: path
        if value == "@"
        else [path if each == "@" else each for each in value]
        if isinstance(value, list)
        else value
        for name, value in arguments.items()
    }


def test_every_tool_that_takes_a_path_is_tried() -> None:
    (files,) = [each for each in catalogue() if each.id == "session_file_system"]
    takes = {
        tool.name for tool in files.tools(None) if {"path", "paths"} & set(tool.parameters["properties"])
    }
    assert takes == set(TOOLS)


async def test_no_tool_accepts_an_invalid_path(each: httpx.AsyncClient) -> None:
    talk = await new_talk(each)
    await works(talk, "write_file", path="/fine", content="fine")
    cases = [(name, label) for name in TOOLS for label in NO_PATHS]
    results = await done(
        talk, *(call(name, **with_path(TOOLS[name], NO_PATHS[label])) for name, label in cases)
    )
    wrong = [
        (case, result)
        for case, result in zip(cases, results, strict=True)
        if (result["success"] and case[0] != "read_many_files")
        or "Traceback" in str(result)
        or "failed:" in str(result.get("error"))
    ]
    assert wrong == []
    assert [each["path"] for each in (await each.get(talk.path("/fs?recursive=true"))).json()["data"]] == [
        "/fine"
    ]


async def test_no_tool_leads_out_of_the_workspace(each: httpx.AsyncClient) -> None:
    for written in OUTSIDE.values():
        talk = await new_talk(each, capabilities=[{"ref": "session_file_system"}], harness_name="base")
        answer = await works(talk, "write_file", path=written, content="mine")
        assert answer["path"] == "/etc/passwd", (written, answer)
        for name in ("read_file", "stat_file", "grep_files", "glob", "read_many_files", "delete_file"):
            given = with_path(TOOLS[name], written) | ({"pattern": "mine"} if name == "grep_files" else {})
            found = await use(talk, name, **given)
            assert found["success"], (name, written, found)
            assert "root:" not in str(found)


async def test_names_that_are_special_elsewhere_are_ordinary_here(each: httpx.AsyncClient) -> None:
    talk = await new_talk(each)
    calls = [call("write_file", path=f"/{name}", content="x") for name in HARMLESS.values()]
    assert all(result["success"] for result in await done(talk, *calls))
    listed = {entry["path"] for entry in (await each.get(talk.path("/fs"))).json()["data"]}
    assert listed == {f"/{name}" for name in HARMLESS.values()}
    shell = await works(talk, "bash", command="ls -A | wc -l; find . -type f -exec cat -- {} + | wc -c")
    # The shell refuses to read one of them, and says so.
    assert shell["stdout"].split() == [str(len(HARMLESS)), str(len(HARMLESS) - 1)]
    assert "unsafe character U+200C" in shell["stderr"]


def bodies_with(path: str) -> dict[str, object]:
    """Every body that contains a path, by the URL's part after the tree's base.

    URLs that do not begin with `/fs` are absolute.
    """
    return {
        "/fs/_/copy source": {"src_path": path, "dst_path": "/b"},
        "/fs/_/copy target": {"src_path": "/fine", "dst_path": path},
        "/fs/_/move source": {"src_path": path, "dst_path": "/b"},
        "/fs/_/move target": {"src_path": "/fine", "dst_path": path},
        "/fs/_/stat": {"path": path},
        "/v1/sessions": {"initial_files": [{"path": path, "content": "x"}]},
        "/v1/agents": {
            "name": "files",
            "system_prompt": "x",
            "initial_files": [{"path": path, "content": "x"}],
        },
        "/v1/harnesses": {"name": "files", "initial_files": [{"path": path, "content": "x"}]},
    }


async def test_no_body_accepts_an_invalid_path(tree: Tree) -> None:
    await tree.create("fine", content="fine")
    wrong = []
    for label, path in NO_PATHS.items():
        for where, body in bodies_with(path).items():
            target = where.split()[0]
            answer = await tree.http.post(
                tree.base + target if target.startswith("/fs") else target, json=body
            )
            if answer.status_code != 400 or answer.json()["code"] not in (
                "invalid_path",
                "invalid_request",
                "invalid_json",
            ):
                wrong.append((label, where, answer.status_code, answer.text[:200]))
    assert wrong == []
    assert await tree.paths() == ["/fine"]


async def test_no_body_leads_out_of_the_workspace(tree: Tree) -> None:
    await tree.create("fine", content="fine")
    for written in OUTSIDE.values():
        assert (await tree.act("copy", 201, src_path="/fine", dst_path=written))["path"] == "/etc/passwd"
        assert (await tree.act("stat", path=written))["path"] == "/etc/passwd"
        assert (await tree.act("move", src_path=written, dst_path="/moved"))["path"] == "/moved"
        await tree.delete("moved")
        made = await tree.http.post(
            "/v1/sessions", json={"initial_files": [{"path": written, "content": "x"}]}
        )
        assert made.status_code == 201, made.text
        listed = (await tree.http.get(f"/v1/sessions/{made.json()['id']}/fs?recursive=true")).json()["data"]
        assert "/etc/passwd" in [entry["path"] for entry in listed]


@pytest.mark.parametrize("way", ["download", "preview"])
async def test_a_file_that_is_served_cannot_run_scripts(tree: Tree, way: str) -> None:
    name = 'x";evil=1; filename=".html'
    page = "<script>alert(1)</script>"
    await tree.act("copy", 404, src_path="/nothing", dst_path="/y")
    await tree.create(quote(name, safe=""), content=page)
    answer = await tree.http.get(f"{tree.base}/fs/_/{way}/{quote(name, safe='')}")
    assert answer.status_code == 200
    assert "sandbox" in answer.headers["content-security-policy"]
    if way == "download":
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"].count(";") == 2
    else:
        assert "<script" not in answer.text
    for written in ("..%2F..%2Fetc%2Fpasswd", "%00", "_/x"):
        assert (await tree.http.get(f"{tree.base}/fs/_/{way}/{written}")).status_code in (400, 404)


async def test_a_body_with_very_many_files_is_refused_or_stored_completely(
    each: httpx.AsyncClient,
) -> None:
    files = [{"path": f"/f{number}", "content": ""} for number in range(30_000)]
    answer = await each.post("/v1/sessions", json={"initial_files": files})
    assert answer.status_code in (400, 413), answer.text[:200]
    deep = [
        {"path": "/".join("d" * 60) + f"/{number}/" + "/".join("e" * 3), "content": ""}
        for number in range(50)
    ]
    made = await each.post("/v1/sessions", json={"initial_files": deep})
    assert made.status_code in (201, 400), made.text[:200]
