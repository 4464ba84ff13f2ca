"""The client's files of memories, when others write them too."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.client import Client, PerdureError
from tests.unit.fake_server import FakeServer, Handler, answers, script

NOW = "2026-03-14T09:26:53.589793Z"
MEMORY = "memory_" + "0" * 32


def problem(status: int, code: str) -> Handler:
    body = {"type": "about:blank", "title": "No", "status": status, "detail": "No.", "code": code}
    return answers(status, body)


def file(text: str) -> dict[str, Any]:
    return {
        "path": "/a.md", "is_directory": False, "size_bytes": len(text), "created_at": NOW, "updated_at": NOW,
        "content": text, "encoding": "text", "hash": "0" * 64, "content_hash": "0" * 64,
    }  # fmt: skip


async def test_a_file_that_somebody_else_creates_meanwhile_is_replaced() -> None:
    steps = script(problem(404, "file_not_found"), problem(409, "file_exists"), answers(200, file("mine")))
    async with FakeServer(steps) as server, Client(server.url) as client:
        written = await client.write_memory_file(MEMORY, "/a.md", "mine")
    assert written.content == "mine"
    assert [request.method for request in server.requests] == ["PUT", "POST", "PUT"]
    assert [request.json()["content"] for request in server.requests] == ["mine"] * 3


async def test_a_file_that_does_not_exist_is_created_and_read() -> None:
    steps = script(problem(404, "file_not_found"), answers(201, file("mine")), answers(200, file("mine")))
    async with FakeServer(steps) as server, Client(server.url) as client:
        assert (await client.write_memory_file(MEMORY, "/a.md", "mine")).content == "mine"
    assert [request.method for request in server.requests] == ["PUT", "POST", "GET"]


@pytest.mark.parametrize(
    ("codes", "expected_hash"),
    [
        (("file_not_found", "memory_full"), None),
        (("file_not_found",), "0" * 64),
        (("memory_archived",), None),
    ],
)
async def test_a_file_that_cannot_be_written_says_why(
    codes: tuple[str, ...], expected_hash: str | None
) -> None:
    steps = script(*(problem(409, code) for code in codes))
    async with FakeServer(steps) as server, Client(server.url) as client:
        with pytest.raises(PerdureError) as caught:
            await client.write_memory_file(MEMORY, "/a.md", "mine", expected_hash=expected_hash)
    assert caught.value.code == codes[-1]
    assert len(server.requests) == len(codes)


async def test_a_file_has_no_list() -> None:
    async with FakeServer(answers(200, file("mine"))) as server, Client(server.url) as client:
        with pytest.raises(PerdureError, match=r"/a.md is a file: `read_memory_file` returns it") as caught:
            await client.list_memory_files(MEMORY, "/a.md")
    assert caught.value.code == "not_a_folder"
