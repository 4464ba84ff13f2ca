"""Rows of agents, versions and harnesses, and the counts over their sessions, on both databases."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from perdure.domain.agent_versions import AuthoredConfig, hash_of_config
from perdure.domain.errors import NotFound
from perdure.domain.harnesses import MAX_DEPTH
from perdure.domain.ids import new_id
from perdure.domain.messages import Usage
from perdure.store.accounts import lock_organization
from perdure.store.agent_versions import (
    AgentVersionRow,
    add_version,
    authored_of,
    get_agent_at,
    get_version,
    latest_version,
    list_versions,
    with_authored,
)
from perdure.store.agents import (
    AgentRow,
    add_agent,
    agent_by_name,
    agent_names,
    get_agent,
    holder_of_agent,
    list_agents,
    update_agent,
)
from perdure.store.database import Database, Tx
from perdure.store.harnesses import (
    HarnessRow,
    add_harness,
    get_harness,
    harness_by_name,
    harness_chain,
    harness_names,
    levels_below,
    list_harnesses,
    update_harness,
)
from perdure.store.rows import to_json
from perdure.store.sessions import SessionRow, add_session
from perdure.store.stats import resource_stats, session_counts
from tests.conformance.places import soon

ORG, OTHER = new_id("org"), new_id("org")
NOW = 1_700_000_000_000_000
HARNESS_ID = new_id("harness")


def harness(name: str, parent: str | None = None, **fields: Any) -> HarnessRow:
    row = HarnessRow(
        new_id("harness"), ORG, name, None, None, None, parent, None, "[]", "{}", 0, "active", NOW, NOW, None
    )
    return msgspec.structs.replace(row, **fields)


def agent(name: str, **fields: Any) -> AgentRow:
    row = AgentRow(
        new_id("agent"),
        ORG,
        name,
        None,
        None,
        "Help.",
        HARNESS_ID,
        None,
        "[]",
        "{}",
        "active",
        NOW,
        NOW,
        None,
    )
    return msgspec.structs.replace(row, **fields)


def version(row: AgentRow, number: int, **fields: Any) -> AgentVersionRow:
    config = authored_of(row)
    made = AgentVersionRow(
        new_id("agentver"),
        row.org_id,
        row.id,
        number,
        None,
        None,
        "auto",
        1,
        0,
        number,
        None,
        hash_of_config(config),
        to_json(config),
        "{}",
        new_id("user"),
        NOW,
    )
    return msgspec.structs.replace(made, **fields)


def session(**fields: Any) -> SessionRow:
    row = SessionRow(
        id=new_id("session"),
        org_id=ORG,
        owner_id=new_id("user"),
        harness_id=HARNESS_ID,
        agent_id=None,
        title=None,
        tags="[]",
        locale=None,
        model_id=None,
        config="{}",
        forked_from_id=None,
        forked_from_sequence=None,
        created_at=NOW,
        updated_at=NOW,
        deleted_at=None,
        epoch=0,
        recoveries=0,
        claimed_head=-1,
        head=0,
        status="started",
        turn_id=None,
        turn_after=0,
        wake_at=None,
        preview=None,
        output_preview=None,
        usage=None,
        started_at=None,
        finished_at=None,
    )
    return msgspec.structs.replace(row, **fields)


async def keep(database: Database, *rows: Any) -> None:
    async def body(tx: Tx) -> None:
        for row in rows:
            if isinstance(row, HarnessRow):
                await add_harness(tx, row)
            elif isinstance(row, AgentRow):
                await add_agent(tx, row)
            elif isinstance(row, AgentVersionRow):
                await add_version(tx, row)
            else:
                await add_session(tx, row)

    await database.write(body)


async def test_a_row_reads_back_as_it_was_written(database: Database) -> None:
    above = harness(
        "above", tags='["a"]', config='{"capabilities":[{"ref":"x","config":{"deep":[1]}}]}', is_built_in=1
    )
    desk = agent(
        "desk",
        default_version_id="v",
        forked_from_agent_id="a",
        forked_from_version_id="b",
        root_agent_id="c",
    )
    first = version(desk, 1, parent_version_id="p", source_version_id="s", summary="So.")
    await keep(database, above, desk, first)
    assert await database.read(lambda tx: get_harness(tx, ORG, above.id)) == above
    assert await database.read(lambda tx: get_agent(tx, ORG, desk.id)) == desk
    assert await database.read(lambda tx: get_version(tx, ORG, desk.id, first.id)) == first


async def test_nothing_is_found_from_another_organization(database: Database) -> None:
    above, desk = harness("above"), agent("desk")
    first = version(desk, 1)
    await keep(database, above, desk, first)

    async def body(tx: Tx) -> None:
        for look in (
            get_harness(tx, OTHER, above.id),
            get_agent(tx, OTHER, desk.id),
            get_version(tx, OTHER, desk.id, first.id),
        ):
            with pytest.raises(NotFound):
                await look
        assert await harness_by_name(tx, OTHER, "above") is None
        assert await agent_by_name(tx, OTHER, "desk") is None
        assert await latest_version(tx, OTHER, desk.id) is None
        assert await list_versions(tx, OTHER, desk.id, 0, 10) == ([], False)
        assert await list_harnesses(tx, OTHER, None, True) == ([], False)
        assert await list_agents(tx, OTHER, None, True, 0, 10) == ([], 0)
        assert await agent_names(tx, OTHER, "") == await harness_names(tx, OTHER, "") == set()
        assert await session_counts(tx, OTHER, "agent_id", (desk.id,)) == {}
        assert await holder_of_agent(tx, desk.id) == ORG

    await database.read(body)


async def test_a_name_is_free_again_once_its_holder_is_archived(database: Database) -> None:
    old, new = agent("desk", status="archived"), agent("desk")
    await keep(database, old, new, harness("base", status="archived"), harness("base"))
    found = await database.read(lambda tx: agent_by_name(tx, ORG, "desk"))
    assert found is not None
    assert found.id == new.id


async def test_two_live_ones_of_a_name_cannot_be(database: Database) -> None:
    for one, other in ((agent("desk"), agent("desk")), (harness("base"), harness("base"))):
        await keep(database, one)
        with pytest.raises(Exception, match=r"(?i)unique"):
            await keep(database, other)


async def test_two_versions_with_one_number_cannot_be(database: Database) -> None:
    desk = agent("desk")
    await keep(database, desk, version(desk, 1))
    with pytest.raises(Exception, match=r"(?i)unique"):
        await keep(database, version(desk, 1))


async def test_lists_leave_out_the_archived_unless_asked_and_the_deleted_always(database: Database) -> None:
    rows = [agent(f"desk-{state}", status=state) for state in ("active", "archived", "deleted")]
    await keep(database, *rows)

    async def names(archived: bool) -> list[str]:
        found, total = await database.read(lambda tx: list_agents(tx, ORG, None, archived, 0, 10))
        assert total == len(found)
        return sorted(row.name for row in found)

    assert await names(False) == ["desk-active"]
    assert await names(True) == ["desk-active", "desk-archived"]


async def test_a_search_looks_at_names_and_descriptions_in_any_case_and_takes_signs_as_they_are(
    database: Database,
) -> None:
    await keep(
        database,
        agent("desk", display_name="Help Desk"),
        agent("other", description="100% of the DESK_work"),
        agent("third"),
    )

    async def names(search: str) -> list[str]:
        found, _ = await database.read(lambda tx: list_agents(tx, ORG, search, False, 0, 10))
        return sorted(row.name for row in found)

    assert await names("desk") == ["desk", "other"]
    assert await names("HELP d") == ["desk"]
    assert await names("0%") == ["other"]
    assert await names("desk_w") == ["other"]
    assert await names("%") == ["other"]


async def test_pages_go_from_the_newest_to_the_oldest(database: Database) -> None:
    await keep(database, *(agent(f"desk-{age}", created_at=NOW - age) for age in range(5)))
    found, total = await database.read(lambda tx: list_agents(tx, ORG, None, False, 1, 2))
    assert ([row.name for row in found], total) == (["desk-1", "desk-2"], 5)


async def test_only_names_that_begin_with_the_stem_are_given(database: Database) -> None:
    await keep(
        database,
        agent("desk"),
        agent("desk-copy"),
        agent("help-desk"),
        agent("desk-copy-2", status="archived"),
    )
    assert await database.read(lambda tx: agent_names(tx, ORG, "desk")) == {"desk", "desk-copy"}


async def test_a_line_of_inheritance_is_read_from_the_top(database: Database) -> None:
    line = [harness("h-0")]
    for number in range(1, MAX_DEPTH + 3):
        line.append(harness(f"h-{number}", line[-1].id))
    await keep(database, *line, harness("aside", line[0].id))

    async def body(tx: Tx) -> None:
        assert [row.name for row in await harness_chain(tx, ORG, line[2].id)] == ["h-0", "h-1", "h-2"]
        assert len(await harness_chain(tx, ORG, line[-1].id)) == MAX_DEPTH
        assert await levels_below(tx, ORG, line[-1].id) == 0
        assert await levels_below(tx, ORG, line[-3].id) == 2
        assert await levels_below(tx, ORG, line[0].id) == MAX_DEPTH

    await database.read(body)


async def test_not_even_a_circle_of_harnesses_is_followed_for_ever(database: Database) -> None:
    one, other = harness("one"), harness("other")
    await keep(database, one, other)

    async def body(tx: Tx) -> None:
        await update_harness(tx, ORG, one.id, {"parent_harness_id": other.id})
        await update_harness(tx, ORG, other.id, {"parent_harness_id": one.id})
        assert len(await harness_chain(tx, ORG, one.id)) == MAX_DEPTH
        assert await levels_below(tx, ORG, one.id) == MAX_DEPTH

    await soon(database.write(body))


async def test_changes_of_inheritance_wait_for_each_other(database: Database) -> None:
    await database.write(
        lambda tx: tx.run(
            "INSERT INTO organizations (id, name, created_at, updated_at) VALUES (?, ?, ?, ?)",
            ORG,
            "Us",
            NOW,
            NOW,
        )
    )
    counter = harness("counter", description="0")
    await keep(database, counter)

    async def body(tx: Tx) -> None:
        await lock_organization(tx, ORG)
        row = await get_harness(tx, ORG, counter.id)
        await update_harness(tx, ORG, counter.id, {"description": str(int(row.description or 0) + 1)})

    await soon(asyncio.gather(*(database.write(body) for _ in range(12))))
    assert (await database.read(lambda tx: get_harness(tx, ORG, counter.id))).description == "12"


async def test_versions_come_newest_first_and_the_newest_with_a_configuration_is_found(
    database: Database,
) -> None:
    desk = agent("desk")
    other = msgspec.structs.replace(desk, system_prompt="Help more.")
    rows = [version(desk, 1), version(other, 2), version(desk, 3), version(other, 4)]
    await keep(database, desk, *rows)

    async def body(tx: Tx) -> None:
        assert [row.version_number for row in (await list_versions(tx, ORG, desk.id, 1, 2))[0]] == [3, 2]
        assert await latest_version(tx, ORG, desk.id) == rows[3]
        assert await latest_version(tx, ORG, desk.id, rows[0].config_hash) == rows[2]
        assert await latest_version(tx, ORG, desk.id, "none") is None

    await database.read(body)


async def test_an_agent_as_of_a_version_has_its_configuration_and_its_own_name_and_status(
    database: Database,
) -> None:
    then = agent(
        "desk", description="Then.", tags='["then"]', config='{"max_iterations":3}', default_model_id="m"
    )
    first = version(then, 1)
    await keep(database, then, first)
    now = msgspec.structs.replace(
        then, name="front", status="archived", system_prompt="Now.", description=None, tags="[]", config="{}"
    )
    changes = {
        name: getattr(now, name)
        for name in ("name", "status", "system_prompt", "description", "tags", "config")
    }
    await database.write(lambda tx: update_agent(tx, ORG, then.id, changes))

    found = await database.read(lambda tx: get_agent_at(tx, ORG, then.id, first.id))
    assert found == msgspec.structs.replace(then, name="front", status="archived")
    assert await database.read(lambda tx: get_agent_at(tx, ORG, then.id, None)) == now
    with pytest.raises(NotFound):
        await database.read(lambda tx: get_agent_at(tx, ORG, then.id, new_id("agentver")))


def test_what_a_version_keeps_puts_back_all_that_it_took() -> None:
    row = agent(
        "desk",
        description="d",
        display_name="D",
        tags='["a"]',
        config='{"tools":[],"parallel_tool_calls":false}',
    )
    again = with_authored(agent("desk", id=row.id), authored_of(row))
    assert authored_of(again) == authored_of(row)
    assert AuthoredConfig("", "") != authored_of(row)


async def test_a_locked_row_lets_nobody_else_read_it_to_change_it(database: Database) -> None:
    desk = agent("desk", system_prompt="0")
    await keep(database, desk)

    async def body(tx: Tx) -> None:
        row = await get_agent(tx, ORG, desk.id, lock=True)
        await update_agent(tx, ORG, desk.id, {"system_prompt": str(int(row.system_prompt) + 1)})

    await soon(asyncio.gather(*(database.write(body) for _ in range(12))))
    assert (await database.read(lambda tx: get_agent(tx, ORG, desk.id))).system_prompt == "12"


async def keep_sessions_with_turns(database: Database, desk: str) -> None:
    """Create three sessions of the agent, a deleted one, and one without an agent; each with a turn."""
    usage = to_json(Usage(100, 20, 10, None, 0.25))
    second = 1_000_000
    sessions = [
        session(agent_id=desk, created_at=NOW - 9 * second),
        session(agent_id=desk, status="idle", usage=usage, started_at=NOW, updated_at=NOW + 3 * second),
        session(
            agent_id=desk,
            status="active",
            usage=usage,
            started_at=NOW,
            updated_at=NOW + 2 * second,
            finished_at=NOW + second,
        ),
        session(agent_id=desk, status="idle", usage=usage, started_at=NOW, deleted_at=NOW),
        session(status="idle", usage=usage, started_at=NOW),
    ]
    await keep(database, *sessions)

    async def turns(tx: Tx) -> None:
        for place, row in enumerate(sessions):
            for kind in ("turn.started", "turn.completed"):
                await tx.run(
                    "INSERT INTO events (session_id, sequence, org_id, id, type, ts, context, data)"
                    " VALUES (?, ?, ?, ?, ?, ?, '{}', '{}')",
                    row.id,
                    1 if kind == "turn.started" else 2,
                    ORG,
                    new_id("event"),
                    kind,
                    NOW + place,
                )

    await database.write(turns)


async def test_the_tokens_turns_and_times_of_an_agents_sessions_add_up(database: Database) -> None:
    desk = new_id("agent")
    await keep_sessions_with_turns(database, desk)
    stats = await database.read(lambda tx: resource_stats(tx, ORG, "agent_id", desk), long=True)
    assert (
        stats.session_count,
        stats.started_session_count,
        stats.active_session_count,
        stats.idle_session_count,
    ) == (3, 1, 1, 1)
    assert (stats.execution_count, stats.last_execution_at) == (3, "2023-11-14T22:13:20.000002Z")
    assert (stats.total_input_tokens, stats.total_output_tokens) == (200, 40)
    assert (stats.total_cache_read_tokens, stats.total_cache_creation_tokens) == (20, 0)
    costs = (stats.total_estimated_cost_usd, stats.total_actual_cost_usd, stats.total_cost_usd)
    assert costs == (0.5, UNSET, 0.5)
    assert (stats.total_session_duration_ms, stats.avg_session_duration_ms) == (4000, 2000)
    between = (stats.first_session_at, stats.last_session_at)
    assert between == ("2023-11-14T22:13:11.000000Z", "2023-11-14T22:13:20.000000Z")


async def test_the_sessions_of_agents_and_harnesses_are_counted(database: Database) -> None:
    desk = new_id("agent")
    await keep_sessions_with_turns(database, desk)

    async def counts(tx: Tx) -> tuple[dict[str, int], ...]:
        return (
            await session_counts(tx, ORG, "agent_id", (desk, new_id("agent"))),
            await session_counts(tx, ORG, "harness_id", (HARNESS_ID,)),
            await session_counts(tx, ORG, "agent_id", ()),
        )

    assert await database.read(counts) == ({desk: 3}, {HARNESS_ID: 4}, {})


async def test_what_has_no_sessions_counts_nothing(database: Database) -> None:
    stats = await database.read(lambda tx: resource_stats(tx, ORG, "harness_id", new_id("harness")))
    assert (
        stats.session_count,
        stats.total_cost_usd,
        stats.avg_session_duration_ms,
        stats.first_session_at,
    ) == (
        0,
        UNSET,
        None,
        None,
    )
