"""Searches of sessions by title, tag and agent, with and without the index, on both databases."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence
from functools import partial

import pytest
from msgspec.structs import replace

from perdure.domain.ids import new_id
from perdure.store.database import Database, Tx
from perdure.store.pins import set_pin
from perdure.store.rows import insert, to_json, values
from perdure.store.search import SEGMENT, add_segment, last_segment, read_unsorted, sort_terms, thin_segments
from perdure.store.session_changes import update_session
from perdure.store.session_counts import count_sessions
from perdure.store.session_deletion import mark_deleted, purge_deleted
from perdure.store.session_lists import COUNTED, EXACT, FAR, SessionFilter, list_sessions
from perdure.store.sessions import SessionRow, get_session
from perdure.worker.sorter import Sorter, sort_sessions
from tests.conformance.places import PATIENCE, eventually, soon

ORG, OTHER, OWNER, AGENT = new_id("org"), new_id("org"), new_id("user"), new_id("agent")
NOW = 1_700_000_000_000_000
WORDS = (
    "amber", "Birch", "CEDAR", "Ärger", "ΑΣΑ", "straße", "日本語", "東京", "\U0001f469\u200d\U0001f467",
    "e\u0301te", "שלום", "مرحبا", "50%", "a_b", "!x!", "\U0001d518n", "ﬁn", "\u200b", "İstanbul", "x",
)  # fmt: skip


def session(
    number: int, title: str | None, tags: Sequence[str] = (), org_id: str = ORG, agent_id: str | None = None
) -> SessionRow:
    return SessionRow(
        new_id("session"),
        org_id,
        OWNER,
        new_id("harness"),
        agent_id,
        title,
        to_json(tags),
        None,
        None,
        "{}",
        None,
        None,
        NOW + number,
        NOW + number,
        None,
        0,
        0,
        -1,
        0,
        "idle",
        None,
        0,
        None,
        None,
        None,
        None,
        None,
        None,
    )


async def keep(database: Database, rows: Sequence[SessionRow]) -> None:
    async def body(tx: Tx) -> None:
        await tx.run_many(insert("sessions", SessionRow), [values(row) for row in rows])
        for org_id, mine in itertools.groupby(rows, lambda row: row.org_id):
            await count_sessions(tx, org_id, len(list(mine)))

    await database.write(body)


async def found(database: Database, want: SessionFilter, org_id: str = ORG) -> tuple[list[str], int]:
    """Read all matches, page by page; return them and the total of the first page."""

    async def page(offset: int) -> tuple[list[str], int]:
        rows, total = await database.read(lambda tx: list_sessions(tx, org_id, want, offset, 97))
        return [row.id for row in rows], total

    ids, first = await page(0)
    total = first
    while len(ids) < total:
        more, total = await page(len(ids))
        assert more
        ids += more
    return ids, first


class Oracle:
    """Return what a search must find, by checking each session."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def check(self, *wants: SessionFilter) -> None:
        async def look(tx: Tx) -> list[tuple[str, str | None, str, str | None]]:
            rows = await tx.all(
                "SELECT id, title_folded, tags, agent_id FROM sessions"
                " WHERE org_id = ? AND deleted_at IS NULL ORDER BY created_at DESC, id DESC",
                ORG,
            )
            return [(row[0], row[1], row[2], row[3]) for row in rows]

        rows = await self._database.read(look)
        for want in wants:
            folded = None
            if want.search is not None:
                text = want.search
                row = await self._database.read(
                    lambda tx, text=text: tx.one("SELECT LOWER(CAST(? AS TEXT))", text)
                )  # type: ignore[misc]
                folded = row[0]
            expected = [
                session_id
                for session_id, title, tags, agent_id in rows
                if (folded is None or (title is not None and folded in title))
                and all(to_json(tag) in tags for tag in want.tags)
                and want.agent_id in (None, agent_id)
            ]
            ids, total = await found(self._database, want)
            assert ids == expected, want
            assert total == len(expected) if len(expected) <= EXACT else total == EXACT + 1, want


def drawn(pick: random.Random, number: int) -> SessionRow:
    title = None if pick.random() < 0.1 else " ".join(pick.choices(WORDS, k=pick.randint(1, 4)))
    tags = pick.sample(("red", "Red", 'say "so"', "50%", "größe"), pick.randint(0, 2))
    return session(number, title, tags, agent_id=AGENT if number % 700 == 0 else None)


