"""Checks promise P12 after a storm over trees, in the database itself."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from msgspec import Struct

from perdure.domain.events import ENDED_TURN, Event, NewEvent, ToolCompletedData
from perdure.domain.messages import text_of
from perdure.domain.projection import Projection, project
from perdure.domain.tasks import ENDED, PARENT_TASK, SessionTask
from perdure.store.database import Tx
from perdure.store.events import events_after
from perdure.store.postgres.database import open_postgres
from perdure.store.sessions import SessionRow, look_session
from perdure.store.sqlite import open_sqlite
from perdure.store.tasks import TaskRow, newest_tasks
from tests.talk import Json


class Kept(Struct, frozen=True):
    """A session of the database: its row, its log and its tasks."""

    row: SessionRow
    events: list[Event]
    tasks: list[TaskRow]


async def check_trees(data: Path, database_url: str) -> int:
    """Check all sessions of the database, whose servers have stopped; return how many tasks there were."""
    kept = await kept_sessions(data, database_url)
    for each in kept.values():
        check_session(each, kept)
        for task in each.tasks:
            check_task(each, task, kept)
    return sum(len(each.tasks) for each in kept.values())


async def kept_sessions(data: Path, database_url: str) -> dict[str, Kept]:
    """All sessions of the database, by id. Those that were deleted have no tasks."""
    database = await (open_postgres(database_url) if database_url else open_sqlite(data / "perdure.db"))
    try:
        return await database.read(_everything)
    finally:
        await database.close()


def check_session(each: Kept, kept: dict[str, Kept]) -> None:
    """The parent has heard of everything; the log, the row and the place in the tree are right."""
    assert each.row.news is None, each.row.id
    if each.row.deleted_at is None:
        _check_log(each)
    _check_place(each, kept)


async def _everything(tx: Tx) -> dict[str, Kept]:
    found = {}
    for (session_id,) in await tx.all("SELECT id FROM sessions"):
        row = await look_session(tx, session_id)
        assert row is not None
        events = await events_after(tx, session_id, 0, limit=1_000_000)
        tasks = [] if row.deleted_at is not None else await newest_tasks(tx, session_id, 10_000)
        found[session_id] = Kept(row, events, tasks)
    return found


def _check_log(kept: Kept) -> None:
    """The log is gapless, the row is its projection, and every turn and call has one end."""
    row, events = kept.row, kept.events
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert row.projection() == project(Projection(), [_as_new(event) for event in events]), row.id
    assert row.status in ("idle", "started"), (row.id, row.status)
    begun = Counter(event.context_struct().turn_id for event in events if event.type == "turn.started")
    ended = Counter(event.context_struct().turn_id for event in events if event.type in ENDED_TURN)
    assert set(ended.values()) <= {1}, (row.id, ended)
    assert begun.keys() <= ended.keys(), row.id
    assert set(begun.values()) <= {1}, row.id
    started = Counter(_data(event)["tool_call"]["id"] for event in events if event.type == "tool.started")
    results = Counter(_data(event)["tool_call_id"] for event in events if event.type == "tool.completed")
    assert set(started.values()) <= {1}, row.id
    assert set(results.values()) <= {1}, row.id


def check_task(parent: Kept, row: TaskRow, kept: dict[str, Kept], *, jumps: bool = False) -> None:
    """The task ended once, as its row says, and its session was told of it once.

    Args:
        jumps: whether clocks jumped: then a deleted session may be gone, which stays for an hour otherwise.
    """
    states = [
        task
        for event in parent.events
        if event.type in ("task.created", "task.updated") and (task := event.decoded().task).id == row.id
    ]
    assert states, row.id
    assert [each.ended for each in states].count(True) == 1, (row.id, [each.state for each in states])
    last = states[-1]
    assert last.ended, row.id
    assert last == row.struct(), (last, row.struct())
    assert row.wish is None, row.id
    assert row.finished_at is not None, row.id
    child = kept.get(row.child_session_id or "")
    assert jumps or child is not None, f"{row.child_session_id} is gone"
    if child is not None:
        _check_end(child, last)
    _check_told(parent, last)


def _check_end(child: Kept, last: SessionTask) -> None:
    """The task ended as its session did."""
    assert child.row.ended is not None or child.row.deleted_at is not None, child.row.id
    if child.row.ended is not None and child.row.deleted_at is None:
        end = next(
            event
            for event in reversed(child.events)
            if event.sequence <= (child.row.ended or 0) and event.type in ENDED_TURN
        )
        assert (last.state == "succeeded") == (end.type == "turn.completed"), (last, end)


def _check_told(parent: Kept, task: SessionTask) -> None:
    told = _wakes(parent, task) + _results(parent, task)
    assert len(told) <= 1, (task.id, told)
    timed_out = task.error is not None and task.error.kind == "time_limit"
    if task.cancel_requested_at is not None and not timed_out:
        return
    if any(event.type in ("turn.cancelled", "turn.sealed") for event in parent.events):
        return  # the call that waited has ended with its turn
    if not told and task.wake_policy != "silent":
        raise AssertionError(f"nobody told {parent.row.id} of {task}")


def _wakes(parent: Kept, task: SessionTask) -> list[str]:
    """The messages that say how the task has ended."""
    messages = [_data(event)["message"] for event in parent.events if event.type == "input.message"]
    texts = [
        each["content"][0]["text"]
        for each in messages
        if each.get("metadata", {}).get(PARENT_TASK) == task.id
    ]
    ends = (" which has succeeded:]", ") failed:", ") was canceled:")
    return [text for text in texts if any(end in text for end in ends)]


def _results(parent: Kept, task: SessionTask) -> list[str]:
    """The results of calls that say how the task has ended."""
    begun = {
        call["id"]
        for event in parent.events
        if event.type == "tool.started"
        and (call := _data(event)["tool_call"])["arguments"].get("name") == task.display_name
    }
    found = []
    for event in parent.events:
        if event.type != "tool.completed":
            continue
        data = event.decoded()
        said = text_of(data.result or ()) + (data.error or "")
        if data.tool_call_id in begun and _is_end(data, said):
            found.append(said)
        if "have ended" in said and task.id in said:
            found.append(said)
        if data.tool_name == "wait_tasks" and said.startswith("["):
            found += [
                said for each in json.loads(said) if each["task_id"] == task.id and each["state"] in ENDED
            ]
    return found


def _is_end(data: ToolCompletedData, said: str) -> bool:
    """Whether a call that began a sub-agent says how it has ended, and not that it works."""
    if data.status == "interrupted" or "go on" in said or '"session_id":' in said:
        return False
    return data.success or "sub-agent" in said


def _check_place(kept: Kept, every: dict[str, Kept]) -> None:
    """A sub-agent is where its task says, and not alive below a session that was deleted."""
    row = kept.row
    if row.task_id is None:
        assert row.depth == 0
        return
    parent = every.get(row.parent_session_id or "")
    if parent is None:
        assert row.deleted_at is not None, f"{row.id} outlived its parent"
        return
    assert row.depth == parent.row.depth + 1
    assert row.root_session_id == (parent.row.root_session_id or parent.row.id)
    if parent.row.deleted_at is not None:
        assert row.deleted_at is not None, f"{row.id} outlived {parent.row.id}"
        return
    assert row.task_id in {task.id for task in parent.tasks}


def _data(event: Event) -> Json:
    found: Json = json.loads(event.data)
    return found


def _as_new(event: Event) -> NewEvent:
    return NewEvent(event.decoded(), event.context_struct(), event.ts)
