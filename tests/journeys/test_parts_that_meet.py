"""Places where parts of a turn meet: found tools and approvals, parked calls and files, queued messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.app.approvals import submit_approvals
from perdure.app.callbacks import answer_callback
from perdure.app.file_access import OfSession
from perdure.app.files import create_path
from perdure.app.messages import append_message, post_message
from perdure.app.providers import create_model
from perdure.capabilities import ONCE, Later, Tool, ToolContext, ToolHints, schema
from perdure.domain.callbacks import CallbackResult
from perdure.domain.files import CreateFile
from perdure.domain.inbox import Decider
from perdure.domain.messages import Controls, CreateMessage, InputMessage, Message, TextPart
from perdure.domain.providers import CreateModel
from perdure.domain.times import to_rfc3339
from perdure.domain.tools import ApprovalDecision, CapabilityRef, SubmitApprovals
from perdure.engine.advance import advance
from perdure.store.database import Tx
from perdure.store.sessions import SessionRow, get_session
from tests.journeys.test_discovery import Inside, inside, with_shelf
from tests.journeys.test_found_tools import LaterClock, Market, results, say
from tests.talk import call, script


async def _row(there: Inside) -> SessionRow:
    org_id = there.owner.organization_id
    return await there.app.database.read(lambda tx: get_session(tx, org_id, there.session.id))


async def _order(context: ToolContext, arguments: object) -> Later:
    return Later("callback", (await context.callback(60)).deadline)


class Meets:
    """The session's model, which does something before it answers for the first time."""

    def __init__(self, there: Inside, does: Any) -> None:
        self._there, self._does = there, does

    def __getattr__(self, name: str) -> Any:
        return getattr(self._there.driver, name)

    async def generate(self, *given: Any, **more: Any) -> Any:
        does, self._does = self._does, None
        if does is not None:
            await does()
        return await self._there.driver.generate(*given, **more)


@pytest.mark.parametrize("restores", [True, False])
@pytest.mark.parametrize("hints", [ToolHints(destructive=True), ToolHints(open_world=True)])
async def test_a_message_during_the_answer_lets_no_found_tool_run_without_approval(
    hints: ToolHints, restores: bool, tmp_path: Path
) -> None:
    market = Market("axe", restores=restores, hints=hints)
    body = with_shelf(CapabilityRef("tool_approval", {"mode": "normal"}))
    answers = ({"tool_calls": [call("axe", "c1")]}, {"text": "So be it."})
    async with inside("", tmp_path, market, *answers, session=body) as there:
        driver: Any = Meets(there, lambda: say(there, "Wait!"))
        await say(there)
        await advance(replace(there.engine, drivers=lambda row, secrets: driver), there.session.id)
        assert await results(there) == ["cancelled: the user sent a new message"]


async def test_files_that_clients_write_do_not_wake_a_parked_session(
    database_url: str, tmp_path: Path
) -> None:
    market = Market()
    market.tools = (Tool("order", "Order.", schema({}), _order, ONCE),)
    answers = ({"tool_calls": [call("order", "c1")]}, {"text": "Here."})
    async with inside(database_url, tmp_path, market, *answers, session=with_shelf()) as there:
        await there.ask()
        for number in range(5):
            place = OfSession(there.session.id)
            await create_path(there.app, there.owner, place, f"/{number}.txt", CreateFile("Text."))
            assert (await _row(there)).resting, "the sweep leaves it alone"
            await advance(there.engine, there.session.id, again=True)
        row = await _row(there)
        assert (row.status, row.recoveries, len(row.parked_calls())) == ("active", 0, 1)


