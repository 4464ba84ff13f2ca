"""Migrations run once each, whichever process starts first, on both databases."""

from __future__ import annotations

import asyncio

import pytest

from perdure.domain.errors import Unavailable
from perdure.store.database import Database, Tx
from perdure.store.migrate import WORDS, digest_of, load_migrations, migrate, statements_of
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
    await database.write(
        lambda tx: tx.run("INSERT INTO migrations (number, name, applied_at) VALUES (9999, '9999_x.sql', 0)")
    )
    with pytest.raises(Unavailable, match=r"migration 9999.*newer Perdure"):
        await migrate(await place.open())


async def test_each_applied_migration_is_recorded_with_the_digest_of_its_file(
    place: Place, database: Database
) -> None:
    async def recorded() -> dict[int, str | None]:
        return dict(await database.read(lambda tx: tx.all("SELECT number, digest FROM migrations")))

    expected = {number: digest_of(sql) for number, _, sql in load_migrations()}
    assert await recorded() == expected
    # A version without digests has applied it: the next migration records all of them.
    await database.write(lambda tx: tx.run("UPDATE migrations SET digest = NULL"))
    assert await migrate(await place.open()) == []


async def test_a_migration_that_was_edited_after_it_was_applied_is_refused_by_name(
    place: Place, database: Database
) -> None:
    await database.write(lambda tx: tx.run("UPDATE migrations SET digest = 'ab' WHERE number = 3"))
    with pytest.raises(Unavailable, match=r"another version of the migration 0003_bound_tokens\.sql"):
        await migrate(await place.open())


@pytest.mark.parametrize(
    "change",
    ["CREATE TABLE sessions (id INTEGER)", "CREATE TABLE migrations (id INTEGER)"],
    ids=["a table of ours", "migrations of its own"],
)
async def test_a_database_of_another_program_is_refused_and_stays_as_it_is(place: Place, change: str) -> None:
    database = await place.open()
    await database.write(lambda tx: tx.run(change))
    before = await columns_of(database)
    with pytest.raises(Unavailable, match=r"cannot be migrated.*Something else than Perdure"):
        await migrate(database)
    assert await columns_of(database) == before


async def test_a_database_without_digests_that_lacks_a_table_is_refused_and_stays_as_it_is(
    place: Place,
) -> None:
    database = await place.open()
    first = load_migrations()[0]

    async def old(tx: Tx) -> None:
        await tx.run(
            "CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL,"
            " applied_at BIGINT NOT NULL)"
        )
        await tx.run("INSERT INTO migrations VALUES (1, ?, 0)", first[1])
        for statement in statements_of(first[2], tx.dialect):
            await tx.run(statement)
        await tx.run("DROP TABLE sealing")

    await database.write(old)
    before = await columns_of(database)
    with pytest.raises(Unavailable, match=r"0001_core\.sql \(the table sealing is missing\)"):
        await migrate(await place.open())
    assert await columns_of(database) == before


