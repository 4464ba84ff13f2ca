"""Failures of the storage are `Unavailable` with a cause; they change nothing, and they pass."""

from __future__ import annotations

import asyncio
import errno
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from perdure.app import health as app_health
from perdure.app.health import DatabaseHealth
from perdure.domain.errors import Unavailable
from perdure.store import sqlite
from perdure.store.database import Database, Tx
from perdure.store.faults import (
    CAUSES,
    LASTING,
    lasting,
    sqlite_fault,
    sqlstate_cause,
    system_fault,
    unavailable,
)
from perdure.store.postgres import connections as postgres_connections
from perdure.store.postgres import database as postgres_database
from perdure.store.postgres.database import open_postgres
from perdure.store.sqlite import SqliteDatabase, open_sqlite
from tests.conformance.places import Place, eventually, soon, wire_to
from tests.conformance.things import adding, names

# --- what the codes mean ------------------------------------------------------------------------------

SQLITE = {
    "SQLITE_FULL": "disk_full",
    "SQLITE_IOERR": "disk_error",
    "SQLITE_IOERR_READ": "disk_error",
    "SQLITE_IOERR_SHORT_READ": "disk_error",
    "SQLITE_IOERR_WRITE": "disk_error",
    "SQLITE_IOERR_FSYNC": "disk_error",
    "SQLITE_IOERR_DATA": "disk_error",
    "SQLITE_IOERR_CORRUPTFS": "disk_error",
    "SQLITE_IOERR_NOMEM": "out_of_memory",
    "SQLITE_CORRUPT": "corrupt",
    "SQLITE_CORRUPT_INDEX": "corrupt",
    "SQLITE_NOTADB": "corrupt",
    "SQLITE_READONLY": "read_only",
    "SQLITE_READONLY_RECOVERY": "read_only",
    "SQLITE_READONLY_DIRECTORY": "read_only",
    "SQLITE_READONLY_DBMOVED": "moved",
    "SQLITE_CANTOPEN": "unopenable",
    "SQLITE_CANTOPEN_SYMLINK": "unopenable",
    "SQLITE_PERM": "unopenable",
    "SQLITE_BUSY": "locked",
    "SQLITE_BUSY_SNAPSHOT": "locked",
    "SQLITE_LOCKED": "locked",
    "SQLITE_PROTOCOL": "locked",
    "SQLITE_NOMEM": "out_of_memory",
    "SQLITE_INTERRUPT": "busy",
    "SQLITE_ERROR": None,
    "SQLITE_CONSTRAINT_UNIQUE": None,
    "SQLITE_MISUSE": None,
    "SQLITE_TOOBIG": None,
    "SQLITE_MISMATCH": None,
}

SQLSTATES = {
    "08006": "no_connection",
    "08001": "no_connection",
    "25006": "read_only",
    "25P03": "no_connection",
    "28P01": "no_permission",
    "3D000": "no_connection",
    "40001": "busy",
    "40003": "busy",
    "40P01": "busy",
    "42501": "no_permission",
    "53000": "busy",
    "53100": "disk_full",
    "53200": "out_of_memory",
    "53300": "busy",
    "55006": "busy",
    "55P03": "busy",
    "57014": "busy",
    "57P01": "no_connection",
    "57P02": "no_connection",
    "57P03": "no_connection",
    "58000": "disk_error",
    "58030": "disk_error",
    "58P01": "disk_error",
    "XX001": "corrupt",
    "XX002": "corrupt",
    "23505": None,
    "42601": None,
    "22P02": None,
    "XX000": None,
    "": None,
}

ERRNOS = {
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EFBIG: "disk_full",
    errno.EIO: "disk_error",
    errno.EROFS: "read_only",
    errno.EMFILE: "too_many_files",
    errno.ENFILE: "too_many_files",
    errno.ENOMEM: "out_of_memory",
    errno.ENOENT: None,
    errno.ECONNREFUSED: None,
}


@pytest.mark.parametrize(("name", "cause"), SQLITE.items())
def test_each_error_of_sqlite_has_a_cause_or_is_our_own_mistake(name: str, cause: str | None) -> None:
    error = sqlite3.OperationalError("the words")
    error.sqlite_errorname, error.sqlite_errorcode = name, getattr(sqlite3, name)
    fault = sqlite_fault(error)
    assert (fault and fault.cause) == cause
    assert fault is None or (fault.retryable and name in fault.message and not fault.unknown)


