"""Checks of a tree of sessions at the end of a schedule: each log by itself, and promise P12."""

from __future__ import annotations

from collections import Counter
from typing import Any

from perdure.domain.events import ENDED_TURN, Event
from perdure.domain.messages import text_of
from perdure.domain.tasks import PARENT_TASK, SessionTask
from perdure.store.sessions import SessionRow
from perdure.store.tasks import TaskRow
from tests.simulation.checks import check_log, check_turns
from tests.simulation.world import World

SOON = 1_800_000_000
"""Microseconds: half of the shortest time limit that no scenario sets, and more than all stalls together."""
OUTCOMES = {
    "turn.completed": {"succeeded"},
    "turn.failed": {"failed"},
    "turn.sealed": {"failed"},
    "turn.cancelled": {"canceled", "failed"},
}
"""By the end of the child's turn: how its task may end. A cancel at the time limit is a failure."""


class _View:
    """The world, as the checks of one session see it."""

    def __init__(self, world: World, session_id: str) -> None:
        self._world = world
        self.session_id = session_id
        self.witness = world.witness if session_id == world.session_id else world.witnesses.get(session_id)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world, name)

    def blame(self, what: str) -> None:
        self._world.blame(f"{self.session_id[-4:]}: {what}")


def check_tree(world: World, *, gentle: bool, undisturbed: bool) -> None:
    """Record a violation for every broken promise."""
    below = world.store.below(world.session_id)
    for session_id in (world.session_id, *below):
        row, log = world.store.row(session_id), world.store.events(session_id)
        if row.deleted_at is not None:
            world.told.deletion_tried = True  # what waits in a deleted session is not worked on
        view: Any = _View(world, session_id)
        check_log(view, log)
        check_turns(view, log)
        if gentle and any(event.type == "turn.sealed" for event in log):
            view.blame("P4: nothing died, failed or stalled, but a turn is sealed")
        if row.deleted_at is None:
            _check_tasks(view, row, log)
            _check_waits(view, log)
            _check_cancels(view, log)
            _check_messages(view, log)
            if undisturbed:
                _check_limits(view, session_id)
        else:
            _check_deletion(view, session_id)
    _check_calls(world)
    for process in world.live():
        if process.worker.running or process.engine.claimed_epochs or process.queue.depth():
            world.blame(f"{process.name} still has a run, a claim or a job for a tree at rest")


def _check_tasks(world: Any, row: SessionRow, log: list[Event]) -> None:
    """P12: each task ends exactly once, as its child did, and the session hears of it once."""
    tasks: dict[str, list[SessionTask]] = {}
    for event in log:
        if event.type in ("task.created", "task.updated"):
            task = event.decoded().task
            if (event.type == "task.created") == (task.id in tasks):
                world.blame(f"P12: {event.type} of {task.id} is out of order")
            tasks.setdefault(task.id, []).append(task)
    stored = {each.id: each for each in world.store.tasks(row.id)}
    if stored.keys() != tasks.keys():
        world.blame(f"the log has the tasks {sorted(tasks)}, and the table {sorted(stored)}")
        return
    for task_id, states in tasks.items():
        if stored[task_id].struct() != states[-1]:
            world.blame(f"the row of {task_id} is {stored[task_id].struct()}, its log's is {states[-1]}")
        if any(each.ended for each in states[:-1]) or not states[-1].ended:
            world.blame(f"P12: the states of {task_id} are {[each.state for each in states]}")
        _check_end(world, stored[task_id], states[-1])
        _check_heard(world, log, states[-1])


def _check_end(world: Any, task_row: TaskRow, task: SessionTask) -> None:
    if task_row.child_session_id is None:
        _check_attempt(world, task)
        return
    child = world.store.row(task_row.child_session_id)
    if child.ended is None:
        if child.deleted_at is None or task.state != "canceled":
            world.blame(f"P12: {task.id} is {task.state}, and its child has not ended")
        _check_delay(world, task_row, child.deleted_at)
        return
    _check_delay(world, task_row, world.store.events(child.id)[child.ended - 1].ts)
    ends = [
        event.type
        for event in world.store.events(child.id)
        if event.sequence <= child.ended and event.type in ENDED_TURN
    ]
    if task.state not in OUTCOMES[ends[-1]]:
        world.blame(f"P12: {task.id} is {task.state} after {ends[-1]}")
    if child.news is not None:
        world.blame("P12: a child at rest has news")


def _check_attempt(world: Any, task: SessionTask) -> None:
    """Only the newest attempt ends a task: what it returns names an effect of its own worker."""
    effect = next((each for each in world.effects if task.summary and each.word == task.summary), None)
    if effect is not None and effect.worker != task.worker_id:
        world.blame(f"P12: {task.id} was ended by another attempt than the newest")


def _check_delay(world: Any, task_row: TaskRow, ended_at: int | None) -> None:
    """A parent hears of an end before the time limit makes somebody look."""
    if ended_at is not None and (task_row.finished_at or 0) - ended_at > SOON:
        world.blame(f"P12: the parent heard of {task_row.id} long after its end")


