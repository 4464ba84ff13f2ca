"""Tools in the background that misbehave, and how little they take from turns. On both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from perdure.app.agents import create_agent
from perdure.app.messages import post_message
from perdure.app.participants import add_participant
from perdure.app.session_ends import cancel_turn
from perdure.app.sessions import create_session
from perdure.capabilities.port import Later, ToolContext, ToolOutcome
from perdure.domain.agents import CreateAgent
from perdure.domain.messages import CreateMessage, InputMessage, JsonObject, TextPart, text_of
from perdure.domain.participants import AddSessionParticipant
from perdure.domain.sessions import CreateSession
from perdure.domain.tools import CapabilityRef
from perdure.sandbox.pool import SHARES
from tests.conformance.background import BACKGROUND, SLOW, House, SlowTools, background, house_on
from tests.conformance.places import Place, eventually, soon
from tests.talk import call, script

RAISED: dict[str, type[BaseException]] = {
    each.__name__: each for each in (SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError)
}


class OddTools(SlowTools):
    """Tools that end as no tool should."""

    async def _work(self, context: ToolContext, arguments: JsonObject) -> ToolOutcome | Later:
        how = str(arguments.get("how"))
        if how in RAISED:
            raise RAISED[how]
        match how:
            case "itself":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(0)
            case "unstorable":
                context.progress("a\x00b\ud800")
                return ToolOutcome({"a\x00": "b\x00\ud800"})
            case "flood":
                for number in range(20_000):
                    context.progress(f"line {number}")
                return ToolOutcome("done")
        return await super()._work(context, arguments)


@pytest.fixture
def tools() -> OddTools:
    return OddTools()


@pytest_asyncio.fixture
async def house(place: Place, tmp_path: Path, tools: OddTools) -> AsyncIterator[House]:
    async with house_on(place, tmp_path / "data", tools) as house:
        yield house


async def test_a_tool_that_ends_as_no_tool_should_ends_only_its_task(house: House) -> None:
    session = await house.session()
    ways = (*RAISED, "itself", "unstorable", "flood")
    tasks = await house.begin(session, *(background("work", way, how=way) for way in ways))
    ends = {way: await house.end(task) for way, task in zip(ways, tasks, strict=True)}
    for way in (*RAISED, "itself"):
        error = ends[way].error
        assert error is not None, way
        assert error.kind == "tool_failed"
        assert "It may or may not have taken effect" in error.message
    assert ends["unstorable"].state == ends["flood"].state == "succeeded"
    assert len(await house.history(session, tasks[-1])) < 10
    assert len(await house.told(session)) == len(ways) + 1


async def test_commands_in_the_background_leave_the_shell_to_the_turn(house: House) -> None:
    session = await house.session(CapabilityRef("bashkit_shell"))
    slow = [
        call("bash", command="sleep 100", timeout=120, run_in_background=True) for _ in range(SHARES[1] + 2)
    ]
    tasks = await house.begin(session, *slow)

    async def running() -> bool:
        return len([task for task in tasks if (await house.row(task)).state == "running"]) == len(tasks)

    await eventually(running)
    await house.say(session, {"tool_calls": [call("bash", command="echo quick")]}, {"text": "Done."})
    await house.until(session, "session.idled", 2)
    result = (await house.results(session))[-1].result
    assert result is not None
    assert "quick" in text_of(result)
    await cancel_turn(house.parts.app, house.owner, session)
    assert {(await house.end(task)).state for task in tasks} == {"canceled"}


async def test_a_tool_runs_as_the_agent_that_called_it_and_not_as_the_sessions_own(
    house: House, tools: OddTools
) -> None:
    app, owner = house.parts.app, house.owner
    host, _ = await create_agent(app, owner, CreateAgent("host", "You host."))
    able = CreateAgent("guest", "You work.", capabilities=(BACKGROUND, SLOW))
    guest, _ = await create_agent(app, owner, able)
    session = (await create_session(app, owner, CreateSession(agent_id=host.id))).id
    there = await add_participant(app, owner, session, AddSessionParticipant("agent", agent_id=guest.id))
    calls = [background("again", "a"), background("again", "b")]
    told = CreateMessage(
        InputMessage((TextPart(script({"tool_calls": calls}, {"text": "Meanwhile."})),)),
        addressed_participant_id=there.id,
    )
    await post_message(app, owner, session, told)
    await house.until(session, "session.idled")
    first, second = await house.tasks(session)
    tools.gate("a").set()
    assert (await house.end(first.id)).summary == "a is done"
    await soon(tools.start("b").wait())
    agent = tools.contexts["b"].agent
    assert agent is not None
    assert agent.agent_id == guest.id
    await house.crash()
    # Its agent is gone by the time that it could run again.
    await house.parts.database.write(
        lambda tx: tx.run("UPDATE agents SET status = 'deleted' WHERE id = ?", guest.id)
    )
    await house.take_up(second.id)
    error = (await house.end(second.id)).error
    assert error is not None
    assert error.kind == "interrupted"
    assert len(tools.runs["b"]) == 1
