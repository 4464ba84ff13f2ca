"""The Database port on PostgreSQL.

Broken connections, slow statements, concurrent transactions, and the errors that callers get.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

import pytest

from perdure.domain.errors import Unavailable
from perdure.domain.ids import OrgId
from perdure.domain.working_for import work_for
from perdure.settings import Settings
from perdure.store.database import Tx
from perdure.store.postgres.database import open_postgres
from perdure.store.postgres.statements import numbered
from perdure.wiring import open_parts
from tests.conformance.places import Place, postgres, soon, wire_to
from tests.conformance.things import INSERT, adding, names, rows


def test_question_marks_become_numbers_except_in_quotes() -> None:
    assert numbered("SELECT ? WHERE a = '?''?' AND b = ?") == "SELECT $1 WHERE a = '?''?' AND b = $2"
    assert numbered("SELECT 1") == "SELECT 1"


async def test_connections_that_the_server_ended_are_replaced_unseen(postgres_place: Place) -> None:
    database, other = await postgres_place.open(), await postgres_place.open()
    await database.write(
        lambda tx: tx.run("CREATE TABLE things (id TEXT, text TEXT, number BIGINT, data BYTEA)")
    )
    await asyncio.gather(*(database.read(lambda tx: tx.one("SELECT 1")) for _ in range(8)))
    ended = await other.read(
        lambda tx: tx.all(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    )
    assert ended
    await soon(asyncio.gather(*(database.write(adding(f"t{number}")) for number in range(20))))
    assert len(await names(database)) == 20


async def test_a_transaction_cut_off_in_the_middle_is_run_again(postgres_place: Place) -> None:
    database, other = await postgres_place.open(), await postgres_place.open()
    await database.write(
        lambda tx: tx.run("CREATE TABLE things (id TEXT, text TEXT, number BIGINT, data BYTEA)")
    )
    runs: list[int] = []

    async def body(tx: Tx) -> None:
        await tx.run(INSERT, "a", None, 0, None)
        row = await tx.one("SELECT pg_backend_pid()")
        assert row is not None
        runs.append(row[0])
        if len(runs) == 1:
            await other.read(lambda tx: tx.one("SELECT pg_terminate_backend(?, 5000)", runs[0]))
        await tx.run(INSERT, "b", None, 0, None)

    await soon(database.write(body))
    assert len(runs) == 2
    assert await rows(database, "SELECT id FROM things") == [("a",), ("b",)]


async def test_a_single_write_is_run_again_if_the_connection_breaks_before_it(postgres_place: Place) -> None:
    database, other = await postgres_place.open(), await postgres_place.open()
    await database.write(
        lambda tx: tx.run("CREATE TABLE things (id TEXT, text TEXT, number BIGINT, data BYTEA)")
    )
    runs: list[int] = []

    async def body(tx: Tx) -> None:
        row = await tx.one("SELECT pg_backend_pid()")
        assert row is not None
        runs.append(row[0])
        if len(runs) == 1:
            await other.read(lambda tx: tx.one("SELECT pg_terminate_backend(?, 5000)", runs[0]))
        await tx.one("SELECT 1")  # as a message reads its session
        await adding("a")(tx)

    await soon(database.write(body, single=True))
    assert len(runs) == 2
    assert await names(database) == {"a"}


async def test_a_single_write_that_is_more_is_refused_before_it_does_harm(postgres_place: Place) -> None:
    database = await postgres_place.open()
    await database.write(
        lambda tx: tx.run("CREATE TABLE things (id TEXT, text TEXT, number BIGINT, data BYTEA)")
    )

    async def two(tx: Tx) -> None:
        await adding("a")(tx)
        await adding("b")(tx)

    with pytest.raises(RuntimeError, match="after its write"):
        await database.write(two, single=True)
    with pytest.raises(RuntimeError, match="one `run` or `append`"):
        await database.write(lambda tx: tx.run_many(INSERT, []), single=True)
    assert await names(database) == {"a"}


async def test_while_the_server_is_away_callers_are_told_and_later_served(postgres_place: Place) -> None:
    async with wire_to(postgres_place.url) as wire:
        database = await open_postgres(wire.url, min_size=2, max_size=4)
        await wire.cut()
        with pytest.raises(Unavailable):
            await soon(database.read(lambda tx: tx.one("SELECT 1")))
        with pytest.raises(Unavailable):
            await soon(database.write(lambda tx: tx.run("CREATE TABLE lost (id TEXT)")))
        await wire.mend()
        assert await soon(database.read(lambda tx: tx.one("SELECT to_regclass('lost')"))) == (None,)
        await database.write(lambda tx: tx.run("CREATE TABLE kept (id TEXT)"))
        await database.close()


async def test_a_deadlock_is_resolved_by_running_one_body_again(postgres_place: Place) -> None:
    database = await postgres_place.open()
    await database.write(
        lambda tx: tx.run("CREATE TABLE things (id TEXT, text TEXT, number BIGINT, data BYTEA)")
    )
    await database.write(lambda tx: tx.run_many(INSERT, [("a", None, 0, None), ("b", None, 0, None)]))
    both = asyncio.Barrier(2)
    runs: list[str] = []

    def crossing(first: str, second: str) -> Callable[[Tx], Awaitable[None]]:
        async def body(tx: Tx) -> None:
            runs.append(first)
            await tx.run("UPDATE things SET number = number + 1 WHERE id = ?", first)
            if len(runs) <= 2:
                await both.wait()
            await tx.run("UPDATE things SET number = number + 1 WHERE id = ?", second)

        return body

    await soon(asyncio.gather(database.write(crossing("a", "b")), database.write(crossing("b", "a"))))
    assert len(runs) == 3
    assert await rows(database, "SELECT number FROM things") == [(2,), (2,)]


async def test_a_statement_that_takes_too_long_is_ended_and_the_url_may_say_how_long(
    postgres_place: Place,
) -> None:
    database = await open_postgres(postgres_place.url + "?statement_timeout=50", min_size=1, max_size=1)
    with pytest.raises(Unavailable, match="too busy"):
        await soon(database.write(lambda tx: tx.one("SELECT pg_sleep(60)")))
    assert await soon(database.read(lambda tx: tx.one("SHOW statement_timeout"))) == ("50ms",)
    await database.close()


async def test_a_lock_that_is_not_let_go_makes_others_unavailable_not_stuck(postgres_place: Place) -> None:
    holder = await postgres_place.open()
    await holder.write(
        lambda tx: tx.run("CREATE TABLE things (id TEXT, text TEXT, number BIGINT, data BYTEA)")
    )
    await holder.write(adding("a"))
    rival = await open_postgres(postgres_place.url + "?lock_timeout=50", min_size=1, max_size=1)
    held, free = asyncio.Event(), asyncio.Event()

    async def holding(tx: Tx) -> None:
        await tx.one("SELECT 1 FROM things FOR UPDATE")
        held.set()
        await free.wait()

    task = asyncio.create_task(holder.write(holding))
    await soon(held.wait())
    with pytest.raises(Unavailable):
        await soon(rival.write(lambda tx: tx.run("UPDATE things SET number = 1")))
    free.set()
    await soon(task)
    assert await soon(rival.write(lambda tx: tx.run("UPDATE things SET number = 1"))) == 1
    await rival.close()


async def test_a_transaction_that_idles_is_ended_by_the_server_and_its_locks_with_it(
    postgres_place: Place,
) -> None:
    url = postgres_place.url + "?idle_in_transaction_session_timeout=50"
    database, other = await open_postgres(url, min_size=1, max_size=1), await postgres_place.open()
    await other.write(
        lambda tx: tx.run("CREATE TABLE things (id TEXT, text TEXT, number BIGINT, data BYTEA)")
    )
    await other.write(adding("a"))
    held = asyncio.Event()

    async def idling(tx: Tx) -> None:
        await tx.one("SELECT 1 FROM things FOR UPDATE")
        if not held.is_set():
            held.set()
            await other.write(lambda tx: tx.run("UPDATE things SET number = 5"))
        await tx.run("UPDATE things SET number = number + 1")

    await soon(database.write(idling))
    assert await rows(other, "SELECT number FROM things") == [(6,)]
    await database.close()


async def test_a_refused_connection_is_told_without_the_password(postgres_place: Place) -> None:
    user, _, rest = postgres_place.url.removeprefix("postgresql://").partition(":")
    address = rest.rpartition("@")[2]
    for url in (
        f"postgresql://{user}:s3cret-s3cret@{address}",
        "postgresql://u:s3cret-s3cret@127.0.0.1:1/db",
    ):
        with pytest.raises(Unavailable) as caught:
            await soon(open_postgres(url))
        assert "s3cret" not in caught.value.message
        assert caught.value.retryable


@pytest.mark.parametrize("package", ["asyncpg", "pgqueuer"])
async def test_without_a_package_the_error_says_what_to_install(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("perdure.store.postgres")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(Unavailable, match=r"perdure\[postgres\]"):
        async with open_parts(Settings(database_url="postgresql://somewhere/else")):
            raise AssertionError("the parts were put together without it")


async def test_connections_say_whose_they_are_and_leave_nothing_behind(postgres_place: Place) -> None:
    database = postgres(await postgres_place.open())
    assert await database.read(lambda tx: tx.one("SHOW application_name")) == ("perdure",)
    connection = await database.connect(application_name="other")
    assert await connection.fetchval("SHOW application_name") == "other"
    await connection.close()


async def test_work_under_way_gets_a_connection_before_requests_and_these_get_every_fourth(
    postgres_place: Place,
) -> None:
    database = await open_postgres(postgres_place.url, min_size=1, max_size=1)
    held, free, served = asyncio.Event(), asyncio.Event(), list[str]()

    async def holding(tx: Tx) -> None:
        held.set()
        await free.wait()

    async def reading(name: str, org_id: OrgId | None) -> None:
        work_for(org_id)

        async def body(tx: Tx) -> None:
            served.append(name)

        await database.read(body)

    holder = asyncio.create_task(database.read(holding))
    await soon(held.wait())
    tasks = [asyncio.create_task(reading("request", OrgId("org_1"))) for _ in range(3)]
    gone = asyncio.create_task(reading("gone", None))
    tasks += [asyncio.create_task(reading("work", None)) for _ in range(7)]
    await asyncio.sleep(0)  # all of them wait by now
    gone.cancel()
    free.set()
    await soon(asyncio.gather(holder, *tasks))
    assert served == [*["work"] * 3, "request", *["work"] * 3, "request", "work", "request"]
    assert await soon(asyncio.wait([gone]))
    await soon(asyncio.gather(*(database.read(lambda tx: tx.one("SELECT 1")) for _ in range(5))))
    await database.close()
