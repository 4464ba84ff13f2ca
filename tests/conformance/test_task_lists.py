"""Lists of tasks, trees of sessions, and how long tasks are kept, on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.app.accounts import bootstrap
from perdure.app.session_trees import read_tree
from perdure.app.sessions import create_session
from perdure.app.task_lists import LISTED, describe_tasks
from perdure.app.tasks import list_tasks, post_task_message, read_task
from perdure.capabilities.port import ToolContext
from perdure.domain.accounts import Caller
from perdure.domain.errors import InvalidInput, NotFound
from perdure.domain.ids import SessionId, ToolCallId, new_id
from perdure.domain.redaction import Redactor
from perdure.domain.sessions import CreateSession
from perdure.domain.tasks import (
    KEPT,
    PostTaskMessage,
    SessionTask,
    TaskLinks,
    TaskMessage,
    TaskState,
    TaskText,
)
from perdure.domain.times import Micros, to_rfc3339
from perdure.settings import Settings
from perdure.store.database import Tx
from perdure.store.rows import LIST_BYTES, to_json
from perdure.store.session_trees import sessions_below
from perdure.store.sessions import get_session
from perdure.store.task_lists import TaskFilter
from perdure.store.tasks import TaskRow, add_task, add_task_message, task_messages, wish_for
from perdure.wiring import Parts, open_parts
from perdure.worker.retention import RetentionSweep
from perdure.worker.tasks import TaskSweep

NOW = 1_700_000_000_000_000
DAY = 24 * 3600 * 1_000_000


class Desk:
    """A session of an organization, whose tasks the test writes."""

    def __init__(self, parts: Parts, owner: Caller, session_id: SessionId) -> None:
        self.app = parts.app
        self.clock = parts.engine.clock
        self.database = parts.app.database
        self.owner = owner
        self.session_id = session_id

    async def task(
        self,
        name: str,
        state: TaskState = "running",
        created_at: Micros = NOW,
        finished_at: Micros | None = None,
        **fields: Any,
    ) -> TaskRow:
        ts = to_rfc3339(created_at)
        task = SessionTask(
            new_id("task"),
            self.session_id,
            "background_tool",
            name,
            state,
            ts,
            ts,
            links=TaskLinks(),
            **fields,
        )
        row = TaskRow(
            id=task.id,
            org_id=self.owner.organization_id,
            session_id=self.session_id,
            root_session_id=self.session_id,
            kind=task.kind,
            state=state,
            effect_key=name,
            turn_id=new_id("turn"),
            child_session_id=None,
            heard=0,
            attempt=1,
            wish=None,
            deadline=None,
            created_at=created_at,
            finished_at=finished_at,
            task=to_json(task),
        )
        await self.database.write(lambda tx: add_task(tx, row))
        return row

    async def message(self, row: TaskRow, text: str, message_id: str | None = None) -> TaskMessage:
        made = TaskMessage(
            message_id or new_id("message"), row.id, "outbound", (TaskText(text),), to_rfc3339(NOW)
        )
        await self.database.write(lambda tx: add_task_message(tx, row.org_id, made))
        return made

    async def names(self, filters: TaskFilter, limit: int = 1000) -> list[str]:
        return [task.display_name for task in await list_tasks(self.app, self.owner, filters, limit)]


@pytest.fixture
async def desk(database_url: str, tmp_path: Path) -> AsyncIterator[Desk]:
    settings = Settings(data=str(tmp_path / "data"), database_url=database_url)
    async with open_parts(settings) as parts:
        owner = await bootstrap(parts.app)
        session = await create_session(parts.app, owner, CreateSession(title="Top"))
        yield Desk(parts, owner, session.id)


async def test_a_task_is_removed_with_its_messages_30_days_after_its_end(desk: Desk) -> None:
    old = await desk.task("old", "succeeded", NOW - 40 * DAY, NOW)
    await desk.task("young", "failed", NOW - 40 * DAY + 1, NOW + DAY)
    await desk.task("endless", "running", NOW - 400 * DAY)
    await desk.message(old, "done")
    for now, left in (
        (NOW + KEPT, ["young", "old", "endless"]),
        (NOW + KEPT + 1, ["young", "endless"]),
        (NOW + KEPT + 2 * DAY, ["endless"]),
    ):
        app = replace(desk.app, now=lambda now=now: now)
        await TaskSweep(app, desk.clock).once()
        await RetentionSweep(app, desk.clock).once()
        assert await desk.names(TaskFilter(desk.session_id)) == left
    with pytest.raises(NotFound):
        await read_task(desk.app, desk.owner, desk.session_id, old.id, None, 1)

    async def kept(tx: Tx) -> list[TaskMessage]:
        return await task_messages(tx, old.id, None, 10)

    assert await desk.database.read(kept) == []


async def test_tasks_of_a_deleted_session_are_not_listed_while_they_wait_to_be_removed(desk: Desk) -> None:
    await desk.task("one")
    everywhere = TaskFilter(states=("queued", "running"))
    assert await desk.names(everywhere) == ["one"]
    await desk.database.write(lambda tx: wish_for(tx, desk.session_id, "cancel"))
    assert await desk.names(everywhere) == ["one"]
    await desk.database.write(lambda tx: wish_for(tx, desk.session_id, "delete"))
    assert await desk.names(everywhere) == []
    await TaskSweep(desk.app, desk.clock).once()
    found = await desk.database.read(lambda tx: tx.one("SELECT COUNT(*) FROM tasks"))
    assert found == (0,)


async def test_a_task_that_is_damaged_does_not_keep_others_from_their_ends(desk: Desk) -> None:
    damaged = await desk.task("damaged")
    await desk.task("fine")
    for row in await desk.database.write(lambda tx: wish_for(tx, desk.session_id, "cancel")):
        assert row.wish == "cancel"
    await desk.database.write(lambda tx: tx.run("UPDATE tasks SET task = '{' WHERE id = ?", damaged.id))
    await TaskSweep(desk.app, desk.clock).once()
    states = await desk.database.read(lambda tx: tx.all("SELECT state FROM tasks ORDER BY state"))
    assert states == [("canceled",), ("running",)]


async def test_a_page_of_large_tasks_ends_early_and_the_next_one_goes_on(desk: Desk) -> None:
    size = LIST_BYTES // 10
    made = [
        (await desk.task(f"{number:02}", created_at=NOW + number // 3, spec={"text": "x" * size})).id
        for number in range(15)
    ]
    found: list[str] = []
    filters, pages = TaskFilter(desk.session_id), 0
    while page := await list_tasks(desk.app, desk.owner, filters, 1000):
        assert len(page) < 11
        found += [task.id for task in page]
        filters, pages = replace(filters, before=page[-1].id), pages + 1
    assert (sorted(found), len(found), pages) == (sorted(made), 15, 2)


async def test_messages_come_in_the_order_in_which_they_arrived(desk: Desk) -> None:
    row = await desk.task("talks")
    late = new_id("message", NOW // 1000 - 5000)
    first = await desk.message(row, "first")
    second = await desk.message(row, "second", late)
    await desk.message(row, "again", late)  # a repeated delivery
    detail = await read_task(desk.app, desk.owner, desk.session_id, row.id, None, 10)
    assert detail.messages == (first, second)
    rest = await read_task(desk.app, desk.owner, desk.session_id, row.id, first.id, 10)
    assert rest.messages == (second,)


async def test_a_tool_in_the_background_reads_no_messages(desk: Desk) -> None:
    row = await desk.task("build")
    with pytest.raises(InvalidInput, match="cancel it, or wait for its end") as refused:
        await post_task_message(desk.app, desk.owner, desk.session_id, row.id, PostTaskMessage("Hurry."))
    assert refused.value.code == "task_reads_no_messages"


async def test_a_tree_with_too_many_sessions_shows_the_nearest_and_newest(desk: Desk) -> None:
    ids = [
        (await create_session(desk.app, desk.owner, CreateSession(title=f"{number}"))).id
        for number in range(6)
    ]
    parents = [desk.session_id, desk.session_id, desk.session_id, ids[0], ids[0], ids[2]]

    async def adopt(tx: Tx) -> None:
        rows = [
            (parent, NOW + number, child)
            for number, (parent, child) in enumerate(zip(parents, ids, strict=True))
        ]
        await tx.run_many("UPDATE sessions SET parent_session_id = ?, created_at = ? WHERE id = ?", rows)

    await desk.database.write(adopt)
    org_id = desk.owner.organization_id
    for limit, titles, more in (
        (2, ["2", "1"], True),
        (3, ["2", "1", "0"], True),
        (5, ["2", "1", "0", "5", "4"], True),
        (6, ["2", "1", "0", "5", "4", "3"], False),
    ):
        rows, cut = await desk.database.read(
            lambda tx, limit=limit: sessions_below(tx, org_id, desk.session_id, limit)
        )
        assert ([row.title for row in rows], cut) == (titles, more)
    other, _ = await desk.database.read(lambda tx: sessions_below(tx, new_id("org"), desk.session_id, 10))
    assert other == []
    tree = await read_tree(desk.app, desk.owner, desk.session_id)
    assert [node.name for node in tree.nodes] == ["Top", "0", "3", "4", "1", "2", "5"]


async def test_a_model_is_shown_its_open_tasks_however_many_have_ended_since(desk: Desk) -> None:
    await desk.task("ended long ago", "succeeded", NOW - 1, NOW)
    await desk.task("still open", created_at=NOW)
    for n in range(LISTED):
        await desk.task(f"n{n}", "canceled", NOW + n + 1, NOW + n + 2)
    row = await desk.database.read(lambda tx: get_session(tx, desk.owner.organization_id, desk.session_id))
    context = ToolContext(
        org_id=row.org_id,
        session_id=row.id,
        workspace_id=row.workspace(),
        turn_id=new_id("turn"),
        tool_call_id=ToolCallId("c1"),
        now=desk.app.now,
        progress=lambda line: None,
        output=lambda stream, text: None,
        redactor=Redactor({}),
    )
    shown = await describe_tasks(desk.app, context)
    assert [task["name"] for task in shown] == ["still open", *(f"n{n}" for n in range(LISTED))]
