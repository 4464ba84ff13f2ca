"""Mutations of what the server does with trees of sessions. They take what those in `mutations.py` take."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.app import children, session_ends, task_news, task_waits
from perdure.app.running_turns import see_to_runner
from perdure.domain.events import SessionIdledData
from perdure.engine.run import Run
from perdure.store import session_deletion
from perdure.store import session_news as rows
from perdure.store.sessions import get_session
from perdure.worker import tasks as sweeps

Patch = pytest.MonkeyPatch


def an_end_is_forgotten(patch: Patch) -> None:
    patch.setattr(rows, "NEWS", rows.NEWS - {SessionIdledData.kind})


def an_end_is_told_as_often_as_it_is_delivered(patch: Patch) -> None:
    real = task_news.read_hearing

    async def read(*args: Any) -> Any:
        heard = await real(*args)
        tasks = {task_id: replace(row, finished_at=None) for task_id, row in heard.tasks.items()}
        return replace(heard, tasks=tasks)

    patch.setattr(task_news, "read_hearing", read)


def the_note_is_cleared_before_the_delivery(patch: Patch) -> None:
    real = task_news.deliver

    async def deliver(app: Any, child_id: Any) -> None:
        news = await app.database.read(lambda tx: task_news.read_news(tx, child_id))
        if news is not None:
            await app.database.write(lambda tx: task_news.told_news(tx, child_id, news.sequence))
            if news.tell is not None:
                await task_news.settle(app, news.tell[0].id, news.tell[1])

    patch.setattr(task_news, "deliver", deliver)
    patch.setattr(session_ends, "deliver", deliver)
    patch.setattr(sweeps, "deliver", deliver)
    patch.setattr("tests.simulation.world.deliver", deliver)
    assert real is not deliver


def a_task_can_end_between_the_look_at_it_and_the_wait(patch: Patch) -> None:
    async def wait_for(app: Any, context: Any, *args: Any) -> Any:
        kept: list[Any] = []

        async def keep(tx: Any, row: Any) -> None:
            kept.append(row)

        with pytest.MonkeyPatch.context() as later:
            later.setattr(task_waits, "add_wait", keep)
            found = await real(app, context, *args)
        if kept:
            await asyncio.sleep(3.0)
            await app.database.write(lambda tx: add(tx, kept[0]))
        return found

    real, add = task_waits.wait_for, task_waits.add_wait
    patch.setattr("perdure.tools.subagents.wait_for", wait_for)


def a_cancel_does_not_go_down(patch: Patch) -> None:
    async def nobody(tx: Any, session_id: Any, wish: Any, **more: Any) -> list[Any]:
        return []

    patch.setattr(session_ends, "wish_for", nobody)


def what_a_crash_leaves_of_a_cancel_is_forgotten(patch: Patch) -> None:
    async def nobody(tx: Any, limit: int) -> list[Any]:
        return []

    patch.setattr(sweeps, "wished_tasks", nobody)


def a_repeated_call_begins_another_child(patch: Patch) -> None:
    async def unknown(tx: Any, session_id: Any, effect_key: str) -> None:
        return None

    def always(row: Any, *waits: Any) -> Any:
        return rows(replace(row, effect_key=f"{row.effect_key}/{row.id}"), *waits)

    rows = children.new_rows
    patch.setattr(children, "task_by_key", unknown)
    patch.setattr(children, "new_rows", always)


def a_child_begins_before_its_task_is_logged(patch: Patch) -> None:
    real = Run.log_at_once

    async def log_at_once(self: Any, call_id: Any, *data: Any, progress: bool, also: Any = None) -> bool:
        if also is not None:
            await self.engine.database.write(also)
        return await real(self, call_id, *data, progress=progress)

    patch.setattr(Run, "log_at_once", log_at_once)


def the_deletion_of_a_child_is_not_told(patch: Patch) -> None:
    real = session_ends.mark_deleted

    async def mark(tx: Any, row: Any, now: int, erasure_id: Any = None) -> None:
        await real(tx, row, now, erasure_id)
        await tx.run("UPDATE sessions SET news = NULL WHERE id = ?", row.id)

    patch.setattr(session_ends, "mark_deleted", mark)
    assert session_deletion.mark_deleted is real


def time_limits_are_ignored(patch: Patch) -> None:
    async def nobody(tx: Any, now: int, limit: int) -> list[Any]:
        return []

    patch.setattr(sweeps, "due_tasks", nobody)


def a_call_that_waits_gets_its_result_twice(patch: Patch) -> None:
    patch.setattr(task_news._Hearing, "end", lambda hearing, wait: None)
    patch.setattr(task_news, "_open_call", _any_call)


def _any_call(state: Any, wait: Any) -> Any:
    calls = getattr(state, "calls", ())
    return next((call for call in calls if call.id == wait.tool_call_id), None)


def nobody_continues_a_parent_whose_call_has_ended(patch: Patch) -> None:
    async def nothing(app: Any, tx: Any, row: Any, **more: Any) -> None:
        return None

    patch.setattr(task_news, "see_to_runner", nothing)
    assert see_to_runner is not nothing


def reports_are_told_again(patch: Patch) -> None:
    real = task_news.read_news

    async def read(tx: Any, child_id: Any, **more: Any) -> Any:
        news = await real(tx, child_id, **more)
        if news is None or news.tell is None:
            return news
        return replace(news, tell=(news.tell[0], replace(news.tell[1], since=None)))

    patch.setattr(task_news, "read_news", read)


def a_delivery_locks_the_child_too(patch: Patch) -> None:
    real = task_news._apply

    async def apply(app: Any, tx: Any, hearing: Any, task_row: Any, report: Any) -> bool:
        if task_row.child_session_id is not None:
            await get_session(tx, task_row.org_id, task_row.child_session_id, lock=True)
        return await real(app, tx, hearing, task_row, report)

    patch.setattr(task_news, "_apply", apply)


def an_older_attempt_can_end_a_task(patch: Patch) -> None:
    real = task_news.settle

    async def settle(app: Any, task_id: Any, report: Any) -> bool:
        return await real(app, task_id, replace(report, attempt=None))

    patch.setattr("perdure.worker.background.settle", settle)


def a_tool_runs_again_although_it_must_not(patch: Patch) -> None:
    patch.setattr("perdure.worker.background._given_up", lambda call: None)
    patch.setattr("perdure.engine.background_call.BackgroundCall.repeatable", property(lambda self: True))


FOCUS: dict[str, tuple[str, tuple[str, ...]]] = {
    "reports_are_told_again": ("messages", ("redeliver_late", "redeliver_elsewhere", "linger")),
    "a_repeated_call_begins_another_child": ("side by side", ("crash", "overtake", "fault", "freeze")),
    "an_older_attempt_can_end_a_task": ("tools", ("freeze", "stall", "sweep_elsewhere")),
}
"""By mutation: the scenario and the kinds of injections that it takes, if few schedules have them."""

TREE_MUTATIONS = [
    an_older_attempt_can_end_a_task,
    a_tool_runs_again_although_it_must_not,
    an_end_is_forgotten,
    an_end_is_told_as_often_as_it_is_delivered,
    the_note_is_cleared_before_the_delivery,
    a_task_can_end_between_the_look_at_it_and_the_wait,
    a_cancel_does_not_go_down,
    what_a_crash_leaves_of_a_cancel_is_forgotten,
    a_repeated_call_begins_another_child,
    a_child_begins_before_its_task_is_logged,
    the_deletion_of_a_child_is_not_told,
    time_limits_are_ignored,
    a_call_that_waits_gets_its_result_twice,
    nobody_continues_a_parent_whose_call_has_ended,
    reports_are_told_again,
    a_delivery_locks_the_child_too,
]
