"""PostgreSQL when connections are lost, in use or wrong: what callers are told."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from perdure.domain.errors import Unavailable
from perdure.store.database import Tx
from perdure.store.postgres import connections as postgres_connections
from perdure.store.postgres import database as postgres_database
from perdure.store.postgres.database import close_pool, is_connection_error, open_postgres
from tests.conformance.places import Place, eventually, postgres, soon, wire_to


async def test_a_commit_without_an_answer_may_have_committed(postgres_place: Place) -> None:
    async with wire_to(postgres_place.url) as wire:
        database = await open_postgres(wire.url, min_size=1, max_size=1)

        async def body(tx: Tx) -> None:
            await tx.run("CREATE TABLE lost (id TEXT)")
            await wire.cut()

        with pytest.raises(Unavailable, match="may or may not have committed"):
            await soon(database.write(body))
        await wire.mend()
        assert await soon(database.read(lambda tx: tx.one("SELECT to_regclass('lost')"))) == (None,)
        await database.close()


async def test_callers_are_told_that_all_connections_are_in_use(
    postgres_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_database, "ACQUIRE_SECONDS", 0.02)
    database = await open_postgres(postgres_place.url, min_size=1, max_size=1)

    async def body(tx: Tx) -> None:
        with pytest.raises(Unavailable, match="connections are in use"):
            await database.read(lambda other: other.one("SELECT 1"))

    await soon(database.read(body))
    await database.close()
    for use in (database.read, partial(database.write, single=True)):
        with pytest.raises(Unavailable, match="closed"):
            await use(lambda tx: tx.one("SELECT 1"))
    await database.close()


async def test_a_pool_is_closed_even_if_a_connection_is_not_given_back(
    postgres_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_connections, "CLOSE_SECONDS", 0.02)
    database = postgres(await postgres_place.open())
    pool = await database.open_pool(1)
    used = await (await pool.acquire()).fetchval("SELECT pg_backend_pid()")
    await soon(close_pool(pool))
    gone = "SELECT count(*) FROM pg_stat_activity WHERE pid = ?"
    await eventually(lambda: database.read(lambda tx: tx.one(gone, used)), lambda row: row == (0,))


async def test_a_single_write_may_follow_reads_and_a_timeout_of_the_body_is_its_own(
    postgres_place: Place,
) -> None:
    database = postgres(await postgres_place.open())
    await database.write(lambda tx: tx.run("CREATE TABLE things (id TEXT)"))

    async def body(tx: Tx) -> int:
        assert await tx.all("SELECT id FROM things") == []
        assert await tx.one("SELECT id FROM things") is None
        return await tx.run("INSERT INTO things VALUES ('a'), ('b')")

    assert await database.write(body, single=True) == 2

    async def late(tx: Tx) -> None:
        raise TimeoutError

    with pytest.raises(Unavailable, match="not respond"):
        await soon(database.read(late, seconds=60))


async def test_a_server_that_is_too_old_or_has_another_encoding_is_refused(
    postgres_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = postgres(await postgres_place.open())
    connection = await database.connect()
    latin = f"latin_{await connection.fetchval('SELECT pg_backend_pid()')}"
    await connection.execute(
        f"CREATE DATABASE {latin} TEMPLATE template0 ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'"
    )
    head, slash, name = postgres_place.url.rpartition("/")
    url = f"{head}{slash}{latin}" + (f"?{name.partition('?')[2]}" if "?" in name else "")
    with pytest.raises(Unavailable, match="encoding is LATIN1, but Perdure needs UTF8"):
        await soon(open_postgres(url, min_size=1, max_size=1))
    await connection.execute(f"DROP DATABASE {latin} WITH (FORCE)")
    await connection.close()
    monkeypatch.setattr(postgres_database, "OLDEST", 990000)
    with pytest.raises(Unavailable, match="but Perdure needs 99 or newer"):
        await soon(open_postgres(postgres_place.url, min_size=1, max_size=1))


async def test_a_url_that_names_no_server_is_told_without_its_password() -> None:
    for url, words in (
        ("postgresql://user:secret@[::1:5432/db", "Invalid IPv6 URL"),
        ("postgresql://user:secret@127.0.0.1:1/db", "cannot connect to the database at 127.0.0.1:1"),
        ("postgresql://user:secret@127.0.0.1:1/db?sslmode=odd", "must look like postgresql://"),
    ):
        with pytest.raises((Unavailable, ValueError), match=words) as caught:
            await asyncio.wait_for(open_postgres(url), 20)
        assert "secret" not in str(caught.value)


def test_an_error_of_a_statement_is_none_of_the_connection() -> None:
    assert is_connection_error(ConnectionResetError())
    assert not is_connection_error(ValueError())
