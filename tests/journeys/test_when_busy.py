"""What happens to a message that arrives in the middle of a turn: `controls.when_busy`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from perdure.app.approvals import submit_approvals
from perdure.app.events import fill_prompt
from perdure.app.forks import fork_session
from perdure.app.messages import list_messages, post_message
from perdure.app.session_ends import cancel_turn
from perdure.capabilities import ONCE, READ_ONLY, ToolContext, ToolHints, ToolOutcome
from perdure.domain.errors import Conflict
from perdure.domain.events import Event, LlmGenerationData, TurnStartedData, WireEvent
from perdure.domain.inbox import Decider
from perdure.domain.messages import (
    Controls,
    CreateMessage,
    InputMessage,
    Message,
    ReasoningConfig,
    TextPart,
    WhenBusy,
    text_of,
)
from perdure.domain.sessions import ForkSession
from perdure.domain.tools import ApprovalDecision, CapabilityRef, SubmitApprovals
from perdure.domain.turn_watch import TurnWatch
from perdure.engine.advance import advance
from perdure.engine.conversation_cache import ConversationCache
from perdure.store.events import events_after
from perdure.store.sessions import get_session
from tests.journeys.test_discovery import Inside, inside, with_shelf
from tests.journeys.test_found_tools import Market
from tests.talk import call, script

SCRIPTS: dict[str, tuple[dict[str, Any], ...]] = {
    "First.": ({"tool_calls": [call("axe", "c1")]}, {"text": "Re: First."})
}
"""By message: what the model does. It answers all others with their text."""


async def send(
    there: Inside, text: str, when_busy: WhenBusy | None = None, effort: str | None = None
) -> Message:
    text = script(*SCRIPTS.get(text, ({"text": f"Re: {text}"},)), ask=text)
    reasoning = None if effort is None else ReasoningConfig(effort)
    body = CreateMessage(
        InputMessage((TextPart(text),)), controls=Controls(when_busy=when_busy, reasoning=reasoning)
    )
    return await post_message(there.app, there.owner, there.session.id, body)


class Meanwhile(Market):
    """A market whose tool does something while it runs, for the first time."""

    def __init__(self, hints: ToolHints = READ_ONLY) -> None:
        super().__init__("axe", hints=hints)
        self.does: Any = None
        self.run = self._run

    async def _run(self, context: ToolContext, arguments: object) -> ToolOutcome:
        does, self.does = self.does, None
        if does is not None:
            await does()
        return ToolOutcome("used")


async def log_of(there: Inside) -> list[Event]:
    return await there.app.database.read(lambda tx: events_after(tx, there.session.id, 0))


def prompts(there: Inside) -> list[list[str]]:
    """What each model call was sent."""
    return [said(request.messages) for request in there.driver.requests]


def said(messages: Iterable[Message]) -> list[str]:
    """The texts of users and answers, without scripts."""
    return [text_of(m.content).split(" [[")[0] for m in messages if m.role in {"user", "agent"}]


async def rebuilt(there: Inside) -> list[list[str]]:
    """The same, as it is rebuilt from the log for readers of `llm.generation`."""
    calls = []
    for event in await log_of(there):
        if event.type == LlmGenerationData.kind:
            filled = await there.app.database.read(partial(fill_prompt, event=event))
            calls.append(said(filled.read(LlmGenerationData).messages or ()))
    return calls


async def status(there: Inside) -> tuple[str, list[str]]:
    row = await there.app.database.read(
        lambda tx: get_session(tx, there.owner.organization_id, there.session.id)
    )
    began = [
        (data.input_content or "").split(" [[")[0]
        for event in await log_of(there)
        if (data := event.get(TurnStartedData))
    ]
    return row.status, began


async def test_queued_messages_begin_turns_of_their_own_in_order_and_the_running_turn_does_not_see_them(
    database_url: str, tmp_path: Path
) -> None:
    market = Meanwhile()
    async with inside(database_url, tmp_path, market, session=with_shelf()) as there:

        async def meanwhile() -> None:
            await send(there, "Second.", "queue", effort="high")
            await send(there, "Also this.", effort="low")
            await send(there, "Third.", "queue")

        market.does = meanwhile
        await send(there, "First.")
        await advance(there.engine, there.session.id)
        assert await status(there) == ("idle", ["First.", "Second.", "Third."])
        first = ["First.", "", "Also this."]
        assert prompts(there) == [
            ["First."],
            first,
            [*first, "Re: Also this.", "Second."],
            [*first, "Re: Also this.", "Second.", "Re: Second.", "Third."],
        ]
        assert [request.reasoning_effort for request in there.driver.requests] == [None, "low", "high", None]
        assert [event.type for event in await log_of(there)].count("session.idled") == 1
        assert await rebuilt(there) == prompts(there), "as the log tells"
        batches = list_messages(there.app, there.owner, there.session.id)
        listed = [each async for batch in batches for each in batch if each.role == "user"]
        assert said(listed) == ["First.", "Second.", "Also this.", "Third."]
        before = prompts(there)[-1]
        there.driver.requests.clear()
        await send(there, "Fourth.", "queue")
        await advance(replace(there.engine, conversations=ConversationCache()), there.session.id)
        assert prompts(there) == [[*before, "Re: Third.", "Fourth."]]


async def test_a_queued_message_withdraws_no_open_call(database_url: str, tmp_path: Path) -> None:
    market = Meanwhile(ONCE)
    body = with_shelf(CapabilityRef("tool_approval", {"mode": "protective"}))
    async with inside(database_url, tmp_path, market, session=body) as there:
        await send(there, "First.")
        await advance(there.engine, there.session.id)
        await send(there, "Second.", "queue")
        assert await status(there) == ("waiting_for_tool_results", ["First."])
        await advance(there.engine, there.session.id)
        assert await status(there) == ("waiting_for_tool_results", ["First."])
        decisions = SubmitApprovals((ApprovalDecision("c1", "allow"),))
        await submit_approvals(there.app, Decider(there.owner), there.session.id, decisions)
        await advance(there.engine, there.session.id)
        assert await status(there) == ("idle", ["First.", "Second."])
        assert prompts(there)[1:] == [["First.", ""], ["First.", "", "Re: First.", "Second."]]


async def test_a_message_may_be_refused_while_the_session_is_busy(tmp_path: Path) -> None:
    market = Meanwhile(ONCE)
    body = with_shelf(CapabilityRef("tool_approval", {"mode": "protective"}))
    async with inside("", tmp_path, market, session=body) as there:
        await send(there, "First.", "reject")
        with pytest.raises(Conflict, match=r"the turn turn_.* is running") as refused:
            await send(there, "Second.", "reject")
        assert refused.value.code == "session_busy"
        await advance(there.engine, there.session.id)
        before = await log_of(there)
        with pytest.raises(Conflict, match="waits for an approval"):
            await send(there, "Second.", "reject")
        assert await log_of(there) == before


@pytest.mark.parametrize("parked", [True, False])
async def test_an_interrupting_message_replaces_the_turn(
    parked: bool, database_url: str, tmp_path: Path
) -> None:
    market = Meanwhile(ONCE if parked else READ_ONLY)
    refs = (CapabilityRef("tool_approval", {"mode": "protective"}),) if parked else ()
    async with inside(database_url, tmp_path, market, session=with_shelf(*refs)) as there:

        async def meanwhile() -> None:
            await send(there, "Later.", "queue")
            await send(there, "Now.", "interrupt")

        await send(there, "First.")
        if parked:
            await advance(there.engine, there.session.id)
            await meanwhile()
        else:
            market.does = meanwhile
            await advance(there.engine, there.session.id)
        await advance(there.engine, there.session.id)
        assert await status(there) == ("idle", ["First.", "Now.", "Later."])
        assert prompts(there)[1][-1] == "Now."
        assert "Later." not in prompts(there)[1]
        assert prompts(there)[2][-2:] == ["Re: Now.", "Later."]
        types = [event.type for event in await log_of(there)]
        assert types.count("turn.cancelled") == 1
        assert types.count("session.idled") == 1, "it is never idle while a message waits"


async def test_a_cancel_leaves_queued_messages_to_their_turns_and_cancels_those_one_by_one(
    database_url: str, tmp_path: Path
) -> None:
    market = Meanwhile()
    async with inside(database_url, tmp_path, market, session=with_shelf()) as there:

        async def meanwhile() -> None:
            await send(there, "Never.", "queue")
            await send(there, "Steers.")
            await send(there, "Second.", "queue")
            for _ in range(2):
                await cancel_turn(there.app, there.owner, there.session.id)

        market.does = meanwhile
        await send(there, "First.")
        await advance(there.engine, there.session.id)
        await advance(there.engine, there.session.id)
        assert await status(there) == ("idle", ["First.", "Second."])
        assert [event.type for event in await log_of(there)].count("turn.cancelled") == 2
        assert (await cancel_turn(there.app, there.owner, there.session.id)).status == "no_op"


async def test_queued_messages_outlast_a_crash_and_a_copy_is_idle_without_them(
    database_url: str, tmp_path: Path
) -> None:
    market = Meanwhile()
    async with inside(database_url, tmp_path, market, session=with_shelf()) as there:
        running = asyncio.Event()

        async def meanwhile() -> None:
            await send(there, "Second.", "queue")
            running.set()
            await asyncio.Event().wait()

        market.does = meanwhile
        await send(there, "First.")
        work = asyncio.create_task(advance(there.engine, there.session.id))
        await running.wait()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        copy = await fork_session(there.app, there.owner, there.session.id, ForkSession())
        assert copy.status == "idle"
        await advance(there.engine, there.session.id, again=True)
        assert await status(there) == ("idle", ["First.", "Second."])


async def test_a_client_follows_a_queued_message_to_the_end_of_its_own_turn(tmp_path: Path) -> None:
    market = Meanwhile()
    async with inside("", tmp_path, market, session=with_shelf()) as there:
        sent: list[Message] = []

        async def meanwhile() -> None:
            sent.append(await send(there, "Second.", "queue"))
            sent.append(await send(there, "Also this."))

        market.does = meanwhile
        sent.append(await send(there, "First."))
        await advance(there.engine, there.session.id)
        ends: dict[str, int] = {}
        for message in sent:
            watch = TurnWatch(message.id)
            for event in await log_of(there):
                wire = msgspec.json.decode(event.wire(), type=WireEvent)
                watch.take(wire)
                if message.id not in ends and watch.is_last(wire):
                    ends[message.id] = event.sequence
        ended = [event.sequence for event in await log_of(there) if event.type == "turn.completed"]
        assert [ends[message.id] for message in sent] == [ended[0], ended[1], ended[0]]
