"""A rotation of the master key is killed at any step: secrets stay readable, and the next rotation works."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from perdure.settings import Settings, load
from perdure.store.crypto import Vault
from perdure.store.database import Database
from perdure.store.master_key import read_key_files
from perdure.store.migrate import migrate
from perdure.wiring import open_vault
from tests.command import environment, perdure
from tests.conformance.places import open_database
from tests.crash.dying import KILLED, SURVIVED, die_at
from tests.fork_server import ROOT, fork_server
from tests.talk import when

ORG, SECRET = "org_of_the_test", "correct-horse-battery-staple"


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    url = str(request.getfixturevalue("postgres_url")) if request.param == "postgres" else ""
    return load({}, data=tmp_path, database_url=url)


def arguments(settings: Settings) -> tuple[str, ...]:
    return ("keys", "rotate-master", "--data", settings.data)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[tuple[Database, Vault]]:
    """The database and the vault as a server opens them at its start."""
    database = await open_database(settings.database_url or str(settings.data_folder / "perdure.db"))
    try:
        await migrate(database)
        yield database, await open_vault(settings, database)
    finally:
        await database.close()


async def seal(settings: Settings) -> bytes:
    async with opened(settings) as (database, vault):
        await database.write(lambda tx: vault.add_org(tx, ORG, 0))
        return await database.write(lambda tx: vault.seal(tx, ORG, SECRET, "here"))


async def check(settings: Settings, sealed: bytes) -> None:
    async with opened(settings) as (database, vault):
        assert await database.read(lambda tx: vault.open(tx, ORG, sealed, "here")) == SECRET


async def test_killed_at_any_step_with_the_key_files(settings: Settings) -> None:
    sealed = await seal(settings)
    step, seen = 0, set()
    while True:
        (before,) = read_key_files(settings.data_folder)[:1]
        step += 1
        status = await die_at(step, *arguments(settings), PERDURE_DATABASE_URL=settings.database_url)
        left = read_key_files(settings.data_folder)
        await check(settings, sealed)
        if status == SURVIVED:
            break
        assert status == KILLED
        seen.add(tuple(key == before for key in left))
        (settings.data_folder / "master.key.next").unlink(missing_ok=True)  # a key that was never in use
    # It was killed with only the old key, with both, and with only the new key in the folder.
    assert seen == {(True,), (True, False), (False,)}
    assert len(left) == 1
    assert left != [before]


async def test_killed_in_the_middle_of_its_transaction(postgres_url: str, tmp_path: Path) -> None:
    settings = load({}, data=tmp_path, database_url=postgres_url)
    sealed = await seal(settings)
    holder, looker = [await asyncpg.connect(postgres_url) for _ in range(2)]
    await holder.execute("BEGIN")
    await holder.execute("SELECT * FROM org_keys FOR UPDATE")
    process = await fork_server().start(
        arguments(settings), environment(PYTHONPATH=ROOT, PERDURE_DATABASE_URL=postgres_url), stderr=2
    )
    await when(lambda: looker.fetchval("SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted)"))
    process.send_signal(signal.SIGKILL)
    status = await process.wait()
    for connection in (holder, looker):
        await connection.close()
    assert status == KILLED
    assert len(read_key_files(tmp_path)) == 2
    await check(settings, sealed)
    done = await perdure(*arguments(settings), PERDURE_DATABASE_URL=postgres_url)
    assert done.status == 0, done.err
    await check(settings, sealed)
    assert len(read_key_files(tmp_path)) == 1