async def test_each_queued_message_has_the_model_that_it_asks_for(tmp_path: Path) -> None:
    answers = tuple({"text": f"Answer {number}."} for number in range(3))
    async with inside("", tmp_path, Market(), *answers, session=with_shelf()) as there:
        org_id = there.owner.organization_id
        found = await there.app.database.read(
            lambda tx: tx.one("SELECT id FROM providers WHERE org_id = ?", org_id)
        )
        models = {
            name: (await create_model(there.app, there.owner, found[0], CreateModel(name, name))).id
            for name in ("second", "third")
        }

        async def meanwhile() -> None:
            for name, model in models.items():
                controls = Controls(model_id=model, when_busy="queue")
                message = CreateMessage(InputMessage((TextPart(name),)), controls=controls)
                await post_message(there.app, there.owner, there.session.id, message)

        driver: Any = Meets(there, meanwhile)
        await say(there)
        await advance(replace(there.engine, drivers=lambda row, secrets: driver), there.session.id)
        assert [request.model for request in there.driver.requests] == ["simulated", "second", "third"]


async def test_an_approval_that_is_left_can_be_given_after_a_callback_was_late(tmp_path: Path) -> None:
    market = Market("axe", "saw", hints=ToolHints(destructive=True))
    market.tools = (Tool("order", "Order.", schema({}), _order, ONCE),)
    body = with_shelf(CapabilityRef("tool_approval", {"mode": "normal"}))
    calls = [call("order", "c1"), call("axe", "c2"), call("saw", "c3")]
    async with inside("", tmp_path, market, {"tool_calls": calls}, {"text": "So."}, session=body) as there:
        await there.ask()

        async def allow(call_id: str) -> None:
            decisions = SubmitApprovals((ApprovalDecision(call_id, "allow"),))
            await submit_approvals(there.app, Decider(there.owner), there.session.id, decisions)

        await allow("c2")
        engine: Any = replace(there.engine, clock=LaterClock(there, 61))
        await advance(engine, there.session.id)
        assert (await _row(there)).status == "waiting_for_tool_results"
        await allow("c3")
        await advance(engine, there.session.id)
        assert sorted(await results(there))[1:] == ["used", "used"]


@pytest.mark.parametrize(
    ("arrive", "reason"),
    [
        (("late",), "the result of an earlier call arrived"),
        (("late", "user"), "the user sent a new message"),
        (("schedule",), "a scheduled message arrived"),
        (("schedule", "late"), "a scheduled message arrived"),
        (("late", "schedule", "user"), "the user sent a new message"),
    ],
)
async def test_a_withdrawn_call_says_what_withdrew_it(
    arrive: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    urls: list[str] = []

    async def order(context: ToolContext, arguments: object) -> Later:
        callback = await context.callback(60)
        urls.append(callback.url)
        return Later("callback", callback.deadline)

    market = Market("axe", hints=ToolHints(destructive=True))
    market.tools = (Tool("order", "Order.", schema({}), order, ONCE),)
    body = with_shelf(CapabilityRef("tool_approval", {"mode": "normal"}))
    async with inside("", tmp_path, market, session=body) as there:

        async def comes() -> None:
            for what in arrive:
                if what == "late":
                    await answer_callback(there.app, urls[0].rsplit("/", 1)[1], CallbackResult("here"))
                elif what == "user":
                    await say(there, "Wait!")
                else:
                    await there.app.database.write(remind)

        async def remind(tx: Tx) -> None:
            row = await get_session(tx, there.owner.organization_id, there.session.id, lock=True)
            now = there.app.now()
            message = Message(
                there.app.new_id("message"), "user", (TextPart("It is time."),), to_rfc3339(now)
            )
            await append_message(there.app, tx, row, message, now, origin="schedule")

        await say(there, script({"tool_calls": [call("order", "c1")]}))
        await advance(there.engine, there.session.id)
        await say(there, script({"tool_calls": [call("axe", "c2")]}, ask="Meanwhile."))
        driver: Any = Meets(there, comes)
        await advance(replace(there.engine, drivers=lambda row, secrets: driver), there.session.id)
        assert (await results(there))[1:] == [f"cancelled: {reason}"]
