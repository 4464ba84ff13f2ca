"""Tools in the background, on both databases: each task ends once, and its session hears of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from msgspec.structs import replace

from perdure.app.approvals import submit_approvals
from perdure.app.background_tools import begin_attempt
from perdure.app.session_ends import cancel_turn, delete_session, stop_task
from perdure.app.storage import put_secrets
from perdure.app.task_news import settle
from perdure.app.task_reports import Report
from perdure.domain.decisions import StandingDecision
from perdure.domain.effects import NOT_DONE, UNKNOWN, Verified, done, part_key
from perdure.domain.errors import ToolError
from perdure.domain.events import ActCompletedData
from perdure.domain.ids import SessionId
from perdure.domain.inbox import Decider
from perdure.domain.messages import text_of
from perdure.domain.storage import SetSecrets
from perdure.domain.tasks import MAX_OPEN
from perdure.domain.tools import ApprovalDecision, CapabilityRef, SubmitApprovals
from perdure.engine.advance import advance
from perdure.store.database import Database
from perdure.store.sessions import look_session
from perdure.store.standing_approvals import set_standing_approval
from perdure.store.tasks import TaskRow
from perdure.worker import background as module
from tests.conformance.background import House, SlowTools, background, house_on
from tests.conformance.places import Place, eventually, soon
from tests.journeys.test_outages import Faulty
from tests.talk import call

SECRET = "tops3cret-value"


@pytest.fixture
def tools() -> SlowTools:
    return SlowTools()


@pytest_asyncio.fixture
async def house(place: Place, tmp_path: Path, tools: SlowTools) -> AsyncIterator[House]:
    async with house_on(place, tmp_path / "data", tools) as house:
        yield house


async def test_calls_run_beside_the_turn_and_each_end_reaches_the_session_once(
    house: House, tools: SlowTools
) -> None:
    session = await house.session(CapabilityRef("session_file_system"))
    ways = ("text", "value", "refuse", "break", "long", "page", "later", "file")
    calls = [background("work", way, how=way) for way in ways]
    ids = await house.begin(session, *calls, background("short", "late"))
    results = await house.results(session)
    said = [json.loads(text_of(each.result or ())) for each in results]
    assert said == [{"task_id": id_, "state": "running"} for id_ in ids]
    assert await _acted(house, session) == (True, len(ids), 0)
    await asyncio.gather(*(soon(tools.start(way).wait()) for way in ways))
    for way in ways:
        tools.gate(way).set()

    tasks = {name: await house.end(id_) for name, id_ in zip((*ways, "late"), ids, strict=True)}
    errors = {name: (task.error.kind, task.error.message) for name, task in tasks.items() if task.error}
    unsure = "It may or may not have taken effect; check the current state before you try again."
    assert errors["refuse"] == ("tool_error", "no refuse today")
    assert errors["break"] == ("tool_failed", f"The tool failed: ZeroDivisionError. {unsure}")
    assert errors["late"] == ("time_limit", f"The tool did not finish within 0.2 seconds. {unsure}")
    assert errors["later"][1].startswith("The tool's result comes later, from a person or another service")
    assert {task.state for name, task in tasks.items() if name in errors} == {"failed"}
    assert {task.state for name, task in tasks.items() if name not in errors} == {"succeeded"}
    assert {task.attempt for task in tasks.values()} == {1}
    assert tasks["text"].summary == "text is done"
    assert tasks["value"].output == {"name": "value", "numbers": [1, 2]}
    assert tasks["page"].output == "page " + "y" * 5_000 + " end"
    assert [(each.name, each.path) for each in tasks["file"].artifacts] == [("made.txt", "/made.txt")]
    assert tasks["long"].result_path is not None
    long = str(tasks["long"].output)
    assert (long[:5], long[-4:], len(long) < 70_000) == ("long ", " end", True)

    await eventually(lambda: house.told(session), lambda told: len(told) == len(ids) + 1)
    told = await house.told(session)
    assert told[ids[0]].endswith("which has succeeded:]\ntext is done")
    assert told[ids[2]].endswith("failed: no refuse today]")
    for id_ in ids:
        assert [task.ended for task in await house.history(session, id_)] == [False, True]
    written = [event.data for event in await house.events(session) if event.type == "file.written"]
    assert len(written) == 2  # the tool's own file, and that of the long result


async def _acted(house: House, session: SessionId) -> tuple[bool, int, int]:
    """What the log says about its only batch of calls."""
    (event,) = [each for each in await house.events(session) if each.type == "act.completed"]
    data = event.read(ActCompletedData)
    return data.completed, data.success_count, data.error_count


async def test_a_model_waits_for_a_task_and_looks_at_it(house: House, tools: SlowTools) -> None:
    session = await house.session()
    await house.say(
        session,
        {"tool_calls": [background("work", "a", how="page"), background("work", "b")]},
        {"tool_calls": [call("wait_tasks")]},
        {"tool_calls": [call("list_tasks")]},
        {"text": "Done."},
    )
    await house.until(session, "tool.parked")
    tools.gate("a").set()
    tools.gate("b").set()
    await house.until(session, "session.idled")
    *_, waited, listed = await house.results(session)
    a, b = json.loads(text_of(waited.result or ()))
    assert (a["state"], a["output"]) == ("succeeded", "a " + "y" * 5_000 + " end")
    assert (b["state"], b["answer"]) == ("succeeded", "b is done")
    first = json.loads(text_of(listed.result or ()))["tasks"][0]
    assert first["answer"].endswith("characters are left out: `get_task` has more.]")
    assert not {a["task_id"], b["task_id"]} & set(await house.told(session))  # they were waited for


async def test_what_stops_a_task_stops_its_tool_and_later_results_are_dropped(
    house: House, tools: SlowTools
) -> None:
    by_tool, by_turn, by_delete, by_time = [await house.session() for _ in range(4)]
    assert house.tools._watching is not None
    house.tools._watching.cancel()  # a signal stops a tool at once; another test is about lost ones
    app, owner, org = house.parts.app, house.owner, house.owner.organization_id
    tasks = {}
    for name, session in (("tool", by_tool), ("turn", by_turn), ("delete", by_delete), ("time", by_time)):
        (tasks[name],) = await house.begin(session, background("look" if name == "time" else "work", name))
        await soon(tools.start(name).wait())
    assert (await stop_task(app, org, by_tool, tasks["tool"], "user", "not needed")).state == "canceled"
    assert (await stop_task(app, org, by_tool, tasks["tool"], "user")).state == "canceled"
    await cancel_turn(app, owner, by_turn)
    await house.parts.database.write(
        lambda tx: tx.run("UPDATE tasks SET deadline = 1 WHERE id = ?", tasks["time"])
    )
    await house.sweep.once()
    await delete_session(app, owner, by_delete)

    async def all_stopped() -> bool:
        return sorted(tools.stopped) == ["delete", "time", "tool", "turn"]

    await eventually(all_stopped)
    for name in ("tool", "turn", "time"):
        late = Report("succeeded", attempt=1, answer="too late")
        assert not await settle(app, tasks[name], late)
    unsure = "It may or may not have taken effect; check the current state before you try again."
    ends = {name: await house.end(tasks[name]) for name in ("tool", "turn", "time")}
    said = {name: (end.state, end.error.kind, end.error.message) for name, end in ends.items() if end.error}
    assert said == {
        "tool": ("canceled", "canceled", f"It was canceled: not needed {unsure}"),
        "turn": ("canceled", "canceled", f"It was canceled. {unsure}"),
        "time": ("failed", "time_limit", "The time limit has passed."),
    }
    assert "not needed" in (await house.told(by_tool))[tasks["tool"]]
    assert tasks["turn"] not in await house.told(by_turn)  # its session has stopped it
    assert "The time limit has passed." in (await house.told(by_time))[tasks["time"]]
    history = await house.history(by_tool, tasks["tool"])
    assert [task.state for task in history] == ["running", "running", "canceled"]


async def test_after_a_crash_a_tool_runs_again_or_its_outcome_is_looked_up_or_unknown(
    house: House, tools: SlowTools
) -> None:
    cases: dict[str, tuple[str, Verified]] = {
        "work": ("work", UNKNOWN),
        "again": ("again", UNKNOWN),
        "look": ("look", UNKNOWN),
        "done": ("asked", done("it is done")),
        "unknown": ("asked", UNKNOWN),
        "not done": ("asked", NOT_DONE),
    }
    session = await house.session()
    ids = dict(
        zip(
            cases,
            await house.begin(session, *(background(tool, name) for name, (tool, _) in cases.items())),
            strict=True,
        )
    )
    await asyncio.gather(*(soon(tools.start(name).wait()) for name in cases))
    tools.outcomes = {name: outcome for name, (_, outcome) in cases.items()}
    await house.crash()
    await house.long_ago(ids["not done"])
    assert {(await house.row(id_)).state for id_ in ids.values()} == {"running"}
    for name in cases:
        tools.start(name).clear()
    await house.take_up(*ids.values())
    for name in ("again", "look", "not done"):
        await soon(tools.start(name).wait())
        tools.gate(name).set()
    ends = {name: await house.end(id_) for name, id_ in ids.items()}
    assert {name: end.state for name, end in ends.items()} == {
        "work": "failed",
        "again": "succeeded",
        "look": "succeeded",
        "done": "succeeded",
        "unknown": "failed",
        "not done": "succeeded",
    }
    assert ends["done"].summary == "it is done"
    for name in ("work", "unknown"):
        error = ends[name].error
        assert error is not None
        assert error.kind == "interrupted"
        assert "may or may not have taken effect" in error.message
    assert {name: len(runs) for name, runs in tools.runs.items()} == {
        "work": 1,
        "again": 2,
        "look": 2,
        "done": 1,
        "unknown": 1,
        "not done": 2,
    }
    assert all(len(set(keys)) == 1 for keys in tools.runs.values())
    assert (ends["again"].attempt, ends["work"].attempt) == (2, 1)


async def test_a_tool_that_dies_with_its_server_again_and_again_fails(house: House, tools: SlowTools) -> None:
    session = await house.session()
    (task_id,) = await house.begin(session, background("again", "a"))
    for number in range(1, 5):
        await soon(tools.start("a").wait())
        tools.start("a").clear()
        assert (await house.row(task_id)).attempt == number
        await house.crash()
        await house.take_up(task_id)
    end = await house.end(task_id)
    assert end.error is not None
    assert end.error.message.startswith("It was interrupted 4 times")
    assert len(tools.runs["a"]) == 4


async def test_only_the_newest_attempt_ends_a_task(house: House, tools: SlowTools) -> None:
    session = await house.session()
    (task_id,) = await house.begin(session, background("again", "a"))
    assert await _acted(house, session) == (True, 1, 0)
    await soon(tools.start("a").wait())
    seen = await house.row(task_id)
    taken = await begin_attempt(house.parts.app, seen, "another worker", 60)
    assert taken is not None
    assert await begin_attempt(house.parts.app, seen, "another worker", 60) == taken
    assert await begin_attempt(house.parts.app, replace(taken, attempt=1), "a third one", 60) is None

    async def stopped() -> bool:
        return tools.stopped == ["a"]

    await eventually(stopped)  # by its look at the rows: nobody has sent it a signal
    assert not await settle(house.parts.app, task_id, Report("succeeded", attempt=1, answer="old"))
    assert await settle(house.parts.app, task_id, Report("succeeded", attempt=2, answer="new"))
    assert (await house.end(task_id)).summary == "new"


async def test_progress_is_logged_and_secrets_are_redacted(house: House, tools: SlowTools) -> None:
    session = await house.session()
    await put_secrets(house.parts.app, house.owner, session, SetSecrets({"TOKEN": SECRET}))
    (task_id,) = await house.begin(session, background("look", "a", how="found"))
    tools.found = SECRET
    await soon(tools.start("a").wait())
    for line in ("one", "two", f"three {SECRET}"):
        tools.contexts["a"].progress(line)

    async def labels() -> list[str | None]:
        history = await house.history(session, task_id)
        return [each.progress.label for each in history if each.progress is not None]

    await eventually(labels)
    assert SECRET not in (await house.row(task_id)).task
    tools.gate("a").set()
    end = await house.end(task_id)
    assert ((await labels())[0] or "").startswith("three [")
    assert end.summary is not None
    assert end.summary.startswith("found ")
    await house.until(session, "session.idled", 2)
    assert all(SECRET not in event.data for event in await house.events(session))
    assert SECRET not in (await house.row(task_id)).task


async def test_arguments_that_are_secret_cannot_wait_in_the_background(
    house: House, tools: SlowTools
) -> None:
    session = await house.session()
    await house.say(
        session,
        {"tool_calls": [call("foreground", note="first")]},
        {"tool_calls": [background("keeper", "a", how="swordfish-1234"), background("work", SECRET)]},
        {"text": "Done."},
    )
    await soon(tools.start("first").wait())
    await put_secrets(house.parts.app, house.owner, session, SetSecrets({"TOKEN": SECRET}))
    tools.gate("first").set()
    await house.until(session, "session.idled")
    errors = [each.error for each in (await house.results(session))[1:]]
    assert [(error or "")[:29] for error in errors] == ["The arguments contain a secre"] * 2
    assert list(tools.runs) == ["first"]
    assert not await house.tasks(session)


async def test_a_call_that_needs_approval_begins_once_it_has_it(house: House, tools: SlowTools) -> None:
    session = await house.session()
    await house.say(
        session, {"tool_calls": [{**background("gated", "a", how="now"), "id": "c1"}]}, {"text": "Done."}
    )
    await house.until(session, "tool.call_requested")
    assert not await house.tasks(session)
    decision = SubmitApprovals((ApprovalDecision("c1", "allow"),))
    await submit_approvals(house.parts.app, Decider(house.owner), session, decision)
    await house.until(session, "task.created")
    (task,) = await house.tasks(session)
    assert (await house.end(task.id)).summary == "a is done"


async def test_a_crash_before_the_append_begins_the_task_once(
    house: House, tools: SlowTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks, reached = house.parts.engine.arguments, asyncio.Event()

    async def hang(*args: object) -> None:
        reached.set()
        await asyncio.Event().wait()

    session = await house.session()
    with monkeypatch.context() as patch:
        patch.setattr(checks, "check", hang)  # the last thing before the append
        await house.say(session, {"tool_calls": [background("work", "a", how="now")]}, {"text": "Done."})
        await soon(reached.wait())
        assert not await house.tasks(session)
        await house.worker.drain(0)
    await advance(house.parts.engine, session, again=True)
    (task,) = await house.tasks(session)
    assert (await house.row(task.id)).state == "queued"
    kinds = [event.type for event in await house.events(session)]
    assert kinds.count("tool.started") == kinds.count("tool.completed") == 1
    assert kinds.index("tool.completed") == kinds.index("task.created") + 1


async def test_what_a_tool_cannot_pass_on_in_the_background_is_said(house: House, tools: SlowTools) -> None:
    session = await house.session()
    names = ("picture", "nothing", "steps")
    picture, nothing, steps = await house.begin(
        session, *(background("work", name, how=name) for name in names)
    )
    await asyncio.gather(*(soon(tools.start(name).wait()) for name in names))
    for name in names:
        tools.gate(name).set()
    assert (await house.end(picture)).summary == (
        "[The images of the result are left out: they are shown only in the turn.]"
    )
    assert (await house.end(nothing)).summary == "null"
    (key,) = tools.runs["steps"]
    assert (await house.end(steps)).output == [
        {"part": name, "key": part_key(key, name)} for name in ("one", "two")
    ]
    with pytest.raises(ToolError):
        await tools.contexts["steps"].callback(60)


async def test_a_task_whose_tool_cannot_be_run_fails(
    house: House, tools: SlowTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = {name: await house.session() for name in ("gone", "lost", "rejected", "broken", "damaged")}
    tasks = {}
    for name, session in sessions.items():
        (tasks[name],) = await house.begin(session, background("again", name))
        await soon(tools.start(name).wait())
    await house.crash()
    run = house.parts.database.write
    nothing = '{"capabilities": []}'
    for name in ("gone", "lost"):
        await run(
            lambda tx, id_=sessions[name]: tx.run("UPDATE sessions SET config = ? WHERE id = ?", nothing, id_)
        )
    await run(lambda tx: tx.run("UPDATE tasks SET attempt = 0 WHERE id = ?", tasks["gone"]))
    damaged = "UPDATE events SET data = '{}' WHERE session_id = ? AND type = 'tool.started'"
    await run(lambda tx: tx.run(damaged, sessions["damaged"]))
    rejected = await house.parts.database.read(lambda tx: look_session(tx, sessions["rejected"]))
    assert rejected is not None
    always = StandingDecision("reject_always")
    await run(lambda tx: set_standing_approval(tx, rejected, "again", always))
    prepare = module.prepare

    async def broken(engine: object, task: TaskRow) -> object:
        if task.id == tasks["broken"]:
            raise ZeroDivisionError
        return await prepare(engine, task)

    monkeypatch.setattr(module, "prepare", broken)
    await house.take_up(*tasks.values())
    ends = {name: await house.end(task) for name, task in tasks.items()}
    assert {name: end.error and end.error.kind for name, end in ends.items()} == {
        "gone": "unknown_tool",
        "lost": "interrupted",
        "rejected": "rejected",
        "broken": "internal_error",
        "damaged": "unreadable",
    }
    for end in ends.values():
        assert end.error is not None
        assert ("may or may not have taken effect" in end.error.message) == (end.id != tasks["gone"])


async def test_a_result_outlasts_an_outage_of_the_database(
    place: Place, tmp_path: Path, tools: SlowTools
) -> None:
    down = asyncio.Event()
    faulty: list[Faulty] = []

    def wrap(database: Database) -> Any:
        faulty.append(Faulty(database, lambda kind, number: "before" if down.is_set() else None))
        return faulty[0]

    async with house_on(place, tmp_path / "data", tools, wrap=wrap) as house:
        session = await house.session()
        (task_id,) = await house.begin(session, background("work", "a"))
        await soon(tools.start("a").wait())
        down.set()
        tools.contexts["a"].progress("Nobody hears this.")

        async def looked(times: int) -> bool:
            return faulty[0].faults >= times

        await eventually(lambda: looked(2))  # the progress, and a look at the rows
        tools.gate("a").set()
        await eventually(lambda: looked(4))
        down.clear()
        end = await house.end(task_id)
        assert (end.state, end.summary, end.attempt) == ("succeeded", "a is done", 1)


async def test_a_task_waits_for_a_server_that_runs_tools(
    place: Place, tmp_path: Path, tools: SlowTools
) -> None:
    async with house_on(place, tmp_path / "data", tools, runs_tools=False) as house:
        session = await house.session()
        again, stopped = await house.begin(session, background("again", "a"), background("work", "b"))
        org = house.owner.organization_id
        end = await stop_task(house.parts.app, org, session, stopped, "user", "no need")
        assert end.error is not None
        assert end.error.message == "It was canceled: no need"
        late = await house.row(stopped)
        assert await begin_attempt(house.parts.app, late, "too late", 60) is None
        assert (await house.row(again)).state == "queued"
    async with house_on(place, tmp_path / "data", tools) as house:
        await house.take_up(again)
        await soon(tools.start("a").wait())
        await delete_session(house.parts.app, house.owner, session)
        await eventually(lambda: _stopped(tools, "a"))
    assert "b" not in tools.runs


async def _stopped(tools: SlowTools, name: str) -> bool:
    return name in tools.stopped


async def test_a_task_outlives_its_server(place: Place, tmp_path: Path, tools: SlowTools) -> None:
    async with house_on(place, tmp_path / "data", tools) as house:
        session = await house.session()
        again, work = await house.begin(session, background("again", "a"), background("work", "b"))
        await asyncio.gather(*(soon(tools.start(name).wait()) for name in "ab"))
        tools.start("a").clear()
    async with house_on(place, tmp_path / "data", tools) as house:
        await house.take_up(again, work)
        await soon(tools.start("a").wait())
        tools.gate("a").set()
        assert (await house.end(again)).summary == "a is done"
        assert (await house.end(again)).attempt == 1
        assert (await house.end(work)).state == "failed"


async def test_a_server_that_stops_puts_back_what_may_run_again(house: House, tools: SlowTools) -> None:
    session = await house.session()
    again, work = await house.begin(session, background("again", "a"), background("work", "b"))
    await asyncio.gather(*(soon(tools.start(name).wait()) for name in "ab"))
    await house.worker.drain(0)
    rows = [await house.row(again), await house.row(work)]
    assert [(row.state, row.attempt) for row in rows] == [("queued", 0), ("running", 1)]


async def test_no_more_tasks_begin_than_may_be_open(house: House, tools: SlowTools) -> None:
    session = await house.session()
    tasks = await house.begin(session, *(background("look", str(n)) for n in range(MAX_OPEN + 1)))
    assert len(tasks) == MAX_OPEN
    (error,) = [each.error for each in await house.results(session) if each.error]
    assert error.startswith(f"{MAX_OPEN} tasks of this session have not ended")
    await cancel_turn(house.parts.app, house.owner, session)
    assert {(await house.end(task)).state for task in tasks} == {"canceled"}
