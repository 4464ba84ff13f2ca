"""The Database port: first what holds for both databases, then what is specific to each."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from perdure.domain.errors import Fenced, InvalidInput, Unavailable
from perdure.store.database import LOCK_ROW, Database, Rows, Tx, merged
from perdure.store.migrate import WORDS
from perdure.store.sqlite import open_sqlite
from tests.conformance.places import Place, soon
from tests.conformance.things import INSERT, adding, names, rows

MOVE = "UPDATE heads SET head = ?, note = ? WHERE id = ? AND head = ?"
LOG = "INSERT INTO log (id, sequence, text, data, note)"


@pytest.fixture
async def store(place: Place) -> Database:
    """A database with a few plain tables."""
    database = await place.open()
    blob = WORDS[database.dialect]["blob"]

    async def body(tx: Tx) -> None:
        await tx.run(f"CREATE TABLE things (id TEXT PRIMARY KEY, text TEXT, number BIGINT, data {blob})")
        await tx.run("CREATE TABLE heads (id TEXT PRIMARY KEY, head BIGINT NOT NULL, note TEXT)")
        await tx.run(
            f"CREATE TABLE log (id TEXT NOT NULL, sequence BIGINT NOT NULL, text TEXT NOT NULL, data {blob},"
            " note TEXT, PRIMARY KEY (id, sequence))"
        )

    await database.write(body)
    return database


async def test_what_a_transaction_wrote_is_read_afterwards_by_everybody(
    store: Database, place: Place
) -> None:
    assert await store.write(adding("a", 7)) == "a"
    other = await place.open()
    for database in (store, other):
        assert await rows(database, "SELECT id, number FROM things") == [("a", 7)]
        assert await database.read(lambda tx: tx.one("SELECT 1 FROM things WHERE id = ?", "b")) is None


async def test_a_body_that_raises_changes_nothing(store: Database) -> None:
    with pytest.raises(InvalidInput, match="no good"):
        await store.write(adding("a", then=InvalidInput("no good")))
    assert await names(store) == set()


async def test_a_statement_that_fails_undoes_its_whole_transaction(store: Database) -> None:
    await store.write(adding("a"))

    async def body(tx: Tx) -> None:
        await tx.run(INSERT, "b", None, 0, None)
        await tx.run(INSERT, "a", None, 0, None)

    with pytest.raises(Exception, match=r"(?i)unique"):
        await store.write(body)
    assert await names(store) == {"a"}


async def test_transactions_that_fail_do_not_hurt_those_beside_them(store: Database) -> None:
    trouble = [InvalidInput("no") if number % 3 == 0 else None for number in range(60)]
    bodies = [adding(f"t{number}", number, then) for number, then in enumerate(trouble)]
    results = await soon(asyncio.gather(*map(store.write, bodies), return_exceptions=True))
    for number, result in enumerate(results):
        assert isinstance(result, InvalidInput) if number % 3 == 0 else result == f"t{number}"
    assert await names(store) == {f"t{number}" for number in range(60) if number % 3}


async def test_rivals_for_a_row_lose_no_update(store: Database) -> None:
    await store.write(adding("counter", 0))

    async def body(tx: Tx) -> None:
        row = await tx.one("SELECT number FROM things WHERE id = ?" + LOCK_ROW[tx.dialect], "counter")
        assert row is not None
        await tx.run("UPDATE things SET number = ? WHERE id = ?", row[0] + 1, "counter")

    await soon(asyncio.gather(*(store.write(body) for _ in range(50))))
    assert await rows(store, "SELECT number FROM things") == [(50,)]


async def test_a_call_after_the_commit_finds_it_durable(store: Database, place: Place) -> None:
    other = await place.open()
    seen: asyncio.Queue[set[str]] = asyncio.Queue()
    tasks: set[asyncio.Task[None]] = set()

    async def look() -> None:
        seen.put_nowait(await names(other))

    async def body(tx: Tx) -> None:
        tx.after_commit(lambda: tasks.add(asyncio.create_task(look())))
        await tx.run(INSERT, "a", None, 0, None)

    await store.write(body)
    assert await soon(seen.get()) == {"a"}


async def test_a_call_after_the_commit_is_not_made_when_there_is_none(store: Database) -> None:
    calls: list[str] = []

    async def body(tx: Tx) -> None:
        tx.after_commit(lambda: calls.append("failed"))
        raise InvalidInput("no")

    async def good(tx: Tx) -> None:
        await tx.run(INSERT, "a", None, 0, None)
        tx.after_commit(lambda: calls.append("first"))
        tx.after_commit(lambda: calls.append("second"))

    results = await asyncio.gather(store.write(body), store.write(good), return_exceptions=True)
    assert isinstance(results[0], InvalidInput)
    assert calls == ["first", "second"]


async def test_a_call_after_the_commit_that_fails_spoils_nothing(
    store: Database, caplog: pytest.LogCaptureFixture
) -> None:
    called = asyncio.Event()

    def fail() -> None:
        raise ValueError("spoilt")

    async def body(tx: Tx) -> str:
        tx.after_commit(fail)
        tx.after_commit(called.set)
        await tx.run(INSERT, "a", None, 0, None)
        return "done"

    assert await soon(asyncio.gather(store.write(body), store.write(adding("b")))) == ["done", "b"]
    assert called.is_set()
    assert "spoilt" in caplog.text


async def test_a_cancelled_caller_leaves_a_whole_transaction(store: Database) -> None:
    done = asyncio.Event()

    async def body(tx: Tx) -> None:
        for number in range(10):
            await tx.run(INSERT, f"t{number}", None, number, None)
        tx.after_commit(done.set)

    task = asyncio.create_task(store.write(body))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await soon(done.wait())
    assert len(await names(store)) == 10


async def test_a_write_that_fails_after_its_caller_was_cancelled_complains_to_nobody(store: Database) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    async def body(tx: Tx) -> None:
        begun.set()
        await tx.run(INSERT, "t", None, 1, None)
        ended.set()
        raise Fenced("taken over")

    task = asyncio.create_task(store.write(body))
    await soon(begun.wait())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await soon(ended.wait())
    running = {each: each.get_coro().__qualname__ for each in asyncio.all_tasks()}  # type: ignore[union-attr]
    if writes := [each for each, name in running.items() if name.endswith("._write")]:
        await asyncio.wait(writes)
    assert not await names(store)
    del writes
    gc.collect()
    assert complaints == []


async def appending(tx: Tx, expected: int, texts: list[str], note: str | None = None) -> bool:
    head = expected + len(texts)
    new = [("s", expected + place, text, text.encode(), note) for place, text in enumerate(texts, 1)]
    return await tx.append(MOVE, (head, note, "s", expected), Rows(LOG, new))


async def test_an_append_moves_the_head_and_adds_its_rows_in_order(store: Database) -> None:
    await store.write(lambda tx: tx.run("INSERT INTO heads VALUES ('s', 0, NULL)"))
    assert await store.write(lambda tx: appending(tx, 0, ["a?", "b'"]))
    assert await store.write(lambda tx: appending(tx, 2, ["c"], "what is ?"))
    assert await rows(store, "SELECT * FROM heads") == [("s", 3, "what is ?")]
    assert await rows(store, "SELECT * FROM log ORDER BY sequence") == [
        ("s", 1, "a?", b"a?", None),
        ("s", 2, "b'", b"b'", None),
        ("s", 3, "c", b"c", "what is ?"),
    ]


async def test_an_append_that_names_another_head_adds_nothing(store: Database) -> None:
    await store.write(lambda tx: tx.run("INSERT INTO heads VALUES ('s', 0, NULL)"))
    assert not await store.write(lambda tx: appending(tx, 1, ["a"]))
    assert not await store.write(lambda tx: appending(tx, 1, []))
    assert await rows(store, "SELECT * FROM heads") == [("s", 0, None)]
    assert await rows(store, "SELECT * FROM log") == []


async def test_an_append_without_rows_is_the_guarded_update(store: Database) -> None:
    await store.write(lambda tx: tx.run("INSERT INTO heads VALUES ('s', 0, NULL)"))
    assert await store.write(lambda tx: appending(tx, 0, [], "seen"))
    assert await rows(store, "SELECT * FROM heads") == [("s", 0, "seen")]


@pytest.mark.parametrize("more", [1, 20])
async def test_an_append_adds_to_rows_that_are_there(store: Database, more: int) -> None:
    await store.write(lambda tx: tx.run("INSERT INTO heads VALUES ('s', 0, NULL)"))
    await store.write(lambda tx: tx.run(INSERT, "0", "old", 1, None))
    added = " ON CONFLICT (id) DO UPDATE SET number = things.number + excluded.number"

    async def body(tx: Tx) -> bool:
        new = [(str(place), "new", 5) for place in range(more)]
        things = Rows("INSERT INTO things (id, text, number)", new, added)
        return await tx.append(MOVE, (1, None, "s", 0), Rows(LOG, [("s", 1, "a", b"", None)]), things)

    assert await store.write(body, single=True)
    found = await rows(store, "SELECT id, text, number FROM things ORDER BY LENGTH(id), id")
    assert found == [("0", "old", 6), *((str(place), "new", 5) for place in range(1, more))]


def test_rows_of_one_table_are_inserted_together() -> None:
    found = merged([Rows("a", [(1,)]), Rows("b", [(2,)]), Rows("a", [(3,)]), Rows("a", [(4,)], " x")])
    assert found == [Rows("a", [(1,), (3,)]), Rows("b", [(2,)]), Rows("a", [(4,)], " x")]


async def test_a_single_write_is_an_append_like_any_other(store: Database) -> None:
    await store.write(lambda tx: tx.run("INSERT INTO heads VALUES ('s', 0, NULL)"), single=True)
    called: list[int] = []

    async def body(tx: Tx) -> int | None:
        if await appending(tx, 0, ["a", "b"]):
            tx.after_commit(lambda: called.append(1))
            return None
        row = await tx.one("SELECT head FROM heads")
        assert row is not None
        return int(row[0])

    assert await store.write(body, single=True) is None
    assert await store.write(body, single=True) == 2
    assert called == [1]
    assert await rows(store, "SELECT sequence FROM log ORDER BY sequence") == [(1,), (2,)]


async def test_fifty_writers_at_once_leave_a_log_without_a_gap(store: Database) -> None:
    await store.write(lambda tx: tx.run("INSERT INTO heads VALUES ('s', 0, NULL)"))

    async def writer(me: int) -> None:
        for turn in range(4):
            texts = [f"{me}/{turn}/{part}" for part in range(1 + turn % 3)]
            while True:
                head = (await rows(store, "SELECT head FROM heads"))[0][0]
                if await store.write(
                    lambda tx, head=head, texts=texts: appending(tx, head, texts), single=turn % 2 == 0
                ):  # type: ignore[misc]
                    break

    await soon(asyncio.gather(*map(writer, range(50))))
    log = await rows(store, "SELECT sequence, text FROM log ORDER BY sequence")
    assert [sequence for sequence, _ in log] == list(range(1, 50 * 7 + 1))
    assert await rows(store, "SELECT head FROM heads") == [(350,)]
    assert {text for _, text in log} == {
        f"{me}/{t}/{p}" for me in range(50) for t in range(4) for p in range(1 + t % 3)
    }
    # The events of one append are contiguous and in order.
    places = {text: sequence for sequence, text in log}
    assert all(
        places[f"{me}/2/{part}"] == places[f"{me}/2/0"] + part for me in range(50) for part in range(3)
    )


TEXTS = [
    "",
    "plain",
    'it\'s a "quoted" \\ ? % _ $1 text\r\n\t',
    "Grüße, 世界, мир, עולם, \U0001f600\N{FAMILY}\N{MUSICAL SYMBOL G CLEF}e\N{COMBINING ACUTE ACCENT}\ufeff",
    json.dumps({"nul": "a\0b", "escape": "\x1b", "high": "\N{GRINNING FACE}"}),
    "\x01\x1f\x7f\x85\u2028\ufffd\uffff\U0010ffff",
    "x" * 3_000_000,
]


async def test_texts_and_bytes_come_back_as_they_were(store: Database) -> None:
    blobs = [b"", bytes(range(256)) * 8_000, None]
    numbers = [0, -1, 2**62, -(2**63), None]
    written = [
        (f"t{place}", TEXTS[place], numbers[place % len(numbers)], blobs[place % len(blobs)])
        for place in range(len(TEXTS))
    ]
    await store.write(lambda tx: tx.run_many(INSERT, written))
    assert await rows(store, "SELECT id, text, number, data FROM things ORDER BY id") == written
    for _, text, _, _ in written:
        assert await rows(store, "SELECT COUNT(*) FROM things WHERE text = ?", text) == [(1,)]


async def test_statements_tell_how_many_rows_they_touched(store: Database) -> None:
    async def body(tx: Tx) -> list[Any]:
        await tx.run_many(INSERT, [(f"t{number}", "?", number, None) for number in range(5)])
        return [
            await tx.run("UPDATE things SET text = 'why?' WHERE number >= ?", 2),
            await tx.run(INSERT + " ON CONFLICT (id) DO NOTHING", "t1", None, 1, None),
            await tx.run(
                INSERT + " ON CONFLICT (id) DO UPDATE SET number = excluded.number", "t1", None, 9, None
            ),
            await tx.run("DELETE FROM things WHERE number > ?", 100),
            [tuple(row) for row in await tx.all("DELETE FROM things WHERE number = ? RETURNING id, text", 9)],
        ]

    assert await store.write(body) == [3, 0, 1, 0, [("t1", "?")]]


async def test_a_long_read_sees_the_same(store: Database) -> None:
    await store.write(adding("a"))
    # One body, read in two ways.
    body: Callable[[Tx], Awaitable[Any]] = lambda tx: tx.one("SELECT id FROM things")  # noqa: E731
    for found in await asyncio.gather(*(store.read(body, long=number % 2 == 0) for number in range(8))):
        assert tuple(found) == ("a",)


async def test_closing_finishes_what_was_begun_and_refuses_the_rest(store: Database, place: Place) -> None:
    writes = [asyncio.create_task(store.write(adding(f"t{number}"))) for number in range(20)]
    await asyncio.sleep(0)
    await soon(store.close())
    await soon(asyncio.gather(*writes))
    await store.close()
    with pytest.raises(Unavailable):
        await store.write(adding("late"))
    with pytest.raises(Unavailable):
        await names(store)
    assert len(await names(await place.open())) == 20


# --- SQLite
# ---------------------------------------------------------------------------------------------------------


async def test_a_file_that_is_no_database_is_refused_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "perdure.db"
    path.write_bytes(b"something else entirely, and long enough to be looked at" * 100)
    with pytest.raises(Unavailable, match=r"perdure\.db"):
        await open_sqlite(path)


async def test_a_new_file_is_only_its_owners(tmp_path: Path) -> None:
    database = await open_sqlite(tmp_path / "data" / "perdure.db")
    await database.close()
    assert (tmp_path / "data" / "perdure.db").stat().st_mode & 0o077 == 0


async def test_a_body_that_waits_for_something_else_is_refused_on_sqlite(tmp_path: Path) -> None:
    database = await open_sqlite(tmp_path / "perdure.db")

    async def body(tx: Tx) -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="await nothing but its transaction"):
        await database.write(body)
    await database.close()
