"""Tasks and trees of sessions as lines for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from perdure.cli.render import TurnPrinter, brief
from perdure.cli.session_trees import drawn, has_ended
from perdure.cli.task_lines import begins, changed, task_text, took_of, what_came_of
from perdure.cli.terminal import Screen
from perdure.domain.events import WireEvent
from perdure.domain.ids import new_event_id, new_id
from perdure.domain.messages import Usage
from perdure.domain.session_trees import SessionNode, SessionTree
from perdure.domain.tasks import (
    SessionTask,
    TaskData,
    TaskError,
    TaskInputRequest,
    TaskLinks,
    TaskMessage,
    TaskProgress,
    TaskText,
)

TS, LATER = "2026-03-14T09:26:53.000000Z", "2026-03-14T09:26:55.500000Z"
CHILD = new_id("session")
TASK = SessionTask(
    new_id("task"), new_id("session"), "subagent", "research", "running", TS, TS, links=TaskLinks(CHILD)
)
ENDED = replace(TASK, state="succeeded", finished_at=LATER, summary="Found it.\nMore.")
WAITS = replace(TASK, state="awaiting_input", input_request=TaskInputRequest("call_1", "May x run?"))
FAILED = replace(TASK, state="failed", finished_at=LATER, error=TaskError("provider_auth", "bad key"))


def event(kind: str, **data: Any) -> WireEvent:
    wire = {
        "id": new_event_id(1),
        "type": kind,
        "ts": TS,
        "session_id": CHILD,
        "sequence": 1,
        "context": {},
        "data": data,
    }
    return msgspec.json.decode(msgspec.json.encode(wire), type=WireEvent)


@pytest.mark.parametrize(
    ("task", "text"),
    [
        (TASK, "sub-agent research running"),
        (replace(TASK, progress=TaskProgress(label="page 3")), "sub-agent research running: page 3"),
        (WAITS, "sub-agent research awaiting_input: May x run?"),
        (ENDED, "sub-agent research succeeded (2.5 s): Found it."),
        (FAILED, "sub-agent research failed (2.5 s): bad key"),
        (replace(TASK, kind="background_tool", display_name="bash"), "tool bash running"),
        (replace(TASK, display_name="\x1b[31mred"), "sub-agent \\u001b[31mred running"),
    ],
)
def test_a_task_is_a_short_line(task: SessionTask, text: str) -> None:
    assert task_text(task) == text
    assert brief(event("task.updated", task=task)) == text


def test_messages_of_tasks_have_short_lines() -> None:
    message = TaskMessage("message_1", TASK.id, "outbound", (TaskText("hi"), TaskData({"a": 1})), TS)
    told = brief(event("task.message.received", task_id=TASK.id, message=message))
    assert told == 'hi {"a": 1}'


def test_a_chat_says_once_how_a_task_begins_waits_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    assert begins(TASK).endswith(f"begins ({CHILD})")
    assert begins(replace(TASK, links=TaskLinks())) == "⇢ sub-agent research begins"
    assert changed(TASK) is None
    assert changed(replace(WAITS, input_request=None)) == "‖ sub-agent research waits for somebody"
    printer = TurnPrinter(Screen())
    printer.show(event("task.created", task=TASK))
    for task in (TASK, WAITS, replace(WAITS, updated_at=LATER), TASK, WAITS, ENDED):
        printer.show(event("task.updated", task=task))
    assert capsys.readouterr().out.splitlines() == [
        f"⇢ sub-agent research begins ({CHILD})",
        "‖ sub-agent research waits for somebody: May x run?",
        "‖ sub-agent research waits for somebody: May x run?",
        "⇠ sub-agent research succeeded (2.5 s): Found it.",
    ]


def node(name: str, depth: int, parent: SessionNode | None = None, **fields: Any) -> SessionNode:
    parent_id = None if parent is None else parent.session_id
    made = SessionNode(new_id("session"), depth, "idle", TS, parent_session_id=parent_id, name=name)
    return replace(made, **fields)


def test_a_tree_is_drawn_with_its_lines_and_its_cost() -> None:
    done: dict[str, Any] = {"state": "succeeded", "finished_at": LATER}
    top = replace(node("", 1), name=None)
    one = node("one", 2, top, **done, answer="first\nsecond")
    deep = node("deep", 3, one, state="failed", finished_at=LATER, error=TaskError("x", "broken"))
    deeper = node("deeper", 4, deep, **done)
    two = node("two", 2, top, state="awaiting_input", waits_for="May x run?", started_at=TS)
    usage = Usage(12, 3, estimated_cost_usd=0.5)
    tree = SessionTree(CHILD, (top, one, deep, deeper, two), truncated=True, usage=usage)
    lines = [
        "".join(part if isinstance(part, str) else part[0] for part in line) for line in drawn(tree, None)
    ]
    assert lines[:4] == [
        f"session idle {top.session_id}",
        f"├─ ✓ one succeeded 2.5 s {one.session_id}  first",
        f"│  └─ ✗ deep failed 2.5 s {deep.session_id}  broken",
        f"│     └─ ✓ deeper succeeded 2.5 s {deeper.session_id}",
    ]
    assert lines[4].startswith("└─ ‖ two awaiting_input ")
    assert lines[4].endswith("  May x run?")
    assert lines[5] == (
        "the first 5 sessions: the tree of one of them shows what is below it, 1 at work, 12 tokens in, "
        "3 out, about $0.5000"
    )
    assert not has_ended(tree)
    assert has_ended(replace(tree, nodes=(top, one, deep, deeper)))
    assert not has_ended(replace(tree, nodes=(replace(top, status="active"),)))


def test_a_long_answer_is_cut_to_the_width_of_the_terminal() -> None:
    top = node("top", 0, answer="word " * 100)
    tree = SessionTree(CHILD, (top,), truncated=False)
    for width, ends in ((100, "…"), (50, top.session_id), (None, "…"), (80, "…")):
        (first, _) = drawn(tree, width)
        text = "".join(part if isinstance(part, str) else part[0] for part in first)
        assert text.endswith(ends)
        assert len(text) <= (max(width, 61) if width else 200)


def test_what_has_not_ended_takes_until_now() -> None:
    now = datetime(2026, 3, 14, 9, 28, 53, tzinfo=UTC)
    assert took_of(TASK, now) == "2 min 0 s"
    assert took_of(replace(TASK, started_at="2026-03-14T09:28:52.000000Z"), now) == "1.0 s"
    assert took_of(node("top", 0)) == ""
    assert what_came_of(node("top", 0)) == ""
