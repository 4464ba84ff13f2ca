"""Migrations run once each, whichever process starts first, on both databases."""

from __future__ import annotations

import asyncio

import pytest

from perdure.domain.errors import Unavailable
from perdure.store.database import Database, Tx
from perdure.store.migrate import WORDS, load_migrations, migrate, statements_of
from tests.conformance.other_process import other_process
from tests.conformance.places import Place, soon

ALL = [name for _, name, _ in load_migrations()]


async def columns_of(database: Database) -> set[tuple[str, str]]:
    """Return each (table, column) of our schema."""

    async def body(tx: Tx) -> set[tuple[str, str]]:
        if tx.dialect == "sqlite":
            sql = (
                "SELECT m.name, c.name FROM sqlite_master m, pragma_table_xinfo(m.name) c"
                " WHERE m.type = 'table'"
            )
        else:
            sql = (
                "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
            )
        return {(row[0], row[1]) for row in await tx.all(sql)}

    return await database.read(body)


async def test_an_empty_database_gets_every_migration_and_then_none(place: Place) -> None:
    database = await place.open()
    assert await migrate(database) == ALL
    assert await migrate(database) == []
    assert await migrate(await place.open()) == []


async def test_several_at_once_migrate_once(place: Place) -> None:
    databases = [await place.open() for _ in range(5)]
    applied = await soon(asyncio.gather(*map(migrate, databases)))
    assert sorted(applied) == [[], [], [], [], ALL]


async def test_two_processes_at_once_migrate_once(place: Place) -> None:
    async with other_process("migrate", place.url) as one, other_process("migrate", place.url) as two:
        assert [await one.line(), await two.line()] == ["ready", "ready"]
        for other in (one, two):
            assert other.process.stdin is not None
            other.process.stdin.write(b"go\n")
        assert sorted([await one.line(), await two.line()]) == sorted([",".join(ALL), "nothing"])


async def test_a_database_of_a_newer_version_is_refused(place: Place, database: Database) -> None:
    await database.write(lambda tx: tx.run("INSERT INTO migrations VALUES (9999, '9999_future.sql', 0)"))
    with pytest.raises(Unavailable, match="newer Perdure"):
        await migrate(await place.open())


async def test_both_databases_end_up_with_the_same_tables(
    place: Place, tmp_path_factory: pytest.TempPathFactory
) -> None:
    database = await place.open()
    await migrate(database)
    reference = Place("sqlite", str(tmp_path_factory.mktemp("reference") / "perdure.db"))
    await migrate(await reference.open())
    assert await columns_of(database) == await columns_of(await reference.open())
    await reference.close()


@pytest.mark.parametrize("dialect", list(WORDS))
def test_files_are_cut_into_statements_and_their_words_are_chosen(dialect: str) -> None:
    sql = "-- first; not a statement\nCREATE TABLE a (b {{blob}}); -- then\n\nINSERT INTO a VALUES ('x;y');\n"
    assert statements_of(sql, dialect) == [
        f"CREATE TABLE a (b {WORDS[dialect]['blob']})",
        "INSERT INTO a VALUES ('x;y')",
    ]
    for _, _, text in load_migrations():
        assert not any("{{" in statement for statement in statements_of(text, dialect))
