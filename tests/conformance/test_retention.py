"""Retention, on both databases: what is deleted by its age, what is left alone, and what is told of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.app.accounts import bootstrap
from perdure.app.holds import hold_session
from perdure.app.retention import change_retention, delete_due, preview_retention, read_retention
from perdure.app.sessions import create_session
from perdure.domain.accounts import Caller
from perdure.domain.errors import Forbidden, InvalidInput
from perdure.domain.ids import SessionId, new_id
from perdure.domain.retention import RETENTION_KINDS, RetentionDays, UpdateRetention, read_days
from perdure.domain.sessions import CreateSession
from perdure.engine.context import SystemClock
from perdure.settings import Settings, load
from perdure.store.database import Tx
from perdure.store.images import ImageRow, add_image
from perdure.store.retention import DAY, PAGE
from perdure.wiring import Parts, open_parts
from perdure.worker.retention import RetentionSweep

OLD = 40


class Still(SystemClock):
    """A clock on which no time passes, so that no round is ended by its time limit on a slow machine."""

    def elapsed(self) -> float:
        return 0.0


class Desk:
    """An organization with sessions of any age.

    Attributes:
        server: the server's own setting.
    """

    def __init__(self, parts: Parts, owner: Caller) -> None:
        self.app = parts.app
        self.database = parts.app.database
        self.owner = owner
        self.org_id = owner.organization_id
        self.server = RetentionDays()

    async def session(self, days: int, **columns: Any) -> SessionId:
        """A session whose last change was so many days ago."""
        made = await create_session(self.app, self.owner, CreateSession(source=columns.pop("source", None)))
        at = self.app.now() - days * DAY
        columns = {"created_at": at - 1, "updated_at": at, **columns}
        sets = ", ".join(f"{name} = ?" for name in columns)
        await self.database.write(
            lambda tx: tx.run(f"UPDATE sessions SET {sets} WHERE id = ?", *columns.values(), made.id)
        )
        return made.id

    async def keep(self, **days: int | None) -> None:
        await change_retention(self.app, self.owner, self.org_id, UpdateRetention(**days))

    async def sweep(self, rounds: int = 1) -> None:
        sweep = RetentionSweep(replace(self.app, retention=self.server), Still())
        for _ in range(rounds):
            await sweep.once()

    async def alive(self) -> set[str]:
        rows = await self.database.read(lambda tx: tx.all("SELECT id FROM sessions WHERE deleted_at IS NULL"))
        return {row[0] for row in rows}

    async def task(self, session_id: SessionId, finished: bool) -> None:
        now = self.app.now()
        sql = (
            "INSERT INTO tasks (id, org_id, session_id, root_session_id, kind, state, effect_key, turn_id,"
            " heard, attempt, created_at, finished_at, task) VALUES (?, ?, ?, ?, 'background_tool',"
            " 'running', 'k', 't', 0, 1, ?, ?, '{}')"
        )
        args = (new_id("task"), self.org_id, session_id, session_id, now, now if finished else None)
        await self.database.write(lambda tx: tx.run(sql, *args))


@pytest.fixture
async def desk(database_url: str, tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_parts(Settings(data=str(tmp_path / "data"), database_url=database_url)) as parts:
        yield Desk(parts, await bootstrap(parts.app))


async def test_nothing_is_deleted_by_age_unless_somebody_sets_it(desk: Desk) -> None:
    old = await desk.session(10_000)
    await desk.sweep()
    assert await desk.alive() == {old}
    found = await read_retention(desk.app, desk.owner, desk.org_id)
    assert found.holds == found.set == RetentionDays()
    assert {"deleted_sessions", "idempotency_answers", "tasks"} <= {each.kind for each in found.fixed}


async def test_idle_sessions_go_and_younger_ones_and_those_that_still_have_to_do_stay(desk: Desk) -> None:
    top = await desk.session(OLD)
    kept = {
        await desk.session(29),
        await desk.session(OLD, status="active"),
        await desk.session(OLD, status="waiting_for_tool_results", parked="[]"),
        await desk.session(OLD, status="paused"),
        await desk.session(OLD, queued="[]"),
        top,
        await desk.session(29, parent_session_id=top, root_session_id=top, task_id="task_1"),
        busy := await desk.session(OLD),
        held := await desk.session(OLD),
        planned := await desk.session(OLD),
    }
    gone = {await desk.session(OLD), await desk.session(31, status="idle"), done := await desk.session(OLD)}
    await desk.task(busy, finished=False)
    await desk.task(done, finished=True)
    await hold_session(desk.app, desk.owner, held, held=True)
    await desk.database.write(
        lambda tx: tx.run("UPDATE sessions SET updated_at = created_at WHERE id = ?", held)
    )
    await desk.database.write(
        lambda tx: tx.run(
            "INSERT INTO schedules (id, org_id, session_id, message, kind, timezone, enabled, next_at,"
            " fire_count, created_at, updated_at) VALUES ('s', ?, ?, 'm', 'cron', 'UTC', 1, 9, 0, 0, 0)",
            desk.org_id,
            planned,
        )
    )
    await desk.keep(idle_sessions=30)
    (preview,) = (await preview_retention(desk.app, desk.owner, desk.org_id, UpdateRetention())).kinds
    assert (preview.kind, preview.days, preview.items) == ("idle_sessions", 30, len(gone))
    assert preview.oldest_at is not None
    assert await desk.alive() == kept | gone
    await desk.sweep()
    assert await desk.alive() == kept
    found = await read_retention(desk.app, desk.owner, desk.org_id)
    assert [(each.kind, each.deleted) for each in found.deleted] == [("idle_sessions", len(gone))]
    await desk.sweep()
    assert (await read_retention(desk.app, desk.owner, desk.org_id)).deleted == found.deleted


async def test_each_kind_is_deleted_by_its_own_days(desk: Desk) -> None:
    now = desk.app.now()
    chat = await desk.session(OLD, source="chat")
    api = await desk.session(OLD, source="api")
    archived = await desk.session(1, archived_at=now - OLD * DAY, created_at=now - 50 * DAY)
    waiting = await desk.session(OLD, status="waiting_for_tool_results")
    paused = await desk.session(OLD, status="paused")
    top = await desk.session(1)
    below = {"parent_session_id": top, "root_session_id": top}
    child = await desk.session(OLD, task_id="task_1", ended=3, **below)
    running = await desk.session(OLD, task_id="task_2", **below)
    sessions = {chat, api, archived, waiting, paused, top, child, running}
    for kind, gone in (
        ("chat_sessions", {chat}),
        ("api_sessions", {api}),
        ("archived_sessions", {archived}),
        ("waiting_sessions", {waiting, paused}),
        ("subagent_sessions", {child}),
    ):
        await desk.keep(**{kind: 30})
        await desk.sweep()
        sessions -= gone
        assert await desk.alive() == sessions, kind


async def test_images_without_a_session_and_calls_of_purged_sessions_go(desk: Desk) -> None:
    session, now = await desk.session(OLD), desk.app.now()

    async def fill(tx: Tx) -> None:
        for days, owner in ((OLD, None), (OLD, session), (1, None)):
            image = ImageRow(
                *(new_id("image"), desk.org_id, owner, f"{days}.png", "image/png", 1, 1, 1),
                *("hash", None, 0, now - days * DAY),
            )
            await add_image(tx, image)
        for number, (days, of) in enumerate(((OLD, session), (OLD, "gone"), (1, "gone"))):
            await tx.run(
                "INSERT INTO model_calls (id, org_id, created_at, session_id, root_session_id, user_id,"
                " kind, model, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens)"
                " VALUES (?, ?, ?, ?, ?, 'u', 'turn', 'm', 1, 1, 0, 0)",
                *(f"call_{number}", desk.org_id, now - days * DAY, of, of),
            )

    await desk.database.write(fill)
    await desk.keep(images=30, model_calls=30)
    await desk.sweep()

    async def left(tx: Tx) -> tuple[set[object], set[object]]:
        images = await tx.all("SELECT session_id, filename FROM images")
        calls = await tx.all("SELECT id FROM model_calls")
        return {tuple(row) for row in images}, {row[0] for row in calls}

    images, calls = await desk.database.read(left)
    assert images == {(session, f"{OLD}.png"), (None, "1.png")}
    assert calls == {"call_0", "call_2"}


async def test_the_servers_setting_holds_where_an_organization_has_none(desk: Desk) -> None:
    desk.server = RetentionDays(idle_sessions=30)
    await desk.keep(idle_sessions=0)
    old = await desk.session(OLD)
    await desk.sweep()
    assert await desk.alive() == {old}
    await desk.keep(idle_sessions=None)
    await desk.sweep()
    assert await desk.alive() == set()


async def test_a_session_that_changes_before_it_is_deleted_stays(desk: Desk) -> None:
    session = await desk.session(OLD)
    before = desk.app.now() - 30 * DAY
    await desk.database.write(
        lambda tx: tx.run("UPDATE sessions SET updated_at = ? WHERE id = ?", before, session)
    )
    assert not await delete_due(desk.app, desk.org_id, session, "idle_sessions", before)
    assert await desk.alive() == {session}
    assert await delete_due(desk.app, desk.org_id, session, "idle_sessions", before + 1)
    assert not await delete_due(desk.app, desk.org_id, session, "idle_sessions", before + 1)
    assert await desk.alive() == set()


async def test_many_sessions_are_looked_at_page_by_page_and_two_processes_count_each_once(
    desk: Desk,
) -> None:
    first, now = await desk.session(OLD), desk.app.now()

    async def copies(tx: Tx) -> None:
        names = [row[0] for row in await tx.all(COLUMNS[tx.dialect])]
        others = ", ".join(names)
        for number in range(PAGE + 5):
            days = OLD if number % 50 == 0 else 1
            values = ", ".join(
                {"id": "?", "created_at": "?", "updated_at": "?"}.get(name, name) for name in names
            )
            sql = f"INSERT INTO sessions ({others}) SELECT {values} FROM sessions WHERE id = ?"
            changes = {"id": f"session_{number:032x}", "created_at": now - 50 * DAY + number}
            changes["updated_at"] = now - days * DAY
            args = [changes[name] for name in names if name in changes]
            await tx.run(sql, *args, first)

    await desk.database.write(copies)
    await desk.keep(idle_sessions=30)
    await asyncio.gather(desk.sweep(), desk.sweep())
    assert len(await desk.alive()) == PAGE + 5 - (PAGE + 5 + 49) // 50
    (count,) = (await read_retention(desk.app, desk.owner, desk.org_id)).deleted
    assert count.deleted == (PAGE + 5 + 49) // 50 + 1


COLUMNS = {
    "sqlite": "SELECT name FROM pragma_table_xinfo('sessions') WHERE hidden = 0",
    "postgres": (
        "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass('sessions') AND attnum > 0"
        " AND NOT attisdropped AND attgenerated = ''"
    ),
}


async def test_a_sub_agents_session_goes_with_its_parent_also_after_its_task_was_forgotten(
    desk: Desk,
) -> None:
    top = await desk.session(1)
    child = await desk.session(1, parent_session_id=top, root_session_id=top, task_id="task_1", ended=2)
    below = await desk.session(1, parent_session_id=child, root_session_id=top, task_id="task_2", ended=2)
    other = await desk.session(1)
    await desk.database.write(
        lambda tx: tx.run("UPDATE sessions SET deleted_at = ? WHERE id = ?", desk.app.now(), top)
    )
    await desk.sweep(2)
    assert await desk.alive() == {other}, below


async def test_only_owners_change_it_and_only_admins_preview_it(desk: Desk) -> None:
    body = UpdateRetention(idle_sessions=1)
    user_id = new_id("user")
    for role, allowed in (("member", set()), ("admin", {"preview"})):
        await desk.database.write(
            lambda tx, role=role: tx.run(  # type: ignore[misc]
                "INSERT INTO memberships (org_id, user_id, role, created_at) VALUES (?, ?, ?, 1)"
                " ON CONFLICT (org_id, user_id) DO UPDATE SET role = excluded.role",
                desk.org_id,
                user_id,
                role,
            )
        )
        caller = Caller(desk.org_id, user_id, role)
        assert (await read_retention(desk.app, caller, desk.org_id)).set == RetentionDays()
        with pytest.raises(Forbidden):
            await change_retention(desk.app, caller, desk.org_id, body)
        if "preview" in allowed:
            assert (await preview_retention(desk.app, caller, desk.org_id, body)).kinds[0].items == 0
        else:
            with pytest.raises(Forbidden):
                await preview_retention(desk.app, caller, desk.org_id, body)


def test_the_setting_is_read_and_mistakes_in_it_are_named() -> None:
    assert load({"PERDURE_RETENTION": "idle_sessions=365, model_calls=730"}).retention == RetentionDays(
        idle_sessions=365, model_calls=730
    )
    assert read_days("") == RetentionDays()
    assert set(RetentionDays.__struct_fields__) == set(RETENTION_KINDS)
    for text in ("idle=3", "idle_sessions", "idle_sessions=x", "idle_sessions=40000", "idle_sessions=-1"):
        with pytest.raises(InvalidInput, match="PERDURE_RETENTION"):
            load({"PERDURE_RETENTION": text})