def _check_heard(world: Any, log: list[Event], task: SessionTask) -> None:
    """The session hears of an end once: as the result of a call that waits for it, or as a message."""
    messages = [
        text_of(event.decoded().message.content)
        for event in log
        if event.type == "input.message"
        and event.decoded().origin == "task"
        and (event.decoded().message.metadata or {}).get(PARENT_TASK) == task.id
    ]
    ends = [text for text in messages if _is_end(text)]
    if len(ends) > 1:
        world.blame(f"P12: the session was told {len(ends)} times of the end of {task.id}")
    if task.kind == "background_tool":
        if not ends and task.cancel_requested_at is None and not _covered(log):
            world.blame(f"P12: the session was never told of the end of {task.id}")
        return
    begun = [event.decoded() for event in log if event.type == "tool.started"]
    calls = {each.tool_call.id for each in begun if _begins(each.tool_call, task)}
    results = [event.decoded() for event in log if event.type == "tool.completed"]
    own = [each for each in results if each.tool_call_id in calls and _is_outcome(each)]
    if len(own) > 1 or (own and ends):
        world.blame(f"P12: the session was told of the end of {task.id} by its call and otherwise")
    if not ends and not own and task.cancel_requested_at is None and not _covered(log):
        world.blame(f"P12: the session was never told of the end of {task.id}")


def _covered(log: list[Event]) -> bool:
    """Whether a call that waited for tasks, or a turn that ended otherwise, may be why nothing was told."""
    return any(
        (event.type == "tool.completed" and event.decoded().tool_name == "wait_tasks")
        or (event.type in ENDED_TURN and event.type != "turn.completed")
        for event in log
    )


def _begins(call: Any, task: SessionTask) -> bool:
    return call.name == "spawn_agent" and call.arguments.get("name") == task.display_name


def _is_outcome(result: Any) -> bool:
    said = text_of(result.result or ()) + (result.error or "")
    if result.status == "interrupted" or "go on" in said or '"session_id":' in said:
        return False
    return result.success or "sub-agent" in said


def _is_end(text: str) -> bool:
    return any(part in text for part in (" which has succeeded:]", ") failed:", ") was canceled:"))


def _check_calls(world: World) -> None:
    """No two tasks of one call, and no child without a task."""
    keys = Counter(
        (task.session_id, task.effect_key)
        for session_id in (world.session_id, *world.store.below(world.session_id))
        for task in world.store.tasks(session_id)
    )
    for key, times in keys.items():
        if times > 1:
            world.blame(f"P12: the call {key} began {times} tasks")
    made = Counter(effect.key for effect in world.effects if effect.tool == "once")
    for name, times in made.items():
        if times > 1:
            world.blame(f"P5: the call {name} was made {times} times")


def _tasks_before(log: list[Event], sequence: int) -> dict[str, SessionTask]:
    """The tasks as they were before this event."""
    kinds = ("task.created", "task.updated")
    found = [event.decoded().task for event in log if event.sequence < sequence and event.type in kinds]
    return {task.id: task for task in found}


def _check_waits(world: Any, log: list[Event]) -> None:
    """No call waits until its deadline for tasks that have ended before."""
    for event in log:
        if event.type != "tool.completed" or "The time to wait is over" not in text_of(
            event.decoded().result or ()
        ):
            continue
        before = _tasks_before(log, event.sequence)
        if before and all(task.ended for task in before.values()):
            world.blame(f"P12: {event.sequence}: a call waited in vain for tasks that had ended")


def _check_cancels(world: Any, log: list[Event]) -> None:
    """Whoever cancels a turn asks all of its tasks to stop."""
    last = _tasks_before(log, len(log) + 1)
    for event in log:
        if event.type != "turn.cancelled" or "interrupted" in (event.decoded().reason or ""):
            continue
        for task_id, task in _tasks_before(log, event.sequence).items():
            if not task.ended and last[task_id].cancel_requested_at is None:
                world.blame(f"P12: {event.sequence}: nobody asked {task_id} to stop")


def _check_messages(world: Any, log: list[Event]) -> None:
    """Each message to a task or from it is in the log once."""
    for kind in ("task.message.sent", "task.message.received"):
        ids = Counter(event.decoded().message.id for event in log if event.type == kind)
        texts = Counter(event.decoded().message.content for event in log if event.type == kind)
        if any(times > 1 for times in (*ids.values(), *texts.values())):
            world.blame(f"P12: a message is in the log twice: {kind}")


def _check_limits(world: Any, session_id: str) -> None:
    """No task works longer than its limit."""
    for task in world.store.tasks(session_id):
        if task.deadline and task.finished_at and task.finished_at > task.deadline + 10_000_000:
            world.blame(
                f"P12: {task.id} ended {(task.finished_at - task.deadline) / 1e6} s after its deadline"
            )


def _check_deletion(world: Any, session_id: str) -> None:
    """The sessions below a deleted one are deleted, too."""
    for child_id in world.store.children(session_id):
        if world.store.row(child_id).deleted_at is None:
            world.blame(f"P12: the session is deleted, and its child {child_id[-4:]} is not")
    if world.store.tasks(session_id):
        world.blame("a deleted session has tasks")
