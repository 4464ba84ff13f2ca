"""Tools of MCP servers in the background: the configuration of `background_tools` names them."""

from __future__ import annotations

from pathlib import Path

from perdure.domain.events import TaskCreatedData, TaskUpdatedData
from perdure.domain.tasks import SessionTask
from perdure.domain.tools import CapabilityRef
from perdure.store.queue import Job
from perdure.worker.background import BackgroundTools
from tests.journeys.mcp_inside import Host, hosting
from tests.journeys.test_mcp_questions import Asker, asks, form, open_questions, shop
from tests.mcp_stub import Call, McpStub, text, tool
from tests.talk import Json, call

BOTH = ("mcp_shop__buy", "mcp_shop__ask")
CALLS = (
    {"tool_calls": [call(name, _id=name, run_in_background=True) for name in BOTH]},
    {"text": "Meanwhile."},
    {"text": "Thanks."},
)
NAMED = CapabilityRef("background_tools", {"tools": list(BOTH)})


async def _answer(asker: Asker, made: Call) -> Json:
    return await asker(made) if made.name == "ask" else text("bought")


async def _ends(host: Host) -> list[SessionTask]:
    """Run the tools of the session's tasks, as a worker does; return how they ended."""
    tools = BackgroundTools(host.engine, host.app)
    created = [data.task for event in await host.log() if (data := event.get(TaskCreatedData))]
    for task in created:
        await tools.handle(Job(host.session_org, host.session.id, task_id=task.id))
    updated = [data.task for event in await host.log() if (data := event.get(TaskUpdatedData))]
    return [task for task in updated if task.ended]


async def test_a_named_tool_runs_with_its_key_and_one_that_asks_people_fails(
    database_url: str, tmp_path: Path
) -> None:
    asker = Asker(asks("who", form()))

    async with (
        McpStub([tool("buy"), tool("ask")], answer=lambda made: _answer(asker, made)) as stub,
        hosting(database_url, tmp_path, *CALLS, servers=shop(stub), refs=(NAMED,)) as host,
    ):
        await host.ask()
        assert not stub.calls
        bought, asked = await _ends(host)
        assert (bought.state, bought.summary) == ("succeeded", "bought")
        keys = [made.meta["io.perdure/effect-key"] for made in stub.calls]
        assert keys[0] == bought.spec["effect_key"]
        assert "run_in_background" not in str([made.arguments for made in stub.calls])
        assert asked.error is not None
        assert asked.error.message.startswith("The tool's result comes later, from a person")
        assert await open_questions(host) == []
