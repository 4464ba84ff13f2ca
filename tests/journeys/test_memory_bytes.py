"""Memories by bytes: uploads into them, downloads of parts, and their files in messages."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.journeys.stores import Store, new_store, sha, talk_with
from tests.journeys.trees import Tree
from tests.server import post
from tests.talk import script


@pytest.fixture
async def store(api: httpx.AsyncClient) -> Store:
    return await new_store(api)


async def test_bytes_of_a_text_are_taken_as_any_other_write(store: Store) -> None:
    talk = await talk_with(store)
    tree = Tree(talk, talk.path())
    url, down = tree.url("/memories/notes/a.md"), f"{store.base}/fs/_/download/a.md"
    made = await store.http.put(url, content="one\n", headers={"content-type": "text/markdown"})
    assert (made.status_code, made.json()["hash"]) == (201, sha("one\n"))
    form = {"file": ("any.txt", "two\n", "text/plain")}
    stale = await store.http.put(url, files=form, headers={"if-match": f'"{sha("zero")}"'})
    assert (stale.status_code, stale.json()["code"]) == (412, "precondition_failed")
    changed = await store.http.put(url, files=form, headers={"if-match": f'"{made.json()["hash"]}"'})
    assert (changed.status_code, await store.text("/a.md")) == (200, "two\n")
    assert [(each["operation"], each.get("session_id")) for each in await store.versions()] == [
        ("update", talk.id),
        ("create", talk.id),
    ]
    assert await tree.told() == [
        ("write", "/memories/notes/a.md", True, 4),
        ("write", "/memories/notes/a.md", False, 4),
    ]
    for address in (down, f"{tree.base}/fs/_/download/memories/notes/a.md"):
        part = await store.http.get(address, headers={"range": "bytes=1-2"})
        assert (part.status_code, part.text, part.headers["content-range"]) == (206, "wo", "bytes 1-2/4")
        head = await store.http.head(address)
        assert (head.status_code, head.headers["content-length"], head.content) == (200, "4", b"")


async def test_bytes_that_a_memory_does_not_hold_are_refused(store: Store) -> None:
    talk, reader = await talk_with(store), await talk_with(store, "read_only")

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b"x" * 10 * 1024

    for session, path, body, status, reason in (
        (talk, "notes/a", b"\xff\xfe", 400, "memory_text_only"),
        (talk, "notes/a", b"x" * 102_401, 413, "memory_file_too_large"),
        (talk, "notes/a", pieces(), 413, "memory_file_too_large"),
        (talk, "notes", b"x", 400, "invalid_path"),
        (talk, "nots/a", b"x", 404, "memory_not_mounted"),
        (reader, "notes/a", b"x", 403, "memory_read_only"),
    ):
        url = Tree(session, session.path()).url(f"/memories/{path}")
        answer = await store.http.put(url, content=body)
        assert (answer.status_code, answer.json()["code"]) == (status, reason), path
    assert await store.versions() == []


async def test_a_message_has_the_text_that_a_file_of_a_memory_has_then(store: Store) -> None:
    await store.write("/a.md", "twelve pears")
    talk = await talk_with(store)
    part = {"type": "file", "path": "/memories/notes/a.md"}
    body = {"message": {"content": [part, {"type": "text", "text": script({"text": "Seen."})}]}}
    sent = await post(store.http, talk.path("/messages"), body)
    await store.put("/a.md", "no pears")
    await talk.logged_until("session.idled")
    (kept, *_) = (await talk.messages())[0]["content"]
    assert kept == sent["content"][0]
    assert (kept["stored"]["path"], kept["stored"]["digest"]) == ("/memories/notes/a.md", sha("twelve pears"))
    folder = {"message": {"content": [{"type": "file", "path": "/memories/notes"}]}}
    refused = await store.http.post(talk.path("/messages"), json=folder)
    assert (refused.status_code, refused.json()["code"]) == (400, "is_a_folder")
