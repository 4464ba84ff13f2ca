"""What a waiting MCP client is told, and the schemas of the tools."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from perdure.app.feed import Frame
from perdure.doors.mcp.progress import MAX_LINE, MAX_LINES, Progress
from perdure.doors.mcp.schemas import plain_schema, result_schema


def frame(kind: str, **data: Any) -> Frame:
    return Frame("event_1", kind, json.dumps({"id": "event_1", "data": data}).encode())


def lines(progress: Progress) -> list[tuple[int, str]]:
    told = [json.loads(each)["params"] for each in progress.take()]
    return [(each["progress"], each["message"]) for each in told]


def test_each_step_of_a_tool_is_one_line_and_questions_are_none() -> None:
    progress = Progress("token")
    progress.see(frame("tool.started", tool_call={"id": "c", "name": "bash", "arguments": {}}))
    progress.see(frame("tool.progress", tool_call_id="c", tool_name="bash", message="half done"))
    progress.see(frame("tool.completed", tool_call_id="c", tool_name="bash", success=False, status="error"))
    progress.see(frame("tool.completed", tool_name="approve_tool_call", status="success"))
    assert progress.ready.is_set()
    assert lines(progress) == [(1, "bash: started"), (2, "bash: half done"), (3, "bash: error")]
    assert not progress.ready.is_set()
    assert lines(progress) == []


def test_a_tool_that_tells_very_much_costs_little() -> None:
    progress = Progress(0)
    for number in range(1_000):
        progress.see(frame("tool.progress", tool_name="bash", message=f"{number} " + "x" * 10_000))
    told = lines(progress)
    assert [number for number, _ in told] == list(range(1, MAX_LINES + 1))
    assert told[-1][1].startswith("bash: 999 ")
    assert all(len(line) <= MAX_LINE for _, line in told)


class Inner(Struct):
    """An inner
    struct."""

    title: Annotated[str | None, Meta(description="A title.", examples=["x"])] = None


class Outer(Struct, forbid_unknown_fields=True):
    """Left out."""

    inner: Annotated[Inner | None, Meta(description="Said\n here.")] = None
    some: tuple[Inner, ...] = ()
    default: int = 3


def test_schemas_have_no_references_and_say_what_fields_mean() -> None:
    inner = {
        "type": "object",
        "properties": {"title": {"type": "string", "description": "A title."}},
        "required": [],
    }
    assert plain_schema(Outer) == {
        "type": "object",
        "properties": {
            "inner": {**inner, "description": "Said here."},
            "some": {"type": "array", "items": {**inner, "description": "An inner struct."}},
            "default": {"type": "integer", "default": 3},
        },
        "required": [],
        "additionalProperties": False,
    }


First = Literal["a", "c"]
Second = Literal["b"]


class Found(Struct):
    id: Annotated[str, Meta(pattern="^[a-z]+$", description="An id.")]
    named: Annotated[tuple[Inner, ...], Meta(description="Described here.")] = ()
    unnamed: tuple[Inner, ...] = ()
    kind: First | Second = "a"


def test_schemas_of_results_leave_out_what_is_of_use_in_arguments_only() -> None:
    inner = {
        "type": "object",
        "properties": {"title": {"type": "string", "description": "A title."}},
        "required": [],
    }
    assert result_schema(Found)["properties"] == {
        "id": {"type": "string", "description": "An id."},
        "named": {"type": "array", "items": inner, "description": "Described here."},
        "unnamed": {"type": "array", "items": {**inner, "description": "An inner struct."}},
        "kind": {"enum": ["a", "b", "c"]},
    }
