"""Memories at the terminal and through the Python client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.client import ApiError, Client, Conflict, NotFound, PerdureError
from tests.command import perdure
from tests.server import Server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with Client(server.url) as made:
        yield made


async def test_the_commands_keep_compare_and_redact_texts(client: Client, tmp_path: Path) -> None:
    source = tmp_path / "source"

    async def run(*arguments: str, status: int = 0, given: str = "") -> str:
        done = await perdure("memories", *arguments, url=client.transport.base_url, given=given)
        assert done.status == status, done.err
        return done.out or done.err

    assert (await run("create", "notes", "--description", "Facts")).startswith("created memory_")
    assert "already named" in await run("create", "notes", status=1)
    source.write_text("one\ntwo\n")
    assert (await run("put", "notes", "/a/b.md", str(source))).startswith("wrote /a/b.md, 8 bytes, hash ")
    wrote = await run("put", "notes", "/a/b.md", given="one\nthree\n")
    stale = await run("put", "notes", "/a/b.md", "--expected-hash", "0" * 64, given="lost", status=1)
    assert "has changed since it was read" in stale
    hash_ = wrote.split()[-1]
    await run("put", "notes", "/a/b.md", "--expected-hash", hash_, given="four\n")
    assert await run("get", "notes", "/a/b.md") == "four\n"
    assert await run("get", "notes", "/a/b.md", "--version", "1") == "one\ntwo\n"
    assert [line.split("\t")[-1] for line in (await run("show", "notes", "-r")).splitlines()] == [
        "PATH",
        "/a/",
        "/a/b.md",
    ]
    assert (await run("grep", "notes", "fo.r")).splitlines()[1:] == ["5\t/a/b.md"]
    listed = await run("versions", "notes", "/a/b.md", "--json")
    assert [json.loads(line)["version"] for line in listed.splitlines()] == [3, 2, 1]
    assert "standard input is empty" in await run("put", "notes", "/a/b.md", status=1)
    assert (await run("diff", "notes", "/a/b.md", "-v", "1")).startswith("/a/b.md: new in version 1\n")
    diff = await run("diff", "notes", "/a/b.md", "-v", "2")
    assert diff.splitlines() == ["/a/b.md: version 1 to 2", " one", "-two", "+three"]
    assert json.loads(await run("diff", "notes", "/a/b.md", "--against", "1", "--json"))["from_version"] == 1
    assert await run("redact", "notes", "/a/b.md", "--version", "1") == "redacted version 1 of /a/b.md\n"
    assert "is redacted" in await run("get", "notes", "/a/b.md", "-v", "1", status=1)
    assert "no version 9" in await run("get", "notes", "/a/b.md", "-v", "9", status=1)
    source.write_bytes(b"\xff")
    assert "is not text" in await run("put", "notes", "/x", str(source), status=1)
    assert "`--recursive` deletes it" in await run("delete", "notes", "/a", status=1)
    assert await run("delete", "notes", "/a", "-r") == "deleted /a\n"
    assert await run("archive", "notes") == "archived notes\n"
    assert "no memory is named" in await run("show", "notes", status=1)
    assert "archived" in await run("list", "--archived")
    assert await run("restore", "notes") == "restored notes\n"
    assert await run("show", "notes") == "SIZE\tUPDATED\tPATH\n"
    assert await run("archive", "notes") == "archived notes\n"
    assert await run("purge", "notes") == "removed notes\n"


async def test_the_client_has_every_operation(client: Client) -> None:
    memory = await client.create_memory("facts")
    with pytest.raises(Conflict):
        await client.create_memory("facts")
    assert [each.id for each in await client.list_memories("fact")] == [memory.id]
    assert (await client.update_memory(memory.id, description="Facts")).description == "Facts"
    assert (await client.get_memory(memory.id)).description == "Facts"
    with pytest.raises(ApiError, match="no source"):
        await client.sync_memory_now(memory.id)
    await client.create_memory_file(memory.id, "/folder", is_directory=True)
    first = await client.write_memory_file(memory.id, "a.md", "one\n")
    again = await client.write_memory_file(memory.id, "a.md", "two\n", expected_hash=first.content_hash)
    with pytest.raises(ApiError) as lost:
        await client.update_memory_file(memory.id, "/a.md", "three\n", expected_hash=first.content_hash)
    assert lost.value.status == 412
    assert (await client.read_memory_file(memory.id, "/a.md")) == again
    assert await client.download_memory_file(memory.id, "/a.md") == b"two\n"
    assert (await client.stat_memory_file(memory.id, "a.md")).content_hash == again.content_hash
    assert [each.path for each in await client.list_memory_files(memory.id)] == ["/a.md", "/folder"]
    with pytest.raises(PerdureError, match="is a file"):
        await client.list_memory_files(memory.id, "/a.md")
    assert [each.path for each in await client.grep_memory(memory.id, "tw")] == ["/a.md"]
    new, old = await client.list_memory_versions(memory.id, "/a.md")
    assert (await client.get_memory_version(memory.id, old.id)).content == "one\n"
    diff = await client.diff_memory_version(memory.id, new.id)
    assert [each.sign for each in diff.lines] == ["-", "+"]
    assert (await client.redact_memory_version(memory.id, old.id)).redacted_at is not None
    with pytest.raises(ApiError):
        await client.delete_memory_file(memory.id, "/a.md", expected_hash=first.content_hash)
    await client.delete_memory_file(memory.id, "/a.md", expected_hash=again.content_hash)
    await client.delete_memory(memory.id)
    assert (await client.update_memory(memory.id, status="active")).status == "active"
    await client.delete_memory(memory.id)
    await client.delete_memory(memory.id, purge=True)
    with pytest.raises(NotFound):
        await client.get_memory(memory.id)
