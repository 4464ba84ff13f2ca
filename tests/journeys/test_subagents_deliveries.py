"""Deliveries of what happens to sub-agents: lost, repeated and at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from perdure.app.accounts import bootstrap
from perdure.app.children import Spawn, spawn
from perdure.app.messages import post_message
from perdure.app.models import create_model
from perdure.app.providers import create_provider
from perdure.app.sessions import create_session
from perdure.app.task_news import deliver
from perdure.app.task_wishes import asked_to_stop
from perdure.app.tasks import list_tasks
from perdure.capabilities.port import ToolContext
from perdure.domain.accounts import Caller
from perdure.domain.errors import InvalidInput
from perdure.domain.events import Event
from perdure.domain.ids import SessionId
from perdure.domain.messages import CreateMessage, InputMessage, TextPart
from perdure.domain.providers import CreateModel, CreateProvider
from perdure.domain.redaction import Redactor
from perdure.domain.sessions import CreateSession, Session
from perdure.domain.subagents import Subagents, subagents_of
from perdure.domain.tasks import Canceller
from perdure.domain.tools import CapabilityRef, ClientSideTool
from perdure.settings import Settings
from perdure.store.bus import Appended, Subscription
from perdure.store.database import Tx
from perdure.store.events import events_after
from perdure.store.sessions import look_session
from perdure.store.task_lists import TaskFilter
from perdure.store.tasks import find_task, sessions_with_news
from perdure.wiring import Parts, open_parts
from perdure.worker.tasks import TaskSweep
from perdure.worker.worker import Worker
from tests.journeys.family import begin, calls
from tests.talk import PATIENCE, call, script, when

REPORTS = 3


async def nothing(session_id: SessionId) -> None:
    """Lose each delivery of the worker."""


async def log_of(parts: Parts, session_id: SessionId) -> list[Event]:
    return await parts.database.read(lambda tx: events_after(tx, session_id, 0, limit=1000))


async def at_rest(parts: Parts, session_id: SessionId, status: str = "idle") -> None:
    async def idle() -> bool:
        row = await parts.database.read(lambda tx: look_session(tx, session_id))
        return row is not None and row.status == status

    await when(idle)


@asynccontextmanager
async def at_work(database_url: str, folder: Path) -> AsyncIterator[tuple[Parts, Caller, Session]]:
    """A session that may begin sub-agents, whose worker tells parents nothing."""
    settings = Settings(data=str(folder), database_url=database_url)
    async with asyncio.timeout(PATIENCE), open_parts(settings) as parts:
        app, owner = parts.app, await bootstrap(parts.app)
        provider = await create_provider(app, owner, CreateProvider("Simulated", "llmsim"))
        await create_model(app, owner, provider.id, CreateModel("simulated", "Simulated"))
        ask = ClientSideTool("ask", "Ask.", {"type": "object"})
        body = CreateSession(capabilities=(CapabilityRef("subagents"),), tools=(ask,))
        session = await create_session(app, owner, body)
        worker = Worker(parts.engine, nothing)
        await worker.start()
        yield parts, owner, session
        await worker.drain(0)


@pytest.mark.parametrize("how", ["at once", "by the sweep"])
async def test_deliveries_at_the_same_time_tell_everything_once(
    database_url: str, tmp_path: Path, how: str
) -> None:
    async with at_work(database_url, tmp_path) as (parts, owner, session):
        app = parts.app
        reports = [call("report_to_parent", message=f"Report {n}.") for n in range(REPORTS)]
        told = begin("talker", calls(*reports), calls(call("ask")), mode="background")
        text = script(calls(told), {"text": "Begun."})
        await post_message(app, owner, session.id, CreateMessage(InputMessage((TextPart(text),))))
        await at_rest(parts, session.id)
        log = await log_of(parts, session.id)
        child_id = next(e.decoded().task.links.child_session_id for e in log if e.type == "task.created")  # type: ignore[attr-defined]
        await at_rest(parts, child_id, "waiting_for_tool_results")
        if how == "at once":
            await asyncio.gather(*(deliver(app, child_id) for _ in range(8)))
        else:
            sweep = TaskSweep(app, parts.engine.clock)
            assert await sweep.once() == 1
            assert await sweep.once() == 0
        await at_rest(parts, session.id)
        kinds = [event.type for event in await log_of(parts, session.id)]
        assert kinds.count("task.message.received") == REPORTS
        assert kinds.count("task.updated") == 1
        assert kinds.count("input.message") == 1
        assert await parts.database.read(lambda tx: sessions_with_news(tx, 10)) == []
        await check_choices(parts, owner.organization_id, session.id)


async def check_choices(parts: Parts, org_id: object, session_id: SessionId) -> None:
    """What is not offered cannot be chosen, whatever a caller of the use case asks for."""
    row = await parts.database.read(lambda tx: look_session(tx, session_id))
    assert row is not None
    context = ToolContext(
        org_id=row.org_id,
        session_id=row.id,
        workspace_id=row.workspace(),
        turn_id=parts.app.new_id("turn"),
        tool_call_id="c1",  # type: ignore[arg-type]
        now=parts.app.now,
        progress=lambda line: None,
        output=lambda stream, text: None,
        redactor=Redactor({}),
    )
    plain = Spawn("x", "Work.", "background", 60)
    agent = Spawn("x", "Work.", "background", 60, agent="somebody")
    blueprint = Spawn("x", "Work.", "background", 60, blueprint="nothing")
    config = subagents_of({"agents": ["a"], "blueprints": {"own": {"description": "x", "agent": "b"}}})
    both = Spawn("x", "Work.", "background", 60, agent="a", blueprint="own", config=config)
    for what, said in ((agent, "cannot choose"), (blueprint, "no blueprint"), (both, "agent of its own")):
        with pytest.raises(InvalidInput, match=said):
            await spawn(parts.app, context, what)
    with pytest.raises(Exception, match="only in the turn of a session"):
        await spawn(parts.app, context, plain)
    assert subagents_of({"agents": 7}) == Subagents()


async def test_a_clock_that_goes_back_makes_no_cancel_of_a_time_limit(
    database_url: str, tmp_path: Path
) -> None:
    async with at_work(database_url, tmp_path) as (parts, owner, session):
        app = parts.app
        text = script(calls(begin("slow", calls(call("ask")), mode="background")), {"text": "Begun."})
        await post_message(app, owner, session.id, CreateMessage(InputMessage((TextPart(text),))))
        await at_rest(parts, session.id)
        (task,) = await list_tasks(app, owner, TaskFilter(session_id=session.id), 10)
        assert task.links.child_session_id is not None
        await at_rest(parts, task.links.child_session_id, "waiting_for_tool_results")
        late = app.now() + 3600 * 1_000_000
        times = iter((late + 1,))  # the sweep looks at the clock, and then it goes back
        odd = replace(app, now=lambda: next(times, late - 3600 * 1_000_000))
        await TaskSweep(odd, parts.engine.clock).once()
        (task,) = await list_tasks(app, owner, TaskFilter(session_id=session.id), 10)
        assert task.error is not None
        assert (task.state, task.error.kind) == ("failed", "time_limit")
        kinds = [event.type for event in await log_of(parts, session.id)]
        assert kinds.count("input.message") == 2, "the session must hear of it"


@pytest.mark.parametrize("by", ["agent", "turn", "user", "time_limit"])
async def test_a_task_that_is_stopped_late_ends_as_whoever_asked_first_wanted(
    database_url: str, tmp_path: Path, by: Canceller
) -> None:
    async with at_work(database_url, tmp_path) as (parts, owner, session):
        app = parts.app
        text = script(calls(begin("slow", calls(call("ask")), mode="background")), {"text": "Begun."})
        await post_message(app, owner, session.id, CreateMessage(InputMessage((TextPart(text),))))
        await at_rest(parts, session.id)
        (task,) = await list_tasks(app, owner, TaskFilter(session_id=session.id), 10)
        assert task.links.child_session_id is not None
        await at_rest(parts, task.links.child_session_id, "waiting_for_tool_results")

        async def ask(tx: Tx) -> None:
            row = await find_task(tx, task.id)
            assert row is not None
            await asked_to_stop(tx, replace(row, wish="cancel"), app.now(), by)

        await parts.database.write(ask)  # and the process is killed
        late = app.now() + 3600 * 1_000_000
        await TaskSweep(replace(app, now=lambda: late), parts.engine.clock).once()
        (task,) = await list_tasks(app, owner, TaskFilter(session_id=session.id), 10)
        assert task.error is not None
        kind = "failed" if by == "time_limit" else "canceled"
        assert (task.state, task.error.kind) == (kind, "time_limit" if by == "time_limit" else "canceled")
        wakes = [event.type for event in await log_of(parts, session.id)].count("input.message")
        assert wakes == (1 if by == "turn" else 2)


async def test_calls_are_parked_by_the_appends_that_begin_the_children_they_wait_for(
    database_url: str, tmp_path: Path
) -> None:
    async with at_work(database_url, tmp_path) as (parts, owner, session):
        app, sweep = parts.app, TaskSweep(parts.app, parts.engine.clock)
        appends = app.bus.subscribe(session.id, live=False)
        text = script(calls(begin("one", {"text": "1."}), begin("two", {"text": "2."})), {"text": "Both."})
        await post_message(app, owner, session.id, CreateMessage(InputMessage((TextPart(text),))))
        children = await ended_children(parts, session.id, 2)
        log = await log_of(parts, session.id)
        kinds = [event.type for event in log]
        after_start = kinds[kinds.index("task.created") :]
        assert after_start == ["task.created", "tool.parked"] * 2 + ["act.completed"]
        for created, parked in ((0, 1), (2, 3)):
            first = kinds.index("task.created")
            assert log[first + created].ts == log[first + parked].ts, "one append, of one instant"
        *_, start = batches(appends)
        assert (start[0], start[-1]) == ("output.message.completed", "act.completed"), "of the answer"
        assert [each for each in start if each != "llm.generation"] == [
            *("output.message.completed", "reason.completed", "act.started", "tool.started", "tool.started"),
            *("task.created", "tool.parked", "task.created", "tool.parked", "act.completed"),
        ]
        row = await parts.database.read(lambda tx: look_session(tx, session.id))
        assert row is not None
        assert row.resting

        await asyncio.gather(*(deliver(app, child_id) for child_id in children))
        await at_rest(parts, session.id)
        ends = [batch for batch in batches(appends) if "task.updated" in batch]
        assert (
            sorted(kind for batch in ends for kind in batch) == ["task.updated"] * 2 + ["tool.completed"] * 2
        )
        if parts.database.dialect == "sqlite":
            assert len(ends) == 1, "ends that come at the same time are one append"
        app.bus.unsubscribe(appends)
        notes = await parts.database.read(lambda tx: sessions_with_news(tx, 10))
        assert {note.session_id for note in notes} == set(children)
        assert all(note.known for note in notes)
        before = len(await log_of(parts, session.id))
        assert await sweep.once() == 0, "nothing is told again"
        assert await parts.database.read(lambda tx: sessions_with_news(tx, 10)) == []
        assert len(await log_of(parts, session.id)) == before


def batches(appends: Subscription) -> list[list[str]]:
    """The kinds of the events of each append since the last look."""
    found, lost = appends.drain()
    assert not lost
    return [[event.type for event in each.events] for each in found if isinstance(each, Appended)]


async def ended_children(parts: Parts, session_id: SessionId, count: int) -> list[SessionId]:
    """Wait until a session's children are done; return their ids."""
    found: list[SessionId] = []

    async def ended() -> bool:
        sql = "SELECT id FROM sessions WHERE parent_session_id = ? AND ended IS NOT NULL"
        found[:] = [row[0] for row in await parts.database.read(lambda tx: tx.all(sql, session_id))]
        return len(found) == count

    await when(ended)
    return found
