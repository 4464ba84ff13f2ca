"""Paths and patterns that mean harm: no way out of a workspace, no name that is not one, nothing that hangs."""

from __future__ import annotations

import httpx
import pytest

from tests.journeys.trees import Tree, code, raw
from tests.server import Server
from tests.talk import new_talk


@pytest.fixture
async def one(api: httpx.AsyncClient) -> Tree:
    """The same by the session's id only, for what does not depend on the address."""
    talk = await new_talk(api)
    return Tree(talk, talk.path())


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
async def test_no_path_leads_out_of_the_workspace(shared_server: Server, one: Tree, written: str) -> None:
    other = await new_talk(one.http)
    status, answer = await raw(shared_server, "POST", f"{one.base}/fs/{written}", b'{"content":"mine"}')
    assert (status, await one.paths(recursive="true")) == (201, ["/etc", "/etc/passwd"]), answer
    assert (await one.read("etc/passwd"))["content"] == "mine"
    assert (await raw(shared_server, "GET", f"{one.base}/fs/{written}"))[0] == 200
    assert (await raw(shared_server, "GET", f"{other.path()}/fs/{written}"))[0] == 404


@pytest.mark.parametrize(
    "written",
    [
        "..%5C..%5Cetc", "a%5Cb", "a%00b", "%00", "a%0Ab", "a%0D%0AX-Evil:%201", "a%7F", "%C2%85", "%FF", "%C0%AF", "%C0%AE%C0%AE/x",
        "%ED%A0%80", "a%E2%80%AEb", "%EF%BB%BFa", "_", "_/x", "x" * 256, "/".join(["y" * 200] * 6), "/".join("z" * 70), "a%20/b",
        "%20",
    ],
)  # fmt: skip
async def test_what_cannot_be_a_path_is_refused(shared_server: Server, one: Tree, written: str) -> None:
    for method, body in (("POST", b'{"content":"x"}'), ("PUT", b'{"content":"x"}'), ("DELETE", b""), ("GET", b"")):
        status, answer = await raw(shared_server, method, f"{one.base}/fs/{written}", body)
        assert status == 400, (method, answer)
        assert b"Evil" not in answer.partition(b"\r\n\r\n")[0], answer
    assert await one.paths() == []


async def test_a_path_is_decoded_once(shared_server: Server, one: Tree) -> None:
    await raw(shared_server, "POST", f"{one.base}/fs/a%252Fb", b'{"content":"x"}')
    await raw(shared_server, "POST", f"{one.base}/fs/c%252e%252e", b'{"content":"x"}')
    await raw(shared_server, "POST", f"{one.base}/fs/d%2Fe", b'{"content":"x"}')
    await raw(shared_server, "POST", f"{one.base}/fs/f+g%2B", b'{"content":"x"}')
    await raw(shared_server, "POST", f"{one.base}/fs/q%3Fx=1%23y", b'{"content":"x"}')
    assert await one.paths(recursive="true") == ["/a%2Fb", "/c%2e%2e", "/d", "/d/e", "/f+g+", "/q?x=1#y"]


async def test_names_that_look_the_same_are_the_same_file(one: Tree) -> None:
    await one.create("caf\u00e9", content="1")
    assert code(await one.create("cafe\u0301", 409, content="2")) == "file_exists"
    assert (await one.read("cafe%CC%81"))["content"] == "1"
    assert code(await one.act("copy", 409, src_path="cafe\u0301", dst_path="/caf\u00e9")) == "file_exists"


async def test_there_are_no_links_only_names(one: Tree) -> None:
    await one.create("link", content="/etc/passwd")
    assert code(await one.read("link/x", 404)) == "file_not_found"
    assert code(await one.create("link/x", 409, content="x")) == "not_a_folder"


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b", "(x?){200}y", "(.*a){15}b", "^(([a-z])+.)+[A-Z]([a-z])+$"])
async def test_a_pattern_that_would_hang_elsewhere_does_not(one: Tree, pattern: str) -> None:
    await one.create("bait", content=("a" * 20_000 + "!\n") * 10)
    assert (await one.act("grep", pattern=pattern))["truncated"] is False
    assert (await one.http.get("/health")).status_code == 200
