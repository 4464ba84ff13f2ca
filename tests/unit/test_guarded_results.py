"""Guardrails of results that come from outside of a turn: from clients, and from sub-agents."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.app.guarded import checked_report, checked_results
from perdure.app.task_reports import Report
from perdure.domain.events import EventContext, GuardrailHitData
from perdure.domain.ids import OrgId, SessionId, TaskId, TurnId
from perdure.domain.tasks import TaskArtifact, TaskError, TaskMessage, TaskProgress, TaskText
from perdure.domain.tools import ToolCallResult
from perdure.store.tasks import TaskRow
from tests.unit.test_guarded import guard_of_checks, guard_with

WITHHELD = "[withheld by a guardrail: no_birds]"
IMAGE = {"type": "image", "url": "https://a.example/i.png"}


def bird(**fields: Any) -> Any:
    return guard_with(stage="tool_output", **fields)


async def one(guard: Any, **given: Any) -> ToolCallResult:
    result = ToolCallResult("c1", **given)
    checked = await checked_results(guard, (result,), {"c1": "look"})
    return checked.results[0]


async def test_without_guardrails_results_stay_as_they_are() -> None:
    result = ToolCallResult("c1", "A heron.")
    checked = await checked_results(None, (result,), {})
    assert checked.results == (result,)
    assert checked.events(EventContext(), 0) == []


@pytest.mark.parametrize(
    ("given", "blocked", "masked"),
    [
        ({"result": "A crow."}, {"result": "A crow."}, {"result": "A crow."}),
        ({"result": ["heron"]}, {"result": WITHHELD}, {"result": ["bird"]}),
        ({"error": "No heron."}, {"error": WITHHELD}, {"error": "No bird."}),
        ({"error": "No crow."}, {"error": "No crow."}, {"error": "No crow."}),
        (
            {"result": [{"type": "text", "text": "heron"}, IMAGE]},
            {"result": WITHHELD},
            {"result": [{"type": "text", "text": "bird"}, IMAGE]},
        ),
        (
            {"result": [{"type": "text", "text": "crow"}, IMAGE]},
            {"result": [{"type": "text", "text": "crow"}, IMAGE]},
            {"result": [{"type": "text", "text": "crow"}, IMAGE]},
        ),
    ],
)
async def test_a_result_is_withheld_or_masked_wherever_it_has_words(
    given: dict[str, Any], blocked: dict[str, Any], masked: dict[str, Any]
) -> None:
    assert await one(bird(), **given) == ToolCallResult("c1", **blocked)
    assert await one(bird(action="replace", replacement="bird"), **given) == ToolCallResult("c1", **masked)


async def test_the_events_say_which_calls_results_had_what() -> None:
    results = (ToolCallResult("c1", "A crow."), ToolCallResult("c2", "A heron."))
    checked = await checked_results(bird(), results, {"c2": "look"})
    (event,) = checked.events(EventContext(TurnId("turn_1")), 7)
    assert isinstance(event.data, GuardrailHitData)
    assert (event.data.tool_call_id, event.data.tool_name, event.data.turn_id) == ("c2", "look", "turn_1")
    assert (event.data.part, event.data.action, event.data.reason_code) == ("result", "block", "no_birds")


# --- reports of sub-agents -----------------------------------------------------


def task(child: str | None = "session_2") -> TaskRow:
    session = SessionId("session_1")
    return TaskRow(
        TaskId("task_1"), OrgId("org_1"), session, session, "subagent", "running", "key", TurnId("turn_1"),
        None if child is None else SessionId(child), 0, 1, None, None, 0, None, "{}",
    )  # fmt: skip


def message(text: str) -> TaskMessage:
    return TaskMessage("message_1", TaskId("task_1"), "outbound", (TaskText(text),), "2026-01-01T00:00:00Z")


LOUD = Report(
    "failed",
    error=TaskError("x", "No heron."),
    messages=(message("A heron."),),
    progress=TaskProgress(1, 2, "herons", "heron"),
    artifacts=(TaskArtifact("heron.txt", "file", path="/heron.txt"),),
)
CLEAN = Report("succeeded", answer="A crow.", output={"seen": ["crow"]}, messages=(message("Hi."),))


async def test_what_has_nothing_forbidden_or_was_checked_elsewhere_stays_as_it_is() -> None:
    assert await checked_report(bird(), task(), CLEAN) is CLEAN
    assert await checked_report(None, task(), LOUD) is LOUD
    assert await checked_report(bird(), task(child=None), LOUD) is LOUD


async def test_all_words_of_a_report_are_masked() -> None:
    checked = await checked_report(bird(action="replace", replacement="bird"), task(), LOUD)
    assert checked.error == TaskError("x", "No bird.")
    assert checked.messages == (message("A bird."),)
    assert checked.progress == TaskProgress(1, 2, "birds", "bird")
    assert checked.artifacts == (TaskArtifact("bird.txt", "file", path="/bird.txt"),)
    assert len(checked.found) >= 1
    assert not checked.withheld, "its answer is as the task has given it"


async def test_a_forbidden_answer_is_withheld_with_its_value() -> None:
    checked = await checked_report(bird(), task(), Report("succeeded", answer="A heron.", output=[1]))
    assert (checked.answer, checked.output, checked.withheld) == (WITHHELD, None, True)
    checked = await checked_report(bird(), task(), Report("succeeded", answer="Fine.", output=["heron"]))
    assert (checked.answer, checked.output, checked.withheld) == (WITHHELD, None, True)
    mask = bird(action="replace", replacement="bird")
    checked = await checked_report(mask, task(), Report("succeeded", answer="heron", output=["heron"]))
    assert (checked.answer, checked.output, checked.withheld) == ("bird", ["bird"], True)


async def test_what_a_service_does_not_allow_is_withheld_with_everything_beside_the_answer() -> None:
    judge = guard_of_checks({"type": "judge", "policy": "No birds.", "stage": "tool_output", "id": "judge"})
    checked = await checked_report(judge, task(), LOUD)  # nobody can be asked
    mark = "[withheld by a guardrail: not_checked]"
    assert checked.error == TaskError("x", mark)
    assert checked.progress == TaskProgress(1, 2, None, mark)
    assert checked.messages == (message(mark),)
    assert checked.artifacts == ()
    (hit,) = [each for each in checked.found if isinstance(each, GuardrailHitData)]
    assert (hit.guardrail_id, hit.tool_name, hit.reason_code) == ("judge", "spawn_agent", "not_checked")
