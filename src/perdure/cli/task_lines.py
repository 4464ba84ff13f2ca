"""Tasks as lines for people: how they begin, wait and end."""

from __future__ import annotations

from datetime import UTC, datetime

from perdure.cli.texts import duration, short
from perdure.domain.session_trees import SessionNode
from perdure.domain.tasks import SessionTask
from perdure.domain.visible import exact

STYLES = {
    "queued": "dim",
    "running": "cyan",
    "awaiting_input": "yellow",
    "succeeded": "green",
    "failed": "red",
    "canceled": "yellow",
}
"""The styles of states."""
MARKS = {
    "queued": "·",
    "running": "→",
    "awaiting_input": "‖",
    "succeeded": "✓",
    "failed": "✗",
    "canceled": "✗",
}
"""The marks of states."""
_KINDS = {"subagent": "sub-agent", "background_tool": "tool"}


def named(task: SessionTask) -> str:
    """Say whose task it is: `sub-agent research`."""
    return f"{_KINDS.get(task.kind, task.kind)} {exact(task.display_name)}"


def begins(task: SessionTask) -> str:
    """Say in one line that a task begins, and where it can be followed."""
    child_id = task.links.child_session_id
    return f"⇢ {named(task)} begins{f' ({child_id})' if child_id else ''}"


def changed(task: SessionTask) -> str | None:
    """Say in one line that a task waits for somebody or has ended; None if it goes on."""
    if task.state == "awaiting_input":
        asked = "" if task.input_request is None else f": {short(task.input_request.prompt)}"
        return f"‖ {named(task)} waits for somebody{asked}"
    if not task.ended:
        return None
    return f"⇠ {task_text(task)}"


def task_text(task: SessionTask) -> str:
    """Say in one line how a task is."""
    took = took_of(task) if task.ended else ""
    return f"{named(task)} {task.state}{f' ({took})' if took else ''}{_colon(what_came_of(task))}"


def _colon(text: str) -> str:
    return f": {text}" if text else ""


def what_came_of(task: SessionTask | SessionNode, limit: int = 100) -> str:
    """The first line of a task's answer; its error if it has failed, and what it waits for if it waits."""
    if isinstance(task, SessionNode):
        waits, answer = task.waits_for, task.answer
    else:
        waits = None if task.input_request is None else task.input_request.prompt
        answer = task.summary
    if task.error is not None:
        return short(task.error.message, limit)
    if task.state == "awaiting_input" and waits:
        return short(waits, limit)
    if answer:
        return short(answer.strip().partition("\n")[0], limit)
    return short(task.progress.label, limit) if task.progress is not None and task.progress.label else ""


def took_of(task: SessionTask | SessionNode, now: datetime | None = None) -> str:
    """Say how long a task has taken, or takes until now; empty for a session without a task."""
    if task.state is None:
        return ""
    begun = datetime.fromisoformat(task.started_at or task.created_at)
    end = datetime.fromisoformat(task.finished_at) if task.finished_at else now or datetime.now(UTC)
    return duration(max(0.0, (end - begun).total_seconds() * 1000))