RELEASED = {
    1: "c12f77d5e86dd0d6b82bd3d5c0b7a70099cbb81954eb3ff62ff6005908cc96e6",
    2: "67d37b97e24a9e12a4a9ac3d66e470a75c3bf275af627dbb14c7cdd73dfba6f6",
    3: "4b1d9820a2b5cc4fb9b8c9d8134b77b828e3d04fac6e6c513decf13a2018443a",
    4: "2a0a034254166a136542ec0761fdf804806652b7e5a90b0411d28ca178ea9bff",
    5: "c1979d26aedccb66ce8016d7c4b70156b4b655a3850e2702f6da89259b542961",
    6: "ffe857bd00826a493a699009ec07e32903292a9370b59c25bfba8712a3fe4ab9",
    7: "4cd40e2c9190a19a1cda3c7b19e2f77d6c9e2f2c661dfa876d40c7c352f77c98",
    8: "13f3df6a78a9a449567ede4c4ba3ed46ae68326a38382dc32210c3ee427bd665",
    9: "e79c73ad83bf02d3585cf280f5dd6b999be5e26e0aeebc3edbd6589851f68303",
    10: "2b6c690a870eb3544e6e72d31324082fab9d3315adf611be679c5998ea137104",
    11: "f4bc8a1edf73c2f955c5673b01a8d0e698ad04383e598230cf0beab894b770b8",
    12: "5e0c56921ff9f0b07d2d6218e92074be8bbb069dc2cf3d49831513e446d08371",
    13: "c138f752c42bffd4932f8e21e75b3ab4d1cc84072e8b0d919283aced4bbb53cd",
    14: "5a1f88d00dfa1322f3b083fec15873cb741651f6a5cc3240bb56306650991315",
    15: "23a4011404cf6e9dd30633100548bf0b3415018c3edf64c6cdb0759062332f08",
    16: "2abf1477bc7f5286f01eaa11a30766cad1ecbe3529f250309dd63d59f86212e0",
    17: "c98daa874a35209fc6b8e5035c9de594123b7909204e4de1b1378bc6242a1fe5",
    18: "234f8953202fe9955409260fe62cf113ec026e245c78e522955c58588f66bca2",
    19: "d746098bb8636b05669107c335999ca4215e0794f372ff9c6b75fb5095c33765",
    20: "150564800c0a724a47fd0982bf4dc2ed16f41bcc282296cad1f3182650e777eb",
    21: "f2f19774d7d220f2288ee2913ad64b26203fc43fe22af68c5e37f86ad7ff76a1",
    22: "e0a4c582356bedd69db72f345f366bfebb64a71b3731afe749a16a0f6a56dcb5",
    23: "90c076d3fa18787beeb40a78cea81aa9d32943a75a57d1b9b1ed66f2399bb7e5",
    24: "7e2fc24a5cb8d7dca1a9fe6cc757cdb77de7a08fb75deee465f1b26d403abbd3",
    25: "d1027b1d56c6061435c3c827d198eb72893e4811a1cd461c777717bfe6b76905",
    26: "ddbeb1e5faefc4c765b35bd5302d2a9b3ae911e8c287c03d2b5cdf1d50993bf6",
    27: "523a502e1fd1dce5e8b2c7392c9e0caa5a549c7dedc5e6473e1a94e9c9377319",
    28: "f12c55cb3c7c14c7ec65512570b544b65985611491c2997069877ebb91267ee1",
    29: "b38f10a656a72c8b5cbae6969dde5318048126ba1c9134e2fb065944ee1088af",
    30: "269451cfcd363a36c596250e98abaf5cb01fa96157c7d363c642e5cfff626a0d",
    31: "aa058fe665b8c853318abb0f392541f1e030369f6337820287fbad3d34fc2fff",
    32: "8b5f5b9b94fef3b881a4c4c4449d81ad42853541f350ea793c857a17868912ef",
    34: "1b0421bd9778d6f36a28d038dc1ffada1087a7d83756f270427613d0a5e9de54",
    35: "c9662035ae3a66d1ed64be6e3d329236a51c278086e16edbab6c685aea0bbe09",
    36: "59bd61392471a644a00ee68d0f3ee55cc84819668c00668e8debf3f6de86e43e",
    37: "e889856debf3f0b12db1546ce48097ebee2b35ac8259f6aac846b29962c85977",
    38: "93240627218b4ea8dd3b33b3ed8254d6b8d862bb9625f07eabb0ba856758fcea",
    40: "433c7053bcb9dd011ba3d4e3c5aa436d640bd7e6da1b46ba49b9a59020762c31",
    43: "d938c46594b4b9cdca6e2eff01a9f5792627eed3a52de4f7affcdbff1ccad4bc",
    45: "9dba1349e4b5d8b80bdbe0c9f13e7491243321caf038d7d2bc7f63a87100621f",
    46: "db70514a40d2fa8e29dcf5f5d8b9f72b21fe279e4ef1742726ae2199c370953b",
    47: "d8fd84a34360bdb48ee5ba8683d1558e40834f66153c739b4b2de570e6d9da93",
    48: "e79e9c24b404ee681ec099c615ee603a4e84431fd5a3648f943c94e85db89b3e",
}
"""The digest of each migration that landed. One that landed is never edited: write a new one. A new one gets
its line here."""


def test_a_migration_that_landed_is_never_edited() -> None:
    files = {number: digest_of(sql) for number, _, sql in load_migrations()}
    added = "".join(f'    {number}: "{files[number]}",\n' for number in files if number not in RELEASED)
    assert not added, f"add to RELEASED:\n{added}"
    assert files == RELEASED


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


async def test_answers_that_were_marked_in_the_id_of_the_session_are_moved_to_the_column(
    place: Place,
) -> None:
    database = await place.open()
    *earlier, newest = [each for each in load_migrations() if each[0] <= 13]

    async def before(tx: Tx) -> None:
        await tx.run(
            "CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL,"
            " applied_at BIGINT NOT NULL)"
        )
        for number, name, sql in earlier:
            for statement in statements_of(sql, tx.dialect):
                await tx.run(statement)
            await tx.run("INSERT INTO migrations (number, name, applied_at) VALUES (?, ?, 0)", number, name)
        for session_id, hash_, deadline in (
            ("session_1", "open", 900),
            ("answered:session_1", "answer:1", 500),
        ):
            await tx.run(
                "INSERT INTO callbacks (id, org_id, session_id, hash, turn_id, exec_id, tool_call_id,"
                " tool_name, in_background, created_at, deadline)"
                " VALUES (?, 'o', ?, ?, 't', 'e', 'c', 'order', 0, 1, ?)",
                hash_,
                session_id,
                hash_,
                deadline,
            )

    await database.write(before)
    assert newest[1] in await migrate(database)
    found = await database.read(
        lambda tx: tx.all("SELECT hash, session_id, answered_at FROM callbacks ORDER BY hash")
    )
    assert [tuple(row) for row in found] == [
        ("answer:1", "session_1", 500),
        ("open", "session_1", None),
    ]