def searches(pick: random.Random) -> list[SessionFilter]:
    texts = [pick.choice(WORDS) for _ in range(4)]
    texts += [" ".join(pick.choices(WORDS, k=2)) for _ in range(4)]
    texts += [
        "日",
        "本語",
        "京 東",
        "X",
        "E",
        "STRASSE",
        "strasse",
        "%",
        "_b",
        "qqqq",
        "a",
        "\u0301",
        "ber bir",
        "amber birch cedar",
    ]
    return [
        *(SessionFilter(search=text) for text in texts),
        *(SessionFilter(tags=tags) for tags in (("red",), ("Red", "50%"), ('say "so"',), ("re",))),
        SessionFilter(search="amber", tags=("red",)),
        SessionFilter(search="mbe", agent_id=AGENT),
        SessionFilter(tags=("red",), agent_id=AGENT),
    ]


@pytest.mark.unmeasured  # the other tests measure the same code
async def test_a_search_finds_the_same_before_and_after_sorting_and_after_every_change(
    database: Database,
) -> None:
    pick, oracle = random.Random(11), Oracle(database)
    rows = [
        drawn(pick, number // 2) for number in range(2 * SEGMENT + 300)
    ]  # two at a time at the same microsecond
    await keep(database, rows)
    await oracle.check(*searches(pick))
    assert await sort_sessions(database, rest=0) == 2
    await oracle.check(*searches(pick))

    async def change(tx: Tx) -> None:
        for number, row in enumerate(pick.sample(rows, 400)):
            if number % 4 == 0:
                await mark_deleted(tx, row, NOW)
            elif number % 4 == 1:
                await update_session(tx, row, {"tags": to_json(["red", "new"])}, NOW)
            else:
                await update_session(tx, row, {"title": pick.choice([*WORDS, None])}, NOW)

    await database.write(change)
    await oracle.check(*searches(pick), SessionFilter(tags=("new",)))
    await keep(database, [drawn(pick, 10_000 + number) for number in range(SEGMENT)])
    assert await sort_sessions(database, rest=0) == 1
    await oracle.check(*searches(pick), SessionFilter(tags=("new",)))


async def test_an_old_session_that_got_its_title_late_stands_where_its_age_says(database: Database) -> None:
    rows = [session(number, "plain") for number in range(2 * SEGMENT)]
    await keep(database, rows)
    await sort_sessions(database, rest=0)
    late = [rows[5], rows[SEGMENT + 5]]

    async def rename(tx: Tx) -> None:
        for row in late:
            await update_session(tx, row, {"title": "a rarity"}, NOW)

    await database.write(rename)
    newer = [
        session(10_000 + number, "a rarity" if number % 1000 == 0 else "plain") for number in range(SEGMENT)
    ]
    await keep(database, newer)
    assert await sort_sessions(database, rest=0) == 1
    expected = [newer[2000].id, newer[1000].id, newer[0].id, late[1].id, late[0].id]
    assert await found(database, SessionFilter(search="RARITY")) == (expected, 5)
    page = await database.read(lambda tx: list_sessions(tx, ORG, SessionFilter(search="plain"), 0, 100))
    assert [row.created_at for row in page[0]] == sorted((row.created_at for row in page[0]), reverse=True)


async def test_a_total_is_exact_up_to_a_bound_and_says_beyond_it_that_there_is_more(
    database: Database,
) -> None:
    await keep(
        database,
        [session(number, "often" if number < EXACT else "frequent") for number in range(SEGMENT * 2)],
    )

    async def totals(text: str, offset: int) -> tuple[int, int]:
        rows, total = await database.read(
            lambda tx: list_sessions(tx, ORG, SessionFilter(search=text), offset, 10)
        )
        return len(rows), total

    for _ in range(2):
        assert await totals("often", 0) == (10, EXACT)
        assert await totals("frequent", 0) == (10, EXACT + 1)
        assert await totals("frequent", 2000) == (10, 2011)
        assert await totals("frequent", SEGMENT * 2 - EXACT - 5) == (5, SEGMENT * 2 - EXACT)
        assert await totals("frequent", 5000) == (0, SEGMENT * 2 - EXACT)
        await sort_sessions(database, rest=0)


@pytest.mark.parametrize("want", [SessionFilter(), SessionFilter(created_after=-1)], ids=["all", "some"])
async def test_pages_far_back_hold_what_stands_there_from_whichever_end_they_are_counted(
    database: Database, want: SessionFilter
) -> None:
    count = 2 * FAR + 500
    rows = [session(number, "plain") for number in range(count)]
    await keep(database, [*rows, replace(rows[0], id=new_id("session"), org_id=OTHER)])
    ids, total = await found(database, want)
    assert (ids, total) == ([row.id for row in reversed(rows)], count)
    for offset in (FAR + 1, count // 2, count - 97, count - 1, count, count + 1, count * 2):
        slice_ = partial(list_sessions, org_id=ORG, filters=want, offset=offset, limit=97)
        page, told = await database.read(slice_)
        assert ([row.id for row in page], told) == (ids[offset : offset + 97], count)


@pytest.mark.parametrize("want", [SessionFilter(), SessionFilter(created_after=-1)], ids=["all", "some"])
async def test_beyond_what_is_counted_a_total_says_that_there_is_more_and_pages_go_on(
    database: Database, want: SessionFilter
) -> None:
    count = COUNTED + 300
    rows = [session(number, "plain") for number in range(count)]
    await keep(database, rows)
    ids = [row.id for row in reversed(rows)]
    for offset in (0, FAR + 1, COUNTED - 97, COUNTED, count - 97, count - 1, count + 1):
        slice_ = partial(list_sessions, org_id=ORG, filters=want, offset=offset, limit=97)
        page, told = await database.read(slice_)
        enough = count if want == SessionFilter() else min(count, max(offset + 97, COUNTED) + 1)
        assert ([row.id for row in page], told) == (ids[offset : offset + 97], enough)


async def test_a_search_meets_no_other_organization(database: Database) -> None:
    await keep(database, [session(number, "ours") for number in range(SEGMENT)])
    await keep(database, [session(number, "theirs", org_id=OTHER) for number in range(SEGMENT)])
    assert await sort_sessions(database, rest=0) == 2
    for text, count, others in (("ours", EXACT + 1, 0), ("theirs", 0, EXACT + 1)):
        assert (
            await database.read(lambda tx, t=text: list_sessions(tx, ORG, SessionFilter(search=t), 0, 1))
        )[1] == count  # type: ignore[misc]
        assert (
            await database.read(lambda tx, t=text: list_sessions(tx, OTHER, SessionFilter(search=t), 0, 1))
        )[1] == others  # type: ignore[misc]


async def test_searches_are_narrowed_by_status_pin_age_and_archive_as_well(database: Database) -> None:
    rows = [session(number, "north" if number % 2 else "south") for number in range(SEGMENT + 10)]
    rows[3], rows[5] = replace(rows[3], status="active"), replace(rows[5], status="waiting_for_tool_results")
    rows[1] = replace(rows[1], title="west", archived_at=NOW)
    await keep(database, rows)
    for _ in range(2):
        await database.write(lambda tx: set_pin(tx, rows[3], OWNER, NOW))
        await database.write(lambda tx: set_pin(tx, rows[4], OWNER, NOW))
        for want, expected in (
            (SessionFilter(search="north", statuses=("active",)), [rows[3].id]),
            (SessionFilter(search="south", statuses=("active",)), []),
            (SessionFilter(statuses=("waiting_for_tool_results",)), [rows[5].id]),
            (
                SessionFilter(search="nor", statuses=("idle",), created_before=NOW + 8),
                [rows[7].id],
            ),
            (SessionFilter(search="th", pinned_by=OWNER), [rows[4].id, rows[3].id]),
            (SessionFilter(search="no", pinned_by=OWNER), [rows[3].id]),
            (SessionFilter(pinned_by=OWNER), [rows[4].id, rows[3].id]),
            (SessionFilter(search="west"), []),
            (SessionFilter(search="west", archived="with"), [rows[1].id]),
            (SessionFilter(search="west", archived="only"), [rows[1].id]),
            (SessionFilter(search="south", archived="only"), []),
            (SessionFilter(search="north", created_after=NOW + SEGMENT + 5), [rows[-1].id, rows[-3].id]),
        ):
            assert await found(database, want) == (expected, len(expected)), want
        await sort_sessions(database, rest=0)


async def test_a_title_that_changes_while_it_is_sorted_in_is_found_as_it_is(database: Database) -> None:
    rows = [session(number, "before") for number in range(SEGMENT)]
    await keep(database, rows)
    read = await database.read(lambda tx: read_unsorted(tx, ORG))
    terms = sort_terms(read)
    await database.write(lambda tx: update_session(tx, rows[7], {"title": "after"}, NOW))
    await database.write(lambda tx: mark_deleted(tx, rows[8], NOW))
    assert await database.write(lambda tx: add_segment(tx, ORG, 0, read, terms))
    assert await found(database, SessionFilter(search="after")) == ([rows[7].id], 1)
    assert len((await found(database, SessionFilter(search="before")))[0]) == SEGMENT - 2


async def test_two_processes_that_sort_the_same_sessions_do_it_once(database: Database) -> None:
    await keep(database, [session(number, "once") for number in range(SEGMENT)])
    read = await database.read(lambda tx: read_unsorted(tx, ORG))
    terms = sort_terms(read)
    made = await soon(
        asyncio.gather(*(database.write(lambda tx: add_segment(tx, ORG, 0, read, terms)) for _ in range(2)))
    )
    assert sorted(made) == [False, True]
    assert len((await found(database, SessionFilter(search="once")))[0]) == SEGMENT


async def test_a_segment_that_most_have_left_is_taken_apart(database: Database) -> None:
    rows = [session(number, "stay") for number in range(2 * SEGMENT)]
    await keep(database, rows)
    await sort_sessions(database, rest=0)

    async def leave(tx: Tx) -> None:
        for number, row in enumerate(rows[: SEGMENT // 2 + 1]):
            if number % 2:
                await mark_deleted(tx, row, NOW)
            else:
                await update_session(tx, row, {"title": "gone"}, NOW)

    await database.write(leave)
    assert await database.read(lambda tx: thin_segments(tx, ORG)) == [0]
    assert await sort_sessions(database, thin=True, rest=0) == 0
    assert await database.read(
        lambda tx: tx.all("SELECT DISTINCT segment FROM search_terms WHERE org_id = ?", ORG)
    ) == [(1,)]
    assert len((await found(database, SessionFilter(search="stay")))[0]) == 2 * SEGMENT - SEGMENT // 2 - 1
    assert len((await found(database, SessionFilter(search="gone")))[0]) == SEGMENT // 4 + 1


async def test_what_is_deleted_and_purged_is_found_no_more_and_leaves_the_rest_findable(
    database: Database,
) -> None:
    rows = [session(number, f"number {number}.") for number in range(SEGMENT)]
    await keep(database, rows)
    await sort_sessions(database, rest=0)
    await database.write(lambda tx: mark_deleted(tx, rows[77], NOW))
    for _ in range(2):
        assert await found(database, SessionFilter(search="number 77.")) == ([], 0)
        assert await found(database, SessionFilter(search="number 78.")) == ([rows[78].id], 1)
        await database.write(lambda tx: purge_deleted(tx, NOW + 1, NOW + 2))


@pytest.mark.parametrize("count", [SEGMENT - 1, SEGMENT])
async def test_the_sorter_waits_until_there_are_enough(database: Database, count: int) -> None:
    await keep(database, [session(number, "x") for number in range(count)])
    looks = 0

    async def segments() -> int:
        nonlocal looks
        looks += 1
        return await database.read(lambda tx: last_segment(tx, ORG))

    running = asyncio.create_task(Sorter(database, check_every=0.01).run())
    try:
        async with asyncio.timeout(PATIENCE):
            await eventually(segments, lambda last: last == 0 if count == SEGMENT else looks > 20)
    finally:
        running.cancel()
    assert await segments() == (0 if count == SEGMENT else -1)


async def test_a_long_title_and_a_long_search_are_no_trouble(database: Database) -> None:
    long = "".join(chr(0x1F300 + number) for number in range(500))
    rows = [
        session(
            number, long if number == 9 else long[:499] + "x", [f"tag {n} " + "y" * 90 for n in range(50)]
        )
        for number in range(SEGMENT)
    ]
    await keep(database, rows)
    assert await sort_sessions(database, rest=0) == 1
    assert await found(database, SessionFilter(search=long)) == ([rows[9].id], 1)
    row = await database.read(lambda tx: get_session(tx, ORG, rows[9].id))
    assert row.title == long
