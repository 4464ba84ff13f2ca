"""The steps of erasures, on both databases: each can be the last one before a kill."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.app.accounts import bootstrap
from perdure.app.erasure_steps import take_step
from perdure.app.erasures import all_erasures, create_erasure, read_erasure
from perdure.app.file_access import OfSession
from perdure.app.file_copies import copy_ahead
from perdure.app.files import create_path, delete_path
from perdure.app.sessions import create_session
from perdure.app.storage import put_value
from perdure.domain.accounts import Caller
from perdure.domain.erasures import CreateErasure, Erasure
from perdure.domain.files import CreateFile, content_of
from perdure.domain.ids import OrgId, SessionId
from perdure.domain.sessions import CreateSession
from perdure.domain.workspaces import own_workspace
from perdure.engine.context import SystemClock
from perdure.settings import Settings
from perdure.store.blobs import keep_contents
from perdure.store.database import Body, Tx
from perdure.store.erasures import get_erasure
from perdure.store.files import FileRow
from perdure.store.gone_files import AT_ONCE, add_copies, keep_copy
from perdure.store.idempotency import keep_answer, take_key
from perdure.store.search import SEGMENT, forget_absent, next_segment, read_unsorted, sort_terms, unpack
from perdure.store.search import add_segment as add
from perdure.store.sqlite import connect
from perdure.store.sqlite_scrub import scrub_file
from perdure.store.workspaces import count_in_workspace, hold_workspace
from perdure.wiring import Parts, open_parts
from perdure.worker.erasures import Eraser
from tests.remnants import tables_with

MARK = "mark-of-the-test"


@pytest.fixture
async def parts(database_url: str, tmp_path: Path) -> AsyncIterator[Parts]:
    async with open_parts(Settings(data=str(tmp_path / "data"), database_url=database_url)) as opened:
        yield opened


async def marked(parts: Parts, owner: Caller) -> SessionId:
    """A session with the mark in its title, its tags and a value."""
    body = CreateSession(title=MARK, tags=(MARK,))
    session = await create_session(parts.app, owner, body)
    await put_value(parts.app, owner, session.id, "key", MARK)
    return session.id


async def finish(parts: Parts, owner: Caller, erasure: Erasure) -> Erasure:
    """Go on with an erasure as a worker does, until it is finished."""
    eraser = Eraser(parts.app, SystemClock())
    for _ in range(100):
        await eraser.once()
        found = await read_erasure(parts.app, owner, erasure.id)
        if found.status == "finished":
            return found
    raise AssertionError(found)


async def test_an_erasure_goes_on_after_every_step(parts: Parts) -> None:
    owner = await bootstrap(parts.app)
    took, steps = True, 0
    while took:
        session = await marked(parts, owner)
        erasure = await create_erasure(parts.app, owner, CreateErasure(session_id=session))
        took = True
        for _ in range(steps):  # then whoever did them dies
            row = await parts.database.read(
                partial(get_erasure, org_id=owner.organization_id, erasure_id=erasure.id)
            )
            took = await take_step(parts.app, row)
        receipt = await finish(parts, owner, erasure)
        assert {each.kind: each.items for each in receipt.erased}["sessions"] == 1
        assert {each.kind: each.items for each in receipt.erased}["key_values"] == 1
        assert await tables_with(parts.database, MARK) == {}
        steps += 1
    assert steps > 5


async def test_the_same_step_done_by_two_processes_at_once_counts_once(parts: Parts) -> None:
    owner = await bootstrap(parts.app)
    session = await marked(parts, owner)
    erasure = await create_erasure(parts.app, owner, CreateErasure(session_id=session))
    for _ in range(50):
        row = await parts.database.read(
            partial(get_erasure, org_id=owner.organization_id, erasure_id=erasure.id)
        )
        await asyncio.gather(take_step(parts.app, row), take_step(parts.app, row))
    receipt = await read_erasure(parts.app, owner, erasure.id)
    assert receipt.status == "finished"
    assert {each.kind: each.items for each in receipt.erased}["sessions"] == 1
    assert len({each.kind for each in receipt.remains}) == len(receipt.remains)


async def test_the_files_are_written_anew_once_for_all_erasures_that_are_so_far(parts: Parts) -> None:
    owner = await bootstrap(parts.app)
    erasures = []
    for _ in range(3):
        body = CreateErasure(session_id=await marked(parts, owner))
        erasures.append(await create_erasure(parts.app, owner, body))
    org_id = owner.organization_id
    for each in erasures:
        row = await parts.database.read(partial(get_erasure, org_id=org_id, erasure_id=each.id))
        while row.stage != "files":
            await take_step(parts.app, row)
            row = await parts.database.read(partial(get_erasure, org_id=org_id, erasure_id=each.id))
    assert not await take_step(parts.app, row)
    found = [await read_erasure(parts.app, owner, each.id) for each in erasures]
    assert {each.status for each in found} == {"finished"}


async def test_answers_that_do_not_say_what_they_are_about_are_found_by_the_sessions_in_them(
    parts: Parts,
) -> None:
    owner = await bootstrap(parts.app)
    session, other = await marked(parts, owner), await marked(parts, owner)
    org_id, now = owner.organization_id, parts.app.now()

    async def answers(tx: Tx) -> None:
        for number in range(1_100):
            about = {7: session, 1_050: session, 8: other}.get(number, "nobody")
            await take_key(tx, org_id, f"key-{number:04}", "print", now, 0)
            await keep_answer(tx, org_id, f"key-{number:04}", 201, f'{{"id":"{about}"}}'.encode())

    await parts.database.write(answers)
    erasure = await create_erasure(parts.app, owner, CreateErasure(session_id=session))
    receipt = await finish(parts, owner, erasure)
    assert {each.kind: each.items for each in receipt.erased}["idempotency_answers"] == 2
    assert "idempotency" not in await tables_with(parts.database, session)
    assert (await tables_with(parts.database, "print"))["idempotency"] == 1_098


async def test_the_search_index_forgets_what_only_erased_sessions_had(parts: Parts) -> None:
    owner = await bootstrap(parts.app)
    org_id, session = owner.organization_id, await marked(parts, owner)
    database = parts.database

    async def others(tx: Tx) -> None:
        names = [
            row[0]
            for row in await tx.all(
                "SELECT name FROM pragma_table_xinfo('sessions') WHERE hidden = 0"
                if tx.dialect == "sqlite"
                else "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass('sessions')"
                " AND attnum > 0 AND NOT attisdropped AND attgenerated = ''"
            )
        ]
        values = ", ".join({"id": "?", "title": "?", "tags": "'[]'"}.get(name, name) for name in names)
        sql = f"INSERT INTO sessions ({', '.join(names)}) SELECT {values} FROM sessions WHERE id = ?"
        for number in range(SEGMENT - 1):
            given = {"id": f"session_{number:032x}", "title": f"other {number}"}
            await tx.run(sql, *(given[name] for name in names if name in given), session)

    await database.write(others)
    unsorted = await database.read(lambda tx: read_unsorted(tx, org_id))
    await database.write(lambda tx: add(tx, org_id, 0, unsorted, sort_terms(unsorted)))
    assert "search_terms" in await tables_with(database, MARK)
    erasure = await create_erasure(parts.app, owner, CreateErasure(session_id=session))
    receipt = await finish(parts, owner, erasure)
    assert {each.kind: each.items for each in receipt.erased}["search_terms"] > 5
    assert await tables_with(database, MARK) == {}
    assert await _positions(parts, org_id, "oth") == SEGMENT - 1
    assert await database.read(lambda tx: next_segment(tx, org_id, -1)) == 0
    assert (await database.write(lambda tx: forget_absent(tx, org_id, 0, "")))[0] == 0


async def _positions(parts: Parts, org_id: OrgId, term: str) -> int:
    sql = "SELECT members FROM search_terms WHERE org_id = ? AND term = ?"
    ((members,),) = await parts.database.read(lambda tx: tx.all(sql, org_id, term))
    return unpack(bytes(members)).bit_count()


def test_a_large_database_is_not_written_anew_but_its_log_is_emptied(tmp_path: Path) -> None:
    path = tmp_path / "perdure.db"
    writer = connect(path)
    writer.execute("CREATE TABLE t (x)")
    writer.execute("INSERT INTO t VALUES (?)", (MARK,))
    writer.execute("DELETE FROM t")
    log = path.with_name("perdure.db-wal")
    assert MARK.encode() in log.read_bytes()
    assert scrub_file(partial(connect, path), most=0) is False
    assert log.read_bytes() == b""
    assert scrub_file(partial(connect, path)) is True
    assert MARK.encode() not in path.read_bytes() + log.read_bytes()
    writer.close()


def test_the_files_are_left_for_later_while_somebody_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "perdure.db"
    writer = connect(path)
    writer.execute("CREATE TABLE t (x)")
    reader = connect(path, readonly=True)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM t").fetchall()
    writer.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(Exception, match=r"busy|locked"):
        scrub_file(partial(connect, path))
    reader.execute("COMMIT")
    assert scrub_file(partial(connect, path)) is True
    writer.close()
    reader.close()


async def test_the_files_of_a_large_workspace_are_erased_with_their_contents(parts: Parts) -> None:
    owner = await bootstrap(parts.app)
    session = await marked(parts, owner)
    org_id, now, space = owner.organization_id, parts.app.now(), own_workspace(session)

    async def fill(tx: Tx) -> None:
        count = AT_ONCE + 300
        await tx.run(
            "INSERT INTO workspaces (id, org_id, session_id, name, status, size_bytes, file_count,"
            " created_at, updated_at) VALUES (?, ?, ?, 'w', 'active', ?, ?, ?, ?)",
            *(space, org_id, session, count * 20, count, now, now),
        )
        contents = [content_of(f"{MARK} {number}".encode()) for number in range(count)]
        await keep_contents(tx, org_id, contents, now)
        rows = [
            FileRow(space, f"/{number}", org_id, "/", 0, 0, 1, 20, each.hash, now, now)
            for number, each in enumerate(contents)
        ]
        await add_copies(tx, rows)

    await parts.database.write(fill)
    erasure = await create_erasure(parts.app, owner, CreateErasure(session_id=session))
    receipt = await finish(parts, owner, erasure)
    assert {each.kind: each.items for each in receipt.erased}["contents"] == AT_ONCE + 300
    assert await tables_with(parts.database, MARK, space) == {}


class Meddling:
    """The real database; something happens before the second batch of a copy is written."""

    def __init__(self, database: Any, what: Callable[[], Awaitable[object]]) -> None:
        self._database, self._what, self._writes = database, what, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def write(self, body: Body[Any], *, single: bool = False) -> Any:
        self._writes += 1
        if self._writes == 3:
            await self._what()
        return await self._database.write(body, single=single)


async def test_an_erasure_leaves_contents_to_copies_that_are_being_made(parts: Parts) -> None:
    app, owner = parts.app, await bootstrap(parts.app)
    source, doomed = await marked(parts, owner), await marked(parts, owner)
    org_id, space, now = owner.organization_id, own_workspace(source), app.now()
    both = CreateFile(content="What both have.")

    async def fill(tx: Tx) -> None:
        held = await hold_workspace(tx, org_id, space)
        content = content_of(b"filler")
        await keep_contents(tx, org_id, [content], now)
        rows = [
            FileRow(space, f"/{number}", org_id, "/", 0, 0, 1, 6, content.hash, now, now)
            for number in range(AT_ONCE + 1)
        ]
        await add_copies(tx, rows)
        await count_in_workspace(tx, held, 6 * len(rows), len(rows))

    await parts.database.write(fill)
    for session in (source, doomed):
        await create_path(app, owner, OfSession(session), "/last.txt", both)
    eraser = Eraser(app, SystemClock())

    async def meanwhile() -> None:
        await delete_path(app, owner, OfSession(source), "/last.txt", recursive=False, if_match=None)
        await create_erasure(app, owner, CreateErasure(session_id=doomed))
        for _ in range(50):
            await eraser.once()

    database: Any = Meddling(parts.database, meanwhile)
    target = own_workspace(SessionId(app.new_id("session")))
    ahead = await copy_ahead(replace(app, database=database), org_id, space, target)
    if ahead is None:
        return  # PostgreSQL copies in one transaction

    async def lost(tx: Tx) -> list[Any]:
        return await tx.all(
            "SELECT path FROM files WHERE workspace_id = ? AND is_directory = 0 AND NOT EXISTS"
            " (SELECT 1 FROM blobs WHERE blobs.org_id = files.org_id AND blobs.hash = files.hash)",
            target,
        )

    assert await parts.database.read(lost) == []
    await parts.database.write(lambda tx: keep_copy(tx, org_id, target))
    receipt = await finish(parts, owner, (await all_erasures(app, owner, 0, 1)).data[0])
    assert receipt.status == "finished"
    assert await parts.database.read(lost) == []
