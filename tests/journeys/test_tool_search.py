"""A model finds tools that it is not offered, and keeps them: through turns, copies and crashes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from perdure.app.approvals import submit_approvals
from perdure.app.context_reports import context_report
from perdure.app.forks import _to_new_event, fork_session
from perdure.app.session_ends import delete_session
from perdure.capabilities import ONCE, READ_ONLY, Discovered, Tool, ToolContext, ToolOutcome, schema
from perdure.domain.errors import NotFound
from perdure.domain.events import ToolCompletedData, ToolsLoadedData
from perdure.domain.inbox import Decider
from perdure.domain.loaded_tools import MAX_LOADED
from perdure.domain.projection import Projection, project
from perdure.domain.sessions import CreateSession, ForkSession
from perdure.domain.tools import ApprovalDecision, CapabilityRef, SubmitApprovals
from perdure.engine.advance import advance
from perdure.store.sessions import get_session
from tests.journeys.test_discovery import Inside, inside, with_shelf
from tests.journeys.test_found_tools import Market, interrupted, log_of, offered, restarted, results, say
from tests.server import Server, use_simulated_model
from tests.talk import Json, Talk, call, new_talk, script

KINDS = ("order", "customer", "invoice", "shipment", "refund", "product")
VERBS = ("create", "delete", "find", "list", "update", "export", "archive", "count", "share", "print")


async def _done(context: ToolContext, arguments: Any) -> ToolOutcome:
    return ToolOutcome(f"done with {arguments['id']}")


class Warehouse(Market):
    """A capability that discovers 60 tools, as a large remote server has them."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.run = _done
        parameters = schema({"id": {"type": "string"}}, "id")
        self.tools = tuple(
            Tool(f"{verb}_{kind}", f"{verb.title()} one {kind}.", parameters, _done, self.hints)
            for verb in VERBS
            for kind in KINDS
        )

    async def _look(self, config: object, context: object) -> Discovered:
        self.looks += 1
        return Discovered("", self.tools)


def search(query: str, _id: str = "s1", **more: Any) -> dict[str, Any]:
    return {"tool_calls": [call("tool_search", _id, query=query, **more)]}


def use(name: str, _id: str = "u1", **arguments: Any) -> dict[str, Any]:
    return {"tool_calls": [call(name, _id, **(arguments or {"id": "7"}))]}


@asynccontextmanager
async def warehouse(
    url: str, folder: Path, *answers: dict[str, Any], body: CreateSession | None = None, **more: Any
) -> AsyncIterator[tuple[Inside, Warehouse]]:
    shelf = Warehouse(**more)
    async with inside(url, folder, shelf, *answers, session=body or with_shelf()) as there:
        yield there, shelf


async def loads(there: Inside) -> list[tuple[str, ...]]:
    return [data.tool_names for event in await log_of(there) if (data := event.get(ToolsLoadedData))]


async def kept(there: Inside, session_id: Any = None) -> tuple[str, ...]:
    """The loaded tools in the session's row, which are those of its log."""
    org, own = there.owner.organization_id, session_id or there.session.id
    row = await there.app.database.read(lambda tx: get_session(tx, org, own))
    other = replace(there, session=replace(there.session, id=own))
    events = [event for event in await log_of(other) if event.get(ToolsLoadedData)]
    folded = project(Projection(), map(_to_new_event, events))
    assert row.loaded_names() == folded.loaded_tools
    return row.loaded_names()


async def test_a_model_finds_a_tool_and_keeps_it_in_later_turns_and_copies(
    database_url: str, tmp_path: Path
) -> None:
    answers = (
        search("create a refund", limit=2),
        use("create_refund"),
        {"text": "Refunded."},
        {"text": "Hi."},
    )
    async with warehouse(database_url, tmp_path, *answers) as (there, _):
        await there.ask()
        await there.ask()
        first, second, *later = offered(there)
        assert first == ["tool_search"]
        (found,) = await loads(there)
        assert len(found) == 2
        assert [second, *later] == [["tool_search", *found]] * 5, "the second search loads nothing"
        (system,) = {request.system for request in there.driver.requests}
        assert "You have 60 more tools than you are shown, from: Shelf (60)." in system
        events = await log_of(there)
        kinds = [event.type for event in events]
        at = kinds.index("tools.loaded")
        assert kinds[at + 1] == "tool.completed"
        assert kinds.index("reason.started", at) > at
        assert await kept(there) == found

        report = await context_report(there.app, there.owner, there.session.id)
        assert {each.source_id for each in report.contributions if each.section_key == "tools"} == {
            "tool_search",
            "shelf",
        }
        copy = await fork_session(there.app, there.owner, there.session.id, ForkSession())
        before = await fork_session(there.app, there.owner, there.session.id, ForkSession(from_sequence=at))
        await delete_session(there.app, there.owner, there.session.id)
        with pytest.raises(NotFound):
            await kept(there)
        assert await kept(there, copy.id) == found
        assert await kept(there, before.id) == ()
        assert set((await replace(there, session=copy).resolved()).hidden).isdisjoint(found)


