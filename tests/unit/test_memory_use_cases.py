"""Memories at their limits and at odds with others, without a server."""

from __future__ import annotations

from functools import partial

import pytest

from perdure.app import memories, memory_files
from perdure.app.memories import (
    all_memories,
    change_memory,
    create_memory,
    delete_memory,
    read_memory,
    sync_memory,
)
from perdure.app.memory_contents import create_path, list_folder, update_path
from perdure.app.mounted_files import transfer
from perdure.app.shell_changes import Changes
from perdure.domain.errors import Conflict, Forbidden, InvalidInput, NotFound, PreconditionFailed, TooLarge
from perdure.domain.files import content_of
from perdure.domain.ids import MemoryId, new_id
from perdure.domain.memories import (
    CreateMemory,
    CreateMemoryFile,
    MemoryMount,
    UpdateMemory,
    UpdateMemoryFile,
)
from perdure.store.database import Tx
from perdure.store.sessions import get_session
from tests.unit.rooms import Room

MINE = MemoryMount("mine", scope="user", mode="read_write")


def writing(text: bytes, *names: str) -> Changes:
    return Changes({f"/memories/mine/{name}": content_of(text) for name in names})


async def test_a_memory_takes_a_name_that_is_free_and_one_of_a_user_keeps_its_own(room: Room) -> None:
    await room.open(MINE)
    app, owner = room.app, room.owner
    first = await create_memory(app, owner, CreateMemory("notes"))
    with pytest.raises(Conflict, match="notes"):
        await create_memory(app, owner, CreateMemory("notes"))
    assert await change_memory(app, owner, first.id, UpdateMemory(name="notes")) == first
    await delete_memory(app, owner, first.id, purge=False)
    second = await create_memory(app, owner, CreateMemory("notes"))
    with pytest.raises(Conflict, match="notes"):
        await change_memory(app, owner, first.id, UpdateMemory(status="active"))
    renamed = await change_memory(app, owner, first.id, UpdateMemory(name="older", status="active"))
    assert (renamed.name, renamed.status) == ("older", "active")
    with pytest.raises(Conflict, match="archive it first"):
        await delete_memory(app, owner, second.id, purge=True)
    await room.run(writing(b"x", "a.md"))
    (own,) = [each for each in await all_memories(app, owner, None, False) if each.scope == "user"]
    with pytest.raises(Conflict, match="keep their name"):
        await change_memory(app, owner, own.id, UpdateMemory(name="other"))
    with pytest.raises(InvalidInput, match="no source to synchronize"):
        await sync_memory(app, owner, own.id)
    with pytest.raises(NotFound):
        await read_memory(app, owner, MemoryId(new_id("memory")))


async def test_an_organization_has_so_many_memories_and_no_more(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    await room.open(MINE)
    monkeypatch.setattr(memories, "MAX_MEMORIES", 1)
    await create_memory(room.app, room.owner, CreateMemory("notes"))
    with pytest.raises(Conflict, match="at most 1 memories") as caught:
        await create_memory(room.app, room.owner, CreateMemory("more"))
    assert caught.value.code == "too_many_memories"
    with pytest.raises(Conflict, match="at most 1 memories"):
        await room.run(writing(b"x", "a.md"))
    assert await room.files() == {}


@pytest.mark.parametrize(
    ("limit", "most", "words"),
    [
        ("MAX_FILES", 1, "at most 1 files and folders"),
        ("MAX_VERSIONS", 1, "has 1 versions, which is the most"),
        ("MAX_HISTORY", 3, "may have 3 bytes together"),
        ("MAX_ALL_VERSIONS", 1, "has 1 versions of its files, and may have 1"),
    ],
)
async def test_a_memory_at_its_limit_says_which_and_keeps_what_it_has(
    room: Room, monkeypatch: pytest.MonkeyPatch, limit: str, most: int, words: str
) -> None:
    await room.open(MINE)
    await room.run(writing(b"one", "a.md"))
    monkeypatch.setattr(memory_files, limit, most)
    changes = writing(b"two", "b.md") if limit == "MAX_FILES" else writing(b"two", "a.md")
    (note,) = (await room.run(changes)).notes
    assert words in note
    assert await room.files() == {"/memories/mine/a.md": b"one"}


async def test_a_file_is_read_by_a_change_without_content_and_not_under_another_hash(room: Room) -> None:
    await room.open()
    app, owner = room.app, room.owner
    memory = (await create_memory(app, owner, CreateMemory("notes"))).id
    await create_path(app, owner, memory, "/a.md", CreateMemoryFile("text"))
    update = partial(update_path, app, owner, memory, "/a.md")
    read = await update(UpdateMemoryFile(), None)
    assert (read.content, read.path) == ("text", "/a.md")
    assert await update(UpdateMemoryFile(expected_hash=read.content_hash), frozenset({"*"})) == read
    for body, tags in (
        (UpdateMemoryFile(expected_hash="0" * 64), None),
        (UpdateMemoryFile("new", expected_hash=read.content_hash), frozenset({"0" * 64})),
    ):
        with pytest.raises(PreconditionFailed):
            await update(body, tags)
    (only,) = await list_folder(app, owner, memory, "/", recursive=True)
    assert (only.path, only.content_hash) == ("/a.md", read.content_hash)


async def test_files_are_copied_and_moved_one_by_one_between_memories_and_the_workspace(room: Room) -> None:
    archived = MemoryMount("gone", new_id("memory"), mode="read_write")
    fixed = MemoryMount("fixed", scope="user")
    await room.open(MINE, archived, fixed)
    await room.write({"/a.md": b"own", "/docs/b.md": b"b", "/large.md": b"x" * 200_000})
    await room.run(writing(b"kept", "c.md", "notes/d.md"))

    async def carry(source: str, target: str, move: bool = False) -> str:
        async def work(tx: Tx) -> str:
            session = await get_session(tx, room.owner.organization_id, room.id, lock=True)
            mounts = room.tool.mounts
            assert mounts is not None
            row = await transfer(room.app, tx, session, mounts, source, target, move=move, now=room.app.now())
            return row.path

        return await room.app.database.write(work)

    assert await carry("/a.md", "/memories/mine/a.md", move=True) == "/memories/mine/a.md"
    assert await carry("/memories/mine/c.md", "/memories/mine/e.md", move=True) == "/memories/mine/e.md"
    assert await carry("/memories/mine/notes/d.md", "/d.md") == "/d.md"
    files = await room.files()
    assert sorted(files) == [
        "/d.md", "/docs/b.md", "/large.md", "/memories/mine/a.md", "/memories/mine/e.md",
        "/memories/mine/notes/d.md",
    ]  # fmt: skip
    assert (files["/memories/mine/a.md"], files["/d.md"]) == (b"own", b"kept")
    for source, target, error in (
        ("/large.md", "/memories/mine/large.md", TooLarge),
        ("/docs", "/memories/mine/docs", InvalidInput),
        ("/memories/mine/notes", "/notes", Conflict),
        ("/memories/mine/none.md", "/none.md", NotFound),
        ("/memories/other/a.md", "/none.md", NotFound),
        ("/memories/gone/a.md", "/none.md", NotFound),
        ("/d.md", "/memories/gone/a.md", NotFound),
        ("/d.md", "/memories/fixed/d.md", Forbidden),
        ("/memories/mine/a.md", "/d.md", Conflict),
    ):
        with pytest.raises(error):
            await carry(source, target)
    assert await room.files() == files
