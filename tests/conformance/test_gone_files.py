"""Files of large workspaces come and go in batches, on both databases: nobody waits for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from perdure.domain.errors import Conflict, NotFound
from perdure.domain.ids import new_id
from perdure.store.blobs import purge_blobs
from perdure.store.database import Database, Purged, Tx
from perdure.store.file_changes import remove_files
from perdure.store.files import list_tree
from perdure.store.gone_files import AT_ONCE, add_copies, keep_copy, let_go, purge_gone
from perdure.store.workspaces import get_workspace
from tests.conformance.desk import HOUR, NOW, ORG, Desk, count, refused
from tests.conformance.places import soon

MANY = AT_ONCE + 50


async def filled(database: Database, files: int, *, shared: str = "same") -> Desk:
    """A workspace with so many files: each has a content of its own, but one has a shared one."""
    desk = await Desk(database).open()
    await desk.write_all(
        ("/a", shared.encode()), *((f"/{desk.id[-4:]}-{number}", f"{desk.id} {number}".encode())
                                   for number in range(1, files)),
    )  # fmt: skip
    return desk


async def remove(desk: Desk) -> None:
    async def body(tx: Tx) -> None:
        await remove_files(tx, await get_workspace(tx, ORG, desk.id), NOW)

    await desk.database.write(body)


async def purge(database: Database, now: int = NOW, batch: int = AT_ONCE) -> list[int]:
    """Purge until nothing is left; return how many files each batch removed."""
    work: Callable[[Tx], Awaitable[Purged]] = lambda tx: purge_gone(tx, now, now + 2 * HOUR, batch)  # noqa: E731
    gone = []
    while (purged := await database.write(work)).more:
        gone.append(purged.gone)
    return gone


async def test_the_files_of_a_small_workspace_go_with_it(database: Database) -> None:
    desk = await filled(database, 5)
    await remove(desk)
    assert (await count(database, "files"), await count(database, "gone_workspaces")) == (0, 0)


async def test_nobody_reaches_a_large_workspace_once_it_is_deleted_and_its_files_go_in_batches(
    database: Database,
) -> None:
    desk, other = await filled(database, MANY), await filled(database, 3)
    await remove(desk)
    await refused(NotFound, "workspace_not_found", desk.row())
    assert await count(database, "files") == MANY + 3
    batches = await purge(database, batch=400)
    assert batches == [400, 400, MANY - 800]
    assert (await count(database, "files"), await count(database, "gone_workspaces")) == (3, 0)
    assert await purge(database) == []
    while (await database.write(lambda tx: purge_blobs(tx, NOW + HOUR))).more:
        pass
    assert await count(database, "blobs") == 3
    assert await other.read("/a") == b"same"


async def test_others_write_between_two_batches(database: Database) -> None:
    await remove(await filled(database, MANY))
    other = await filled(database, 2)
    seen: list[int] = []

    async def write() -> None:
        while await count(database, "gone_workspaces"):
            await other.write("/a", str(len(seen)).encode())
            seen.append(await count(database, "files"))

    writing = asyncio.create_task(write())
    await soon(purge(database, batch=50))
    await soon(writing)
    assert len({number for number in seen if 2 < number < MANY + 2}) > 1


async def test_a_copy_that_nobody_keeps_is_removed_when_it_is_due(database: Database) -> None:
    desk = await filled(database, 10)
    rows = await database.read(lambda tx: list_tree(tx, ORG, desk.id))
    copy = new_id("workspace")

    async def begin(tx: Tx) -> None:
        await let_go(tx, ORG, copy, NOW + HOUR)
        await add_copies(tx, [replace(row, workspace_id=copy) for row in rows])

    await database.write(begin)
    assert await purge(database, NOW + HOUR - 1) == []
    assert await purge(database, NOW + HOUR) == [10]
    await refused(Conflict, "fork_expired", database.write(lambda tx: keep_copy(tx, ORG, copy)))
    await database.write(begin)
    await database.write(lambda tx: keep_copy(tx, ORG, copy))
    assert await purge(database, NOW + 9 * HOUR) == []
    assert await count(database, "files") == 20


async def test_what_is_due_long_after_now_is_removed_because_the_clock_went_back(database: Database) -> None:
    desk = await filled(database, MANY)
    await remove(desk)
    assert sum(await purge(database, NOW - 24 * HOUR)) == MANY