async def test_a_tool_that_is_called_without_a_search_runs_and_is_loaded(
    database_url: str, tmp_path: Path
) -> None:
    answers = (
        use("count_order"),
        use("list_order", "u2", order=7),
        use("list_ordr", "u3"),
        {"text": "Done."},
    )
    async with warehouse(database_url, tmp_path, *answers) as (there, _):
        await there.ask()
        ran, invalid, unknown = await results(there)
        assert ran == "done with 7"
        assert invalid.startswith("Invalid arguments.")
        assert invalid.endswith("You are shown this tool with its parameters from now on.")
        assert "Did you mean: list_order" in unknown
        assert unknown.endswith("Search others with tool_search")
        assert await loads(there) == [("count_order",), ("list_order",)]
        assert offered(there)[-1] == ["tool_search", "count_order", "list_order"]


async def test_loaded_tools_need_the_approvals_that_they_need_anyway(tmp_path: Path) -> None:
    body = with_shelf(CapabilityRef("tool_approval", {"mode": "protective"}))
    answers = (
        search("delete an order", limit=1),
        use("delete_order"),
        use("delete_refund", "u2"),
        {"text": "Gone."},
    )
    async with warehouse("", tmp_path, *answers, body=body, hints=ONCE) as (there, market):
        await there.ask()
        assert await loads(there) == [("delete_order",)]
        for waiting, names in (("u1", ("delete_order",)), ("u2", ("delete_order", "delete_refund"))):
            decisions = SubmitApprovals((ApprovalDecision(waiting, "allow"),))
            later = restarted(there, market)
            await submit_approvals(later.app, Decider(later.owner), there.session.id, decisions)
            await advance(later.engine, there.session.id)
            assert await kept(there) == names, "also a tool that was not offered waits first"
        assert (await results(there))[1:] == ["done with 7"] * 2


async def test_several_searches_in_one_answer_load_each_tool_once(tmp_path: Path) -> None:
    both = {"tool_calls": [call("tool_search", f"s{n}", query="create_order", limit=1) for n in range(3)]}
    async with warehouse("", tmp_path, both, {"text": "Found."}) as (there, _):
        await there.ask()
        assert offered(there)[-1] == ["tool_search", "create_order"]


async def test_a_session_keeps_the_latest_tools_up_to_a_limit(tmp_path: Path) -> None:
    names = [f"tool_{number:03}" for number in range(MAX_LOADED + 10)]
    market = Market(*names)
    steps = [
        {"tool_calls": [call(name, name) for name in names[n : n + 10]]} for n in range(0, len(names), 10)
    ]
    async with inside("", tmp_path, market, *steps, {"text": "Done."}, session=with_shelf()) as there:
        await there.ask()
        assert offered(there)[-1] == ["tool_search", *names[-MAX_LOADED:]]


