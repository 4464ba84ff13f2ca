"""Workspaces, on both databases: who owns them, and how long they exist."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import msgspec

from perdure.domain.errors import Conflict, NotFound
from perdure.domain.ids import new_id
from perdure.domain.workspaces import own_workspace
from perdure.store.blobs import PART
from perdure.store.database import Database, Tx
from perdure.store.file_changes import (
    remove_files,
)
from perdure.store.session_deletion import mark_deleted, purge_deleted
from perdure.store.sessions import SessionRow, add_session, get_session
from perdure.store.workspaces import (
    get_workspace,
    hold_session_files,
    orphaned_workspace,
    update_workspace,
)
from tests.conformance.desk import NOW, ORG, Desk, count, refused
from tests.conformance.places import Place, soon


def session(**fields: Any) -> SessionRow:
    row = SessionRow(
        new_id("session"),
        ORG,
        new_id("user"),
        new_id("harness"),
        None,
        None,
        "[]",
        None,
        None,
        "{}",
        None,
        None,
        NOW,
        NOW,
        None,
        0,
        0,
        -1,
        0,
        "started",
        None,
        0,
        None,
        None,
        None,
        None,
        None,
        None,
    )
    return msgspec.structs.replace(row, **fields)


async def new_session(database: Database, **fields: Any) -> SessionRow:
    row = session(**fields)
    await database.write(lambda tx: add_session(tx, row))
    return row


async def delete_session(database: Database, row: SessionRow) -> None:
    async def body(tx: Tx) -> None:
        await get_session(tx, ORG, row.id, lock=True)
        await mark_deleted(tx, row, NOW)
        space = await orphaned_workspace(tx, ORG, row.id, row.workspace())
        if space is not None:
            await remove_files(tx, space, NOW)

    await database.write(body)


def desk_of(database: Database, row: SessionRow) -> Desk:
    desk = Desk(database)
    desk.id = row.workspace()
    return desk


async def test_a_sessions_own_workspace_has_no_row_until_it_holds_something(
    database: Database,
) -> None:
    row = await new_session(database)
    desk = desk_of(database, row)
    assert desk.id == own_workspace(row.id)
    assert (await desk.row()).session_id == row.id
    assert await count(database, "workspaces") == 0
    await soon(asyncio.gather(*(desk.write(f"/{number}") for number in range(6))))
    assert await count(database, "workspaces") == 1
    assert (await desk.row()).file_count == 6


async def test_files_in_a_sessions_own_workspace_are_deleted_with_it(database: Database) -> None:
    row = await new_session(database)
    desk = desk_of(database, row)
    await desk.write_all(("/a/b", b"1"), ("/c", b"2"))
    await delete_session(database, row)
    assert [await count(database, table) for table in ("files", "workspaces")] == [0, 0]
    await refused(NotFound, "workspace_not_found", desk.row())
    await refused(NotFound, "workspace_not_found", desk.write("/late"))
    assert await desk.purge() == 2


async def test_a_shared_workspace_stays_until_its_last_session_is_deleted(database: Database) -> None:
    owner = await new_session(database)
    desk = desk_of(database, owner)
    await desk.write("/a", b"1")
    guest = await new_session(database, workspace_id=desk.id)
    assert desk_of(database, guest).id == desk.id
    await delete_session(database, owner)
    assert await desk.read("/a") == b"1"
    await desk_of(database, guest).write("/b", b"2")
    await delete_session(database, guest)
    assert [await count(database, table) for table in ("files", "workspaces")] == [0, 0]


async def test_a_workspace_created_on_its_own_outlives_its_sessions(database: Database) -> None:
    desk = await Desk(database).open()
    guest = await new_session(database, workspace_id=desk.id)
    await desk_of(database, guest).write("/a", b"1")
    await refused(
        NotFound,
        "workspace_not_found",
        database.read(lambda tx: get_workspace(tx, ORG, own_workspace(guest.id))),
    )
    await delete_session(database, guest)
    assert await desk.read("/a") == b"1"


async def test_a_write_and_the_deletion_of_its_session_leave_nothing_behind(database: Database) -> None:
    for _ in range(6):
        row = await new_session(database)
        desk = desk_of(database, row)
        writes = [desk.write(f"/{number}") for number in range(4)]
        await soon(
            asyncio.gather(
                writes[0], writes[1], delete_session(database, row), *writes[2:], return_exceptions=True
            )
        )
        assert [await count(database, table) for table in ("files", "workspaces")] == [0, 0]


async def test_an_archived_workspace_takes_no_writes(desk: Desk) -> None:
    await desk.write("/a", b"1")
    row = await desk.row()
    await desk.database.write(lambda tx: update_workspace(tx, row, {"status": "archived"}))
    await refused(Conflict, "workspace_archived", desk.write("/a", b"2"))
    assert await desk.read("/a") == b"1"


async def test_written_files_survive_reopening_the_database(place: Place) -> None:
    from perdure.store.migrate import migrate

    database = await place.open()
    await migrate(database)
    desk = await Desk(database).open()
    data = os.urandom(PART + 5)
    await desk.write("/a", data)
    await database.close()
    desk.database = await place.open()
    assert await desk.read("/a") == data


async def test_deleted_sessions_are_removed_batch_by_batch_until_none_is_left(database: Database) -> None:
    for _ in range(25):
        row = await new_session(database)
        await database.write(lambda tx, row=row: mark_deleted(tx, row, NOW))  # type: ignore[misc]
    batches = []
    while True:
        batches.append(await database.write(lambda tx: purge_deleted(tx, NOW + 1, NOW + 2)))
        if not batches[-1].more:
            break
    assert sum(batch.gone for batch in batches) >= 25
    assert len(batches) > 2
    assert (
        await database.read(lambda tx: tx.all("SELECT id FROM sessions WHERE deleted_at IS NOT NULL")) == []
    )


async def test_a_deleted_session_changes_nothing_in_a_workspace_that_lives_on(
    database: Database,
) -> None:
    desk = await Desk(database).open()
    row = await new_session(database, workspace_id=desk.id)

    async def hold(tx: Tx) -> tuple[str, str]:
        session, space = await hold_session_files(tx, ORG, row.id)
        return session.id, space.id

    assert await database.write(hold) == (row.id, desk.id)
    await delete_session(database, row)
    await refused(NotFound, "session_not_found", database.write(hold))
    assert await desk.tree() == []