@pytest.mark.parametrize(
    ("name", "unknown"), [("FULL", False), ("IOERR_WRITE", False), ("IOERR_FSYNC", True), ("BUSY", False)]
)
def test_only_a_commit_that_was_written_but_not_flushed_has_an_unknown_outcome(
    name: str, unknown: bool
) -> None:
    error = sqlite3.OperationalError("the words")
    error.sqlite_errorname, error.sqlite_errorcode = name, getattr(sqlite3, f"SQLITE_{name}")
    fault = sqlite_fault(error, committing=True)
    assert fault is not None
    assert fault.unknown is unknown


@pytest.mark.parametrize(("state", "cause"), SQLSTATES.items())
def test_each_sqlstate_of_the_server_has_a_cause_or_is_our_own_mistake(state: str, cause: str | None) -> None:
    assert sqlstate_cause(state) == cause


@pytest.mark.parametrize(("number", "cause"), ERRNOS.items())
def test_each_error_of_the_system_has_a_cause_or_is_something_else(number: int, cause: str | None) -> None:
    fault = system_fault(OSError(number, "words"))
    assert (fault and fault.cause) == cause


def test_every_cause_is_explained() -> None:
    used = {*SQLITE.values(), *SQLSTATES.values(), *ERRNOS.values(), *LASTING} - {None}
    assert used <= CAUSES.keys()
    fault = system_fault(MemoryError())
    assert fault is not None
    assert fault.cause == "out_of_memory"


# --- SQLite -------------------------------------------------------------------------------------------


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    database = await open_sqlite(tmp_path / "perdure.db")
    await database.write(
        lambda tx: tx.run("CREATE TABLE things (id TEXT PRIMARY KEY, text TEXT, number BIGINT, data BLOB)")
    )
    yield database
    await database.close()


def large(name: str) -> Any:
    return lambda tx: tx.run("INSERT INTO things VALUES (?, NULL, 0, ?)", name, bytes(400_000))


async def refused(what: Any, cause: str, *, unknown: bool = False) -> Unavailable:
    with pytest.raises(Unavailable) as caught:
        await soon(what)
    assert (caught.value.cause, caught.value.unknown) == (cause, unknown)
    return caught.value


async def test_on_a_full_disk_only_what_does_not_fit_fails_whoever_commits_with_it(
    embedded: SqliteDatabase,
) -> None:
    pages = embedded._writer.execute("PRAGMA page_count").fetchone()[0]
    embedded._writer.execute(f"PRAGMA max_page_count = {pages + 20}")
    bodies = [adding("a"), large("b"), adding("c"), large("d"), adding("e")]
    results = await soon(asyncio.gather(*map(embedded.write, bodies), return_exceptions=True))
    assert [getattr(result, "cause", result) for result in results] == [
        "a",
        "disk_full",
        "c",
        "disk_full",
        "e",
    ]
    assert await names(embedded) == {"a", "c", "e"}
    assert embedded.last_fault is not None
    embedded._writer.execute(f"PRAGMA max_page_count = {pages + 1000}")
    await embedded.write(large("b"))
    assert await names(embedded) == {"a", "b", "c", "e"}


async def test_a_database_that_became_read_only_can_be_read_and_is_written_again_later(
    embedded: SqliteDatabase,
) -> None:
    await embedded.write(adding("a"))
    embedded._writer.execute("PRAGMA query_only = ON")
    await refused(embedded.write(adding("b")), "read_only")
    results = await asyncio.gather(*(embedded.write(adding(name)) for name in "cd"), return_exceptions=True)
    assert [result.cause for result in results if isinstance(result, Unavailable)] == ["read_only"] * 2
    assert await names(embedded) == {"a"}
    embedded._writer.execute("PRAGMA query_only = OFF")
    await embedded.write(adding("b"))
    assert await names(embedded) == {"a", "b"}


LOST = {
    "the log is deleted": ("perdure.db-wal",),
    "the log and its index are deleted": ("perdure.db-wal", "perdure.db-shm"),
}