class Dies:
    """A model in a server that dies at a call."""

    def __init__(self, there: Inside, at: int) -> None:
        self._there, self._left = there, at

    def __getattr__(self, name: str) -> Any:
        return getattr(self._there.driver, name)

    async def generate(self, *given: Any, **more: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise asyncio.CancelledError
        return await self._there.driver.generate(*given, **more)


class Loses:
    """The real database, for a server that dies before it commits the result of a search."""

    def __init__(self, database: Any) -> None:
        self._database, self.lost = database, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def write(self, body: Any, **how: Any) -> Any:
        async def dies(tx: Any) -> Any:
            result = await body(tx)
            found = await tx.one("SELECT COUNT(*) FROM events WHERE type = 'tools.loaded'")
            if found[0]:
                self.lost = True
                raise asyncio.CancelledError
            return result

        return await self._database.write(dies)


async def test_loaded_tools_survive_a_crash_before_the_next_model_call(
    database_url: str, tmp_path: Path
) -> None:
    answers = (search("refunds", limit=1), {"text": "Found."})
    async with warehouse(database_url, tmp_path, *answers) as (there, market):
        await say(there)
        dying: Any = Dies(there, 1)
        with pytest.raises(asyncio.CancelledError):
            await advance(replace(there.engine, drivers=lambda row, secrets: dying), there.session.id)
        (found,) = await loads(there)
        assert len(offered(there)) == 1, "the call whose start is logged was not made"
        await advance(restarted(there, market).engine, there.session.id, again=True)
        assert offered(there) == [["tool_search"], ["tool_search", *found]]
        assert await kept(there) == found


async def test_a_search_whose_result_was_lost_runs_again(database_url: str, tmp_path: Path) -> None:
    answers = (search("refunds", limit=1), {"text": "Found."})
    async with warehouse(database_url, tmp_path, *answers) as (there, market):
        await say(there)
        losing: Any = Loses(there.engine.database)
        with pytest.raises(asyncio.CancelledError):
            await advance(replace(there.engine, database=losing), there.session.id)
        assert losing.lost
        assert await kept(there) == ()
        await advance(restarted(there, market).engine, there.session.id, again=True)
        (found,) = await loads(there)
        assert offered(there) == [["tool_search"], ["tool_search", *found]]
        assert [event.get(ToolCompletedData) is not None for event in await log_of(there)].count(True) == 1


async def test_a_turn_that_continues_knows_which_tools_were_deferred(tmp_path: Path) -> None:
    market = Market()

    async def runs(context: ToolContext, arguments: Any) -> ToolOutcome:
        return await market.run(context, arguments)  # which hangs in the first server

    axe = Tool("axe", "An axe.", schema({}), runs, READ_ONLY, deferred=True)
    market.tools = (axe, replace(axe, name="saw", description="A saw."))
    answers = (search("axe"), {"tool_calls": [call("axe", "u1")]}, {"text": "Cut."})

    async with inside("", tmp_path, market, *answers, session=with_shelf()) as there:
        await say(there)
        await interrupted(there, market)
        market.tools = ()
        await advance(restarted(there, market).engine, there.session.id, again=True)
        assert offered(there) == [["tool_search"], ["tool_search", "axe"], []]
        assert (await results(there))[1] == "used"
        assert await kept(there) == ("axe",), "until it is found again"
        market.tools = (axe,)
        assert [spec.name for spec in (await restarted(there, market).resolved()).specs] == [
            "tool_search",
            "axe",
        ]


FILE = '''
from perdure.tools import tool


@tool(deferred=True, read_only=True)
async def moon_phase(day: str) -> str:
    """Tell the phase of the moon on a day."""
    return "full"


@tool
async def tide(place: str) -> str:
    """Tell the tide at a place."""
    return "low"
'''


async def named(talk: Talk, kind: str) -> list[Json]:
    return [event["data"] for event in await talk.events() if event["type"] == kind]


async def test_a_deferred_tool_of_a_file_is_found_and_stays_after_a_kill(
    database_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "sky.py"
    file.write_text(FILE)
    environment = {"PERDURE_TOOLS": str(file)}
    async with (
        Server(tmp_path / "data", database_url=database_url, environment=environment) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        await use_simulated_model(http)
        talk = await new_talk(http, capabilities=[{"ref": "sky"}])
        steps = (
            {"tool_calls": [call("tool_search", "s", query="phases of the moon")]},
            {"first_ms": 2_000, "tool_calls": [call("moon_phase", "m", day="today")]},
            {"text": "It is full."},
        )
        await talk.say(script(*steps))
        await talk.logged_until("tools.loaded")
        await server.restart()
        talk = Talk(http, talk.path().rsplit("/", 1)[-1])
        await talk.logged_until("session.idled")
        assert [each["tool_names"] for each in await named(talk, "tools.loaded")] == [["moon_phase"]]
        searched, told = await named(talk, "tool.completed")
        assert "Tell the phase of the moon on a day." in searched["result"][0]["text"]
        assert told["result"][0]["text"] == "full"
        tools: Any = (await http.get("/v1/capabilities/tool_search")).json()
        assert tools["name"] == "Tool search"
