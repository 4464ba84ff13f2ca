"""Files as bytes: uploads of any type and size, and downloads of parts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from perdure.client import ApiError, Client
from tests.journeys.people import elsewhere
from tests.journeys.trees import Tree, code, sha
from tests.journeys.world import raw_exchange
from tests.server import Server
from tests.talk import new_talk

MB = 1024 * 1024


@pytest.fixture
async def tree(api: httpx.AsyncClient) -> Tree:
    talk = await new_talk(api)
    return Tree(talk, talk.path())


async def put(
    tree: Tree, path: str, content: object, status: int = 201, kind: str = "", **more: str
) -> httpx.Response:
    headers = {"content-type": kind} if kind else {}
    headers |= {name.replace("_", "-"): value for name, value in more.items()}
    answer = await tree.http.put(tree.url(path), content=content, headers=headers)  # type: ignore[arg-type]
    assert answer.status_code == status, answer.text
    return answer


async def got(tree: Tree, path: str, status: int = 200, **headers: str) -> httpx.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await tree.http.get(f"{tree.base}/fs/_/download/{path}", headers=sent)
    assert answer.status_code == status, answer.text
    return answer


async def pieces(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


# --- uploads ----------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, MB, MB + 1, 3 * MB + 7])
async def test_bytes_create_a_file_and_replace_it(tree: Tree, size: int) -> None:
    data = os.urandom(size)
    made = await put(tree, "a/b.bin", data, kind="image/png")
    file = made.json()
    assert (file["path"], file["size_bytes"], file["hash"]) == ("/a/b.bin", size, sha(data))
    assert made.headers["etag"] == f'"{sha(data)}"'
    assert (await got(tree, "a/b.bin")).content == data
    again = await put(tree, "a/b.bin", pieces(data + b"1"), 200)
    assert again.json()["hash"] == sha(data + b"1")
    assert again.json()["id"] == file["id"]
    assert (await got(tree, "a/b.bin")).content == data + b"1"
    assert await tree.told() == [("write", "/a/b.bin", True, size), ("write", "/a/b.bin", False, size + 1)]
    assert (await put(tree, "copy", data)).json()["hash"] == sha(data)


async def test_json_is_content_only_if_the_query_says_so(tree: Tree) -> None:
    body = b'{"content": "x"}'
    await put(tree, "a.json", body, 404, "application/json")
    await put(tree, "a.json?raw=true", body, kind="application/json")
    assert (await got(tree, "a.json")).content == body
    await put(tree, "a.json", body, 200, "application/json; charset=utf-8")
    assert (await got(tree, "a.json")).content == b"x"
    await put(tree, "b.json", body, kind="application/problem+json")
    assert (await got(tree, "b.json")).content == body


async def test_long_text_counts_as_text_however_it_is_cut(tree: Tree) -> None:
    text = "é" * MB
    await put(tree, "text", pieces(text.encode(), 99_999))
    assert (await tree.read("text"))["content"] == text
    await put(tree, "none", text.encode() + b"\xc3")
    assert (await tree.read("none"))["encoding"] == "base64"


async def test_the_file_of_a_form_is_uploaded(tree: Tree) -> None:
    data = os.urandom(2 * MB)
    sent = await tree.http.put(tree.url("f"), files={"file": ("../x.png", data)}, data={"note": "hello"})
    assert (sent.status_code, sent.json()["path"], sent.json()["hash"]) == (201, "/f", sha(data))
    two = await tree.http.put(tree.url("g"), files=[("file", ("x", b"1")), ("file", ("y", b"2"))])
    none = await tree.http.put(tree.url("g"), files={"file": (None, b"1")})
    cut = await put(tree, "g", b"--x\r\n\r\n", 400, "multipart/form-data; boundary=x")
    for answer in (two, none, cut):
        assert (answer.status_code, code(answer.json())) == (400, "invalid_multipart")
    await put(tree, "g?raw=true", b"--x", kind="multipart/form-data; boundary=x")
    assert await tree.paths() == ["/f", "/g"]


async def test_the_last_whole_upload_wins_or_by_its_hash_the_first(tree: Tree) -> None:
    contents = [bytes([number]) * (2 * MB) for number in range(4)]
    answers = await asyncio.gather(*(put_any(tree, "a", data) for data in contents))
    assert sorted(answers) == [200, 200, 200, 201]
    now = (await got(tree, "a")).content
    assert now in contents
    raced = await asyncio.gather(
        *(put_any(tree, "a", data + b"!", **{"if-match": f'"{sha(now)}"'}) for data in contents)
    )
    assert sorted(raced) == [200, 412, 412, 412]
    await put(tree, "none", b"x", 412, if_match='"abc"')


async def put_any(tree: Tree, path: str, data: bytes, **headers: str) -> int:
    return (await tree.http.put(tree.url(path), content=pieces(data), headers=headers)).status_code


async def test_the_same_new_content_can_arrive_twice_at_once(tree: Tree) -> None:
    data = os.urandom(3 * MB)
    answers = await asyncio.gather(*(put_any(tree, name, data) for name in ("a", "b", "c")))
    assert answers == [201, 201, 201]
    for name in ("a", "b", "c"):
        assert (await got(tree, name)).content == data


async def test_what_is_no_place_for_a_file_is_refused_before_the_body(
    tree: Tree, shared_server: Server
) -> None:
    await tree.create("dir", is_directory=True)
    await tree.create("kept", content="x", is_readonly=True)
    foreign = await elsewhere(tree.http)
    for path, status, problem in (
        (tree.url("dir"), 400, "is_a_folder"),
        (tree.url("kept"), 403, "file_read_only"),
        (tree.url("kept/below"), 409, "not_a_folder"),
        (tree.url("x").replace(tree.talk.id, f"session_{'0' * 32}"), 404, "session_not_found"),
        (tree.url("huge"), 413, "too_large"),
    ):
        size = 200 * MB if problem == "too_large" else 1000
        head = f"PUT {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {size}\r\n\r\n".encode()
        answered, found = await raw_exchange(shared_server, head)
        assert (answered, code(found)) == (status, problem), path
    await put(tree, "a", b"x", 404, **foreign)


async def test_a_full_workspace_refuses_the_rest_of_an_upload(tree: Tree, shared_server: Server) -> None:
    await put(tree, "one/0", bytes(8 * MB))
    copies = [("/one/0", f"/one/{number}") for number in range(1, 16)]
    for source, target in (*copies, *(("/one", f"/{number}") for number in range(1, 8))):
        await tree.act("copy", 201, src_path=source, dst_path=target)  # of 1 GB, which is stored once
    head = f"PUT {tree.url('a')} HTTP/1.1\r\nhost: localhost\r\n"
    declared = f"{head}content-length: {100 * MB}\r\n\r\n"
    status, found = await raw_exchange(shared_server, declared.encode())
    assert (status, code(found)) == (413, "workspace_full")


async def test_an_upload_that_ends_early_leaves_the_file_as_it_was(tree: Tree, shared_server: Server) -> None:
    await put(tree, "a", b"before")
    url = urlsplit(shared_server.url)
    for framing in (f"content-length: {3 * MB}", "transfer-encoding: chunked"):
        _, writer = await asyncio.open_connection(url.hostname, url.port)
        head = f"PUT {tree.url('a')} HTTP/1.1\r\nhost: localhost\r\n{framing}\r\n\r\n"
        writer.write(head.encode())
        writer.write((b"%x\r\n" % (2 * MB) if "chunked" in framing else b"") + b"x" * (2 * MB))
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    assert (await got(tree, "a")).content == b"before"
    status, found = await raw_exchange(
        shared_server,
        f"PUT {tree.url('a')} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2x\r\n\r\n".encode(),
    )
    assert status == 400, found
    await put(tree, "a", b"x", 415, content_encoding="gzip")
    assert (await got(tree, "a")).content == b"before"


@pytest.mark.soak
async def test_a_client_that_stops_sending_is_answered_in_time(tree: Tree, shared_server: Server) -> None:
    head = f"PUT {tree.url('a')} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {3 * MB}\r\n\r\n"
    status, found = await raw_exchange(shared_server, head.encode() + b"x" * (2 * MB), seconds=60)
    assert (status, code(found)) == (400, "body_timeout")
    assert await tree.paths() == []


# --- parts of downloads ---------------------------------------------------


@pytest.fixture(scope="module")
def data() -> bytes:
    return os.urandom(600_000)


async def test_ranges_are_parts_of_the_file(tree: Tree, data: bytes) -> None:
    await put(tree, "a", data)
    whole = await got(tree, "a")
    assert whole.headers["accept-ranges"] == "bytes"
    for wanted, first, last in (
        ("bytes=0-0", 0, 0),
        ("bytes=0-99", 0, 99),
        ("bytes=262143-262144", 262_143, 262_144),
        ("bytes=100000-", 100_000, 599_999),
        ("bytes=-1", 599_999, 599_999),
        ("bytes=-9999999", 0, 599_999),
        ("Bytes=599999-999999999", 599_999, 599_999),
        ("bytes=5-6, 999999-", 5, 6),
    ):
        answer = await got(tree, "a", 206, range=wanted)
        assert answer.content == data[first : last + 1], wanted
        assert answer.headers["content-range"] == f"bytes {first}-{last}/600000"
        assert answer.headers["content-type"] == "application/octet-stream"
    for wanted in ("bytes=600000-", "bytes=-0", "bytes=999999-, 700000-"):
        refused = await got(tree, "a", 416, range=wanted)
        assert refused.headers["content-range"] == "bytes */600000"
        assert code(refused.json()) == "unsatisfiable_range"
    for wanted in (
        "bytes=",
        "bytes=-",
        "bytes=2-1",
        "lines=1-2",
        "bytes=a-b",
        "bytes=0-9,5-20",
        "bytes=1" * 40,
    ):
        assert (await got(tree, "a", range=wanted)).content == data, wanted
    assert (
        await got(tree, "a", range=f"bytes={','.join(f'{n}-{n}' for n in range(0, 40, 2))}")
    ).content == data


async def test_several_ranges_are_parts_of_a_body(tree: Tree, data: bytes) -> None:
    await put(tree, "a", data)
    answer = await got(tree, "a", 206, range="bytes=1-3, -2,300000-300001")
    kind, _, boundary = answer.headers["content-type"].partition("; boundary=")
    assert kind == "multipart/byteranges"
    parts = answer.content.split(b"\r\n--" + boundary.encode())
    assert (parts[0], parts[-1]) == (b"", b"--\r\n")
    shown = [part.partition(b"\r\n\r\n") for part in parts[1:-1]]
    assert [body for _, _, body in shown] == [data[1:4], data[-2:], data[300_000:300_002]]
    assert b"Content-Range: bytes 599998-599999/600000" in shown[1][0]


async def test_a_range_counts_only_for_the_file_that_was_read(tree: Tree) -> None:
    await put(tree, "a", b"0123456789")
    tag = f'"{sha(b"0123456789")}"'
    assert (await got(tree, "a", 206, range="bytes=2-3", if_range=tag)).content == b"23"
    for other in (f"W/{tag}", '"other"', "Wed, 21 Oct 2026 07:28:00 GMT"):
        assert (await got(tree, "a", 200, range="bytes=2-3", if_range=other)).content == b"0123456789"
    assert (await got(tree, "a", 206, range="bytes=2-3", if_match=tag)).content == b"23"
    await got(tree, "a", 412, range="bytes=2-3", if_match='"other"')
    await got(tree, "a", 304, range="bytes=2-3", if_none_match=tag)


async def test_head_has_the_headers_of_a_download(tree: Tree) -> None:
    await put(tree, "a", b"0123456789")
    path = f"{tree.base}/fs/_/download/a"
    for headers in ({}, {"range": "bytes=0-1"}):
        answer = await tree.http.head(path, headers=headers)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-length"] == "10"
        assert answer.headers["etag"] == f'"{sha(b"0123456789")}"'
    assert (await tree.http.head(f"{tree.base}/fs/_/download/none")).status_code == 404
    assert (await tree.http.head(f"{tree.base}/fs/a")).status_code == 405
    assert (await put(tree, "empty", b"")).status_code == 201
    assert (await got(tree, "empty")).content == b""
    await got(tree, "empty", 416, range="bytes=0-")


# --- large files elsewhere ------------------------------------------------


async def test_large_files_are_left_out_where_memory_is_small(tree: Tree) -> None:
    line = b"needle in a haystack, line after line after line\n"
    data = line * (11 * MB // len(line))
    await put(tree, "large.txt", data)
    await tree.create("small.txt", content="needle\n")
    found = await tree.act("grep", pattern="needle")
    assert [each["path"] for each in found["data"]] == ["/small.txt"]
    assert found["truncated"] is True
    assert (await tree.act("copy", 201, src_path="/large.txt", dst_path="/copy"))["hash"] == sha(data)
    fork = (await tree.http.post(f"{tree.base}/fork", json={})).json()
    copied = Tree(tree.talk, f"/v1/sessions/{fork['id']}")
    assert (await got(copied, "large.txt")).content == data


# --- the client ------------------------------------------------------------


async def test_the_client_uploads_and_downloads(tree: Tree, shared_server: Server, tmp_path: Path) -> None:
    data, source = os.urandom(3 * MB), tmp_path / "a.bin"
    source.write_bytes(data)
    async with Client(shared_server.url) as client:
        file = await client.upload_file(tree.talk.id, "/a.bin", source)
        assert (file.path, file.hash) == ("/a.bin", sha(data))
        assert b"".join([piece async for piece in client.download_file(tree.talk.id, "a.bin")]) == data
        small = await client.upload_file(tree.talk.id, "a.bin", b"{}", expected_hash=file.hash)
        assert (small.size_bytes, await client.read_file(tree.talk.id, "a.bin")) == (2, b"{}")
        with pytest.raises(ApiError) as caught:
            await client.upload_file(tree.talk.id, "a.bin", b"x", expected_hash=file.hash)
        assert caught.value.status == 412
        with pytest.raises(ApiError):
            [piece async for piece in client.download_file(tree.talk.id, "none")]
