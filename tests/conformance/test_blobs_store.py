"""Contents of files, on both databases: stored once, shared, and removed when no file refers to them."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from perdure.domain.errors import Unavailable
from perdure.domain.files import Content, Measure, Uploaded, content_of
from perdure.domain.ids import SkillId
from perdure.engine.context import SystemClock
from perdure.settings import Settings
from perdure.store.blobs import (
    PART,
    PURGED,
    keep_contents,
    purge_blobs,
    read_contents,
    read_part,
    release_contents,
)
from perdure.store.database import Database, Purged
from perdure.store.file_changes import FileWrite, write_file
from perdure.store.files import copy_tree, read_heads
from perdure.store.skills import KeptFile, SkillVersionRow, add_version, delete_skill
from perdure.store.uploads import add_parts, split
from perdure.wiring import open_parts
from perdure.worker.retention import RetentionSweep
from tests.conformance.desk import HOUR, NOW, ORG, OTHER, Desk, count
from tests.conformance.places import Place, soon


class Fixed(SystemClock):
    """A clock that only tests advance."""

    def __init__(self, now: int) -> None:
        self._now = now

    def now(self) -> int:
        return self._now

    def elapsed(self) -> float:
        """0, so that no sweep is ended by its time limit on a slow machine."""
        return 0.0


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 3 * PART, 10 * 1024 * 1024])
async def test_a_content_comes_back_as_it_was(desk: Desk, size: int) -> None:
    data = os.urandom(size)
    written = await desk.write("/blob", data)
    assert written.row.size_bytes == size
    assert await desk.read("/blob") == data
    assert await count(desk.database, "blob_parts") == -(-size // PART)


async def test_a_content_can_be_read_part_by_part(desk: Desk) -> None:
    data = os.urandom(2 * PART + 7)
    row = (await desk.write("/blob", data)).row
    parts = [
        await desk.database.read(partial(read_part, org_id=ORG, hash_=row.hash, part=n)) for n in range(3)
    ]
    assert b"".join(parts) == data
    with pytest.raises(RuntimeError, match="is incomplete"):
        await desk.database.read(lambda tx: read_part(tx, ORG, row.hash, 3))


async def test_the_same_content_is_kept_once_in_an_organization(database: Database) -> None:
    first, second = await Desk(database).open(), await Desk(database).open()
    data = os.urandom(2 * PART)
    await first.write_all(("/a", data), ("/b", data), ("/c/d", data))
    await second.write("/e", data)
    assert (await count(database, "blobs"), await count(database, "blob_parts")) == (1, 2)
    elsewhere = await Desk(database, OTHER).open()
    await elsewhere.write("/a", data)
    assert (await count(database, "blobs"), await count(database, "blob_parts")) == (2, 4)


async def test_a_copy_and_a_fork_cost_no_content(database: Database) -> None:
    desk, fork = await Desk(database).open(), await Desk(database).open()
    await desk.write_all(("/src/a", os.urandom(PART)), ("/src/deep/b", b"b"), ("/c", b"c"))
    await desk.copy("/src", "/copy")
    await database.write(lambda tx: copy_tree(tx, ORG, desk.id, fork.id, NOW))
    assert await count(database, "blobs") == 3
    assert await fork.tree() == await desk.tree()
    assert await fork.read("/copy/deep/b") == b"b"
    was, now = await desk.row(), await fork.row()
    assert (now.size_bytes, now.file_count) == (was.size_bytes, was.file_count) == (2 * PART + 3, 9)
    await fork.write("/c", b"changed")
    assert await desk.read("/c") == b"c"


async def test_several_contents_are_read_together(desk: Desk) -> None:
    data = {f"/{number}": os.urandom(number * 1000) for number in range(1, 1200, 7)}
    rows = [written.row for written in await desk.write_all(*data.items())]
    sizes = {row.hash: row.size_bytes for row in rows}
    found = await desk.database.read(lambda tx: read_contents(tx, ORG, sizes))
    assert {row.path: found[row.hash] for row in rows} == data


async def test_what_no_file_names_any_more_is_removed_after_an_hour(desk: Desk) -> None:
    await desk.write_all(("/a", b"a"), ("/b", os.urandom(2 * PART)), ("/kept", b"kept"))
    await desk.write("/a", b"changed")
    await desk.delete("/b")
    assert await desk.purge(hours=0.5) == 0
    assert await count(desk.database, "blobs") == 4
    assert await desk.purge() == 2
    assert (await count(desk.database, "blobs"), await count(desk.database, "blob_parts")) == (2, 2)
    assert await desk.read("/a") == b"changed"
    assert await desk.read("/kept") == b"kept"
    assert await desk.purge() == 0


async def test_a_batch_of_removals_is_bounded_in_number_and_in_bytes(desk: Desk) -> None:
    sizes = [7_000_000, 8_000_000, 9_000_000, 5, 6]
    for number, size in enumerate(sizes):
        await desk.write(f"/{number}", bytes([number]) * size)
        await desk.delete(f"/{number}")
        desk.now += 1
    purge = lambda limit: desk.database.write(lambda tx: purge_blobs(tx, NOW + HOUR, limit))  # noqa: E731
    assert await purge(200) == Purged(2, more=True)
    assert await purge(2) == Purged(2, more=True)
    assert await purge(2) == Purged(1, more=False)
    assert await purge(2) == Purged(0, more=False)


async def test_a_sweep_removes_contents_as_fast_as_they_come(place: Place, tmp_path: Path) -> None:
    url = place.url if place.kind == "postgres" else ""
    async with open_parts(Settings(data=str(tmp_path / "data"), database_url=url)) as parts:
        desk = await Desk(parts.database).open()
        await desk.write_all(*((f"/all/{number}", b"%d" % number) for number in range(1_000)))
        await desk.delete("/all", recursive=True)
        later = NOW + 2 * HOUR
        await RetentionSweep(replace(parts.app, now=lambda: later), Fixed(later)).once()
        assert await count(parts.database, "blobs") == 0


async def test_a_content_that_another_file_still_has_stays(desk: Desk) -> None:
    await desk.write_all(("/a", b"same"), ("/b", b"same"))
    await desk.copy("/a", "/c")
    for path in ("/a", "/b"):
        await desk.delete(path)
        assert await desk.purge() == 0
        assert await desk.read("/c") == b"same"
    await desk.delete("/c")
    assert await desk.purge() == 1


async def test_a_content_that_a_version_of_a_skill_has_stays_until_the_skill_is_deleted(desk: Desk) -> None:
    content, skill = content_of(os.urandom(10)), SkillId("skill_1")
    row = SkillVersionRow(skill, "v", ORG, "a-skill", "Knows.", "markdown", "{}", NOW)
    await desk.write("/a", content.data)
    await desk.database.write(lambda tx: add_version(tx, row, {"SKILL.md": KeptFile.of(content)}))
    await desk.delete("/a")
    assert await desk.database.write(lambda tx: purge_blobs(tx, NOW + 2 * HOUR)) == Purged(0, False)
    await desk.database.write(lambda tx: delete_skill(tx, ORG, skill, NOW))
    assert await desk.database.write(lambda tx: purge_blobs(tx, NOW + 2 * HOUR)) == Purged(1, False)
    assert await count(desk.database, "skill_files") == 0


async def test_a_content_that_is_written_again_in_time_stays(desk: Desk) -> None:
    await desk.write("/a", b"again")
    await desk.delete("/a")
    await desk.write("/b", b"again")
    assert await desk.purge() == 0
    assert await desk.read("/b") == b"again"


async def test_removing_contents_and_writing_them_again_at_once_loses_none(desk: Desk) -> None:
    contents = [content_of(b"%d" % number) for number in range(12)]

    async def release(content: Content) -> None:
        await desk.database.write(lambda tx: release_contents(tx, ORG, (content.hash,), NOW))

    for turn in range(8):
        for content in contents:
            keep = partial(keep_contents, org_id=ORG, contents=(content,), now=NOW)
            await desk.database.write(keep)
            await release(content)
        writes = [desk.write(f"/{turn}-{index}", content.data) for index, content in enumerate(contents)]
        await soon(asyncio.gather(desk.purge(), *writes, desk.purge()))
        for index, content in enumerate(contents):
            assert await desk.read(f"/{turn}-{index}") == content.data
            await desk.delete(f"/{turn}-{index}")


async def test_many_writers_of_one_new_content_end_with_one(database: Database) -> None:
    desks = [await Desk(database).open() for _ in range(8)]
    data = os.urandom(PART + 1)
    await soon(asyncio.gather(*(desk.write("/same", data) for desk in desks)))
    assert (await count(database, "blobs"), await count(database, "blob_parts")) == (1, 2)
    assert [await desk.read("/same") for desk in desks] == [data] * 8


# --- contents that arrive in parts ------------------------------------------


async def arrive(desk: Desk, data: bytes, key: str = "upload_1") -> Uploaded:
    """Store a content batch by batch, as an upload does."""
    measure, size = Measure(), 4 * PART
    for start in range(0, len(data), size):
        batch = data[start : start + size]
        measure.add(batch)
        add = partial(add_parts, org_id=ORG, key=key, before=start, parts=split(batch), now=desk.now)
        await desk.database.write(add)
    return measure.done(key)


async def put(desk: Desk, path: str, uploaded: Uploaded) -> None:
    write = FileWrite(path, uploaded, uploaded=True)
    await desk.change(lambda tx, space: write_file(tx, space, write, desk.limits, desk.now))


async def purge(desk: Desk, before: int) -> int:
    """Purge until there is no more; return the number of batches."""
    batches = 1
    while (await desk.database.write(lambda tx: purge_blobs(tx, before))).more:
        batches += 1
    return batches


async def test_what_arrives_in_parts_is_read_like_any_content(desk: Desk) -> None:
    data = os.urandom(5 * PART + 7)
    uploaded = await arrive(desk, data)
    assert uploaded.hash == content_of(data).hash
    await put(desk, "/a", uploaded)
    assert await desk.read("/a") == data
    assert await desk.database.read(partial(read_part, org_id=ORG, hash_=uploaded.hash, part=5)) == data[-7:]
    read = partial(read_contents, org_id=ORG, sizes={uploaded.hash: len(data)})
    assert await desk.database.read(read) == {uploaded.hash: data}
    await desk.write("/b", data)
    assert (await count(desk.database, "blobs"), await count(desk.database, "blob_parts")) == (1, 6)


async def test_a_text_that_arrived_in_parts_has_a_beginning(desk: Desk) -> None:
    await put(desk, "/a", await arrive(desk, b"hello " * PART))
    heads = await desk.database.read(lambda tx: read_heads(tx, ORG, desk.id, ["/a"], 5))
    assert heads == {"/a": (6 * PART, b"hello")}


async def test_a_content_that_is_there_already_is_not_kept_twice(desk: Desk) -> None:
    data = os.urandom(3 * PART)
    await desk.write("/a", data)
    await put(desk, "/b", await arrive(desk, data))
    assert await desk.read("/b") == data
    await purge(desk, NOW - HOUR)
    assert (await count(desk.database, "blobs"), await count(desk.database, "blob_parts")) == (1, 3)


async def test_what_arrived_in_part_is_purged_an_hour_later_and_cannot_be_linked(desk: Desk) -> None:
    uploaded = await arrive(desk, os.urandom(6 * PART))
    await purge(desk, NOW)
    assert await count(desk.database, "blob_parts") == 6
    await purge(desk, NOW + 1)
    assert (await count(desk.database, "blobs"), await count(desk.database, "blob_parts")) == (0, 0)
    with pytest.raises(Unavailable) as caught:
        await put(desk, "/a", uploaded)
    assert caught.value.code == "upload_expired"
    late = partial(add_parts, org_id=ORG, key="upload_1", before=4 * PART, parts=[b"x"], now=NOW)
    with pytest.raises(Unavailable):
        await desk.database.write(late)
    assert (await count(desk.database, "blobs"), await count(desk.database, "blob_parts")) == (0, 0)


async def test_a_long_content_is_purged_in_batches_and_can_arrive_again_meanwhile(desk: Desk) -> None:
    data = os.urandom(40 * 1024 * 1024)
    await put(desk, "/a", await arrive(desk, data))
    assert await purge(desk, NOW + HOUR) == 1
    await desk.delete("/a")
    assert (await desk.database.write(lambda tx: purge_blobs(tx, NOW + HOUR))).more
    assert await count(desk.database, "blob_parts") == 160 - PURGED // PART
    await put(desk, "/b", await arrive(desk, data, "upload_2"))
    assert await purge(desk, NOW + HOUR) == 2
    assert await desk.read("/b") == data
    assert (await count(desk.database, "blobs"), await count(desk.database, "blob_parts")) == (1, 160)