@pytest.mark.parametrize("gone", LOST.values(), ids=LOST)
async def test_what_was_acknowledged_outlives_a_write_ahead_log_that_is_deleted(
    embedded: SqliteDatabase, tmp_path: Path, gone: tuple[str, ...]
) -> None:
    await embedded.write(adding("before"))
    for name in gone:
        (tmp_path / name).unlink()
    acknowledged = {"before"}

    async def one_more() -> bool:
        name = f"after {len(acknowledged)}"
        try:
            await embedded.write(adding(name))
        except Unavailable as error:
            return error.cause == "moved"
        acknowledged.add(name)
        return False

    await eventually(one_more)
    assert embedded.last_fault is not None
    # The process dies now: only what is in the files is left.
    shutil.copy(tmp_path / "perdure.db", tmp_path / "copy.db")
    found = sqlite3.connect(tmp_path / "copy.db").execute("SELECT id FROM things").fetchall()
    assert {row[0] for row in found} == acknowledged
    await refused(embedded.write(adding("later")), "moved")


async def test_a_database_that_is_moved_takes_no_writes_until_it_is_back(
    embedded: SqliteDatabase, tmp_path: Path
) -> None:
    await embedded.write(adding("a"))
    here, away = tmp_path / "perdure.db", tmp_path / "away.db"
    here.rename(away)

    async def is_refused() -> bool:
        try:
            await embedded.write(lambda tx: tx.run("UPDATE things SET number = number + 1"))
        except Unavailable as error:
            return error.cause == "moved"
        return False

    await eventually(is_refused)
    away.rename(here)
    await embedded.write(adding("b"))
    assert await names(embedded) == {"a", "b"}


async def test_a_write_ahead_log_without_its_database_is_kept(tmp_path: Path) -> None:
    path, log = tmp_path / "perdure.db", tmp_path / "perdure.db-wal"
    for content in (None, b""):
        log.write_bytes(b"conversations")
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(Unavailable, match=r"put the perdure\.db back that belongs to it"):
            await open_sqlite(path)
        assert log.read_bytes() == b"conversations"


async def test_a_file_that_another_program_locks_is_unavailable_until_it_lets_go(
    embedded: SqliteDatabase, tmp_path: Path
) -> None:
    embedded._writer.execute("PRAGMA busy_timeout = 0")
    rival = sqlite3.connect(tmp_path / "perdure.db", isolation_level=None)
    rival.execute("BEGIN IMMEDIATE")
    fault = await refused(embedded.write(adding("a")), "locked")
    assert "another program" in fault.message
    rival.execute("ROLLBACK")
    rival.close()
    await embedded.write(adding("a"))
    assert await names(embedded) == {"a"}


async def test_a_damaged_page_is_unavailable_for_those_who_need_it(tmp_path: Path) -> None:
    path = tmp_path / "perdure.db"
    database = await open_sqlite(path)
    await database.write(
        lambda tx: tx.run("CREATE TABLE things (id TEXT, text TEXT, number BIGINT, data BLOB)")
    )
    await database.write(lambda tx: tx.run("CREATE TABLE others (id TEXT)"))
    await database.write(large("a"))
    root = database._reader.execute("SELECT rootpage FROM sqlite_master WHERE name = 'things'").fetchone()[0]
    await database.close()
    with path.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 4096)
    database = await open_sqlite(path)
    for long in (False, True):
        await refused(database.read(lambda tx: tx.all("SELECT * FROM things"), long=long), "corrupt")
    await refused(database.write(adding("b")), "corrupt")
    assert await database.read(lambda tx: tx.all("SELECT * FROM others")) == []
    await database.close()


async def test_a_disk_that_hangs_fails_those_who_wait_and_refuses_others_until_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "STALL_SECONDS", 0.2)
    database = await open_sqlite(tmp_path / "perdure.db")
    await database.write(
        lambda tx: tx.run("CREATE TABLE things (id TEXT, text TEXT, number BIGINT, data BLOB)")
    )
    goes_on = threading.Event()

    async def hanging(tx: Tx) -> None:
        goes_on.wait()
        await adding("a")(tx)

    try:
        await refused(database.write(hanging), "not_responding", unknown=True)
        await refused(database.write(adding("b")), "not_responding")
    finally:
        goes_on.set()
    await eventually(lambda: _answers(database))
    await database.write(adding("c"))
    assert await names(database) == {"a", "c"}
    await database.close()


async def _answers(database: Database) -> bool:
    try:
        await database.write(lambda tx: tx.run("SELECT 1"))
    except Unavailable:
        return False
    return True


async def test_a_full_disk_is_reported_by_health_checks_which_share_one_probe(
    database: Database, tmp_path: Path
) -> None:
    health = DatabaseHealth(tmp_path if database.dialect == "sqlite" else None)
    answers = await asyncio.gather(*(health.fault(database, 1) for _ in range(20)))
    assert answers == [None] * 20
    found = await database.read(lambda tx: tx.all("SELECT checked_at FROM probes"))
    assert [tuple(row) for row in found] == [(1,)]
    assert await health.fault(database, 2) is None
    assert [
        tuple(row) for row in await database.read(lambda tx: tx.all("SELECT checked_at FROM probes"))
    ] == [(1,)]


@pytest.mark.parametrize(
    ("cause", "recovers"), [("disk_full", True), ("read_only", True), ("corrupt", False)]
)
async def test_the_next_probe_tells_that_a_failure_of_writes_is_over(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: str, recovers: bool
) -> None:
    monkeypatch.setattr(app_health, "FRESH", 0.0)
    health = DatabaseHealth(tmp_path if database.dialect == "sqlite" else None)
    database.last_fault = lasting(unavailable(cause))
    fault = await health.fault(database, 1)
    assert (fault is None) == recovers
    (size,) = (await database.read(lambda tx: tx.all("SELECT LENGTH(filler) FROM probes")))[0]
    assert size == (app_health.FILLER if recovers else None)
    assert (await health.fault(database, 2) is None) == recovers
    (size,) = (await database.read(lambda tx: tx.all("SELECT LENGTH(filler) FROM probes")))[0]
    assert size is None


# --- PostgreSQL ---------------------------------------------------------------------------------------


async def test_a_server_that_became_read_only_is_unavailable_and_written_again_later(
    postgres_place: Place,
) -> None:
    admin = await asyncpg.connect(postgres_place.url)
    await admin.execute("CREATE TABLE things (id TEXT PRIMARY KEY, text TEXT, number BIGINT, data BYTEA)")
    name = await admin.fetchval("SELECT current_database()")
    await admin.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    database = await postgres_place.open()
    for single in (False, True):
        await refused(database.write(adding("a"), single=single), "read_only")
    assert await names(database) == set()
    assert database.last_fault is not None
    await admin.execute("SET default_transaction_read_only = off")
    await admin.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
    # The connections that were read-only are gone.
    await database.write(adding("a"))
    assert await names(database) == {"a"}
    await admin.close()


async def test_a_server_that_is_frozen_is_unavailable_and_closing_does_not_wait_for_it(
    postgres_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_connections, "COMMAND_SECONDS", 0.3)
    monkeypatch.setattr(postgres_connections, "CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(postgres_database, "ACQUIRE_SECONDS", 0.5)
    for module in (postgres_database, postgres_connections):
        monkeypatch.setattr(module, "CLOSE_SECONDS", 0.5)
    async with wire_to(postgres_place.url) as wire:
        database = await open_postgres(wire.url, min_size=3, max_size=3)
        await database.write(
            lambda tx: tx.run("CREATE TABLE things (id TEXT, text TEXT, number BIGINT, data BYTEA)")
        )
        wire.freeze()
        await refused(database.read(lambda tx: tx.one("SELECT 1")), "not_responding")
        await refused(database.write(adding("a")), "not_responding")
        await refused(database.write(adding("b"), single=True), "not_responding", unknown=True)
        wire.thaw()
        await soon(eventually(lambda: _answers(database)))
        await database.write(adding("c"))
        assert "c" in await names(database)
        wire.freeze()
        await refused(database.read(lambda tx: tx.one("SELECT 1")), "not_responding")
        async with asyncio.timeout(5):
            await database.close()
