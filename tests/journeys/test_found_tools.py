"""Tools that are found at run time: shared, stored with the turn, and missing with a reason."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.app.approvals import submit_approvals
from perdure.app.forks import fork_session
from perdure.app.messages import post_message
from perdure.app.session_ends import delete_session
from perdure.app.sessions import create_session
from perdure.capabilities import (
    ONCE,
    READ_ONLY,
    Capability,
    Discovered,
    DiscoveryContext,
    Tool,
    ToolContext,
    ToolHints,
    ToolOutcome,
    schema,
)
from perdure.capabilities.registry import Registry
from perdure.domain.errors import ToolError, Unavailable
from perdure.domain.events import Event, ReasonStartedData, ToolCompletedData, TurnFailedData
from perdure.domain.files import content_of
from perdure.domain.inbox import Decider
from perdure.domain.messages import CreateMessage, InputMessage, TextPart, text_of
from perdure.domain.sessions import ForkSession
from perdure.domain.times import Micros
from perdure.domain.tools import APPROVE, ApprovalDecision, CapabilityRef, SubmitApprovals
from perdure.engine.advance import advance
from perdure.engine.conversation_cache import ConversationCache
from perdure.store.blobs import KEPT, purge_blobs
from perdure.store.database import Tx
from perdure.store.events import events_after
from perdure.store.parked_turns import ParkedTurns
from perdure.store.tool_lists import keep_tool_list, read_tool_list
from tests.journeys.test_discovery import Inside, Shelf, inside, with_shelf
from tests.talk import call

Run = Callable[[ToolContext, Any], Awaitable[ToolOutcome]]


async def _used(context: ToolContext, arguments: object) -> ToolOutcome:
    return ToolOutcome("used")


class Market(Shelf):
    """A capability whose tools change, as those of a remote server do."""

    def __init__(self, *names: str, restores: bool = True, hints: ToolHints = READ_ONLY, **more: Any) -> None:
        super().__init__(*names, hints=hints)
        self.run: Run = _used
        self.failure: Exception | None = None
        self.tools: tuple[Tool, ...] = ()
        self.more = dict(more)
        if restores:
            self.more["restore"] = lambda config, tool: replace(tool, run=self.run)

    def capability(self) -> Capability:
        return Capability("shelf", "Shelf", "For tests.", "test", discover=self._look, **self.more)

    async def _look(self, config: object, context: DiscoveryContext) -> Discovered:
        self.looks += 1
        if self.failure is not None:
            raise self.failure
        tools = [Tool(name, f"A {name}.", schema({}), self.run, self.hints) for name in self.names]
        return Discovered("", (*tools, *self.tools))


class LaterClock:
    """The real clock, some seconds later."""

    def __init__(self, there: Inside, seconds: float) -> None:
        self._clock, self._seconds = there.engine.clock, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._clock, name)

    def now(self) -> Micros:
        return self._clock.now() + round(self._seconds * 1e6)


def restarted(there: Inside, market: Shelf) -> Inside:
    """As after a restart of the server: nothing found before is in memory."""
    others = [each for each in there.app.registry.all() if each.id != "shelf"]
    registry = Registry((*others, market.capability()))
    return replace(
        there, app=replace(there.app, registry=registry), engine=replace(there.engine, registry=registry)
    )


async def say(there: Inside, text: str = "Hello.") -> None:
    await post_message(
        there.app, there.owner, there.session.id, CreateMessage(InputMessage((TextPart(text),)))
    )


async def log_of(there: Inside) -> list[Event]:
    return await there.app.database.read(lambda tx: events_after(tx, there.session.id, 0))


async def results(there: Inside) -> list[str]:
    ended = [event.get(ToolCompletedData) for event in await log_of(there)]
    return [
        text_of(each.result or ()) or str(each.error) for each in ended if each and each.tool_name != APPROVE
    ]


async def digests(there: Inside) -> list[str | None]:
    started = [event.get(ReasonStartedData) for event in await log_of(there)]
    return [each.discovered_tools for each in started if each is not None]


def offered(there: Inside) -> list[list[str]]:
    return [[tool.name for tool in request.tools] for request in there.driver.requests]


async def interrupted(there: Inside, market: Market) -> None:
    """Advance the session until a tool runs, and stop there, as a server that is shut down does."""
    running = asyncio.Event()

    async def hangs(context: ToolContext, arguments: object) -> ToolOutcome:
        running.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    market.run = hangs
    work = asyncio.create_task(advance(there.engine, there.session.id))
    await running.wait()
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    market.run = _used


USES_AXE: tuple[dict[str, Any], ...] = ({"tool_calls": [call("axe")]}, {"text": "Cut."})


@pytest.mark.parametrize(
    ("restores", "result"), [(True, "used"), (False, "The tool 'axe' is no longer available")]
)
async def test_a_turn_that_continues_has_the_tools_that_its_model_was_offered(
    restores: bool, result: str, database_url: str, tmp_path: Path
) -> None:
    market = Market("axe", restores=restores)
    async with inside(database_url, tmp_path, market, *USES_AXE, session=with_shelf()) as there:
        await say(there)
        await interrupted(there, market)
        market.names = ("saw",)
        await advance(restarted(there, market).engine, there.session.id, again=True)
        assert (await results(there))[0].startswith(result)
        assert offered(there) == [["axe"], ["saw"]], "the next model call has the tools of its time"
        first, second = await digests(there)
        assert first
        assert second
        assert first != second


async def test_a_model_call_that_is_repeated_after_a_crash_offers_the_same_tools(
    database_url: str, tmp_path: Path
) -> None:
    market = Market("axe")

    class Dies:
        def __getattr__(self, name: str) -> Any:
            return getattr(there.driver, name)

        async def generate(self, *given: Any, **more: Any) -> Any:
            raise asyncio.CancelledError

    async with inside(
        database_url, tmp_path, market, {"text": "Hi."}, {"text": "Yes."}, session=with_shelf()
    ) as there:
        await say(there)
        dying: Any = Dies()
        with pytest.raises(asyncio.CancelledError):
            await advance(replace(there.engine, drivers=lambda row, secrets: dying), there.session.id)
        market.names = ("saw",)
        await advance(restarted(there, market).engine, there.session.id, again=True)
        assert offered(there) == [["axe"]]
        assert market.looks == 1
        await say(there)
        await advance(restarted(there, market).engine, there.session.id)
        assert offered(there) == [["axe"], ["saw"]]


async def test_a_call_that_waited_for_approval_runs_although_its_tool_is_no_longer_found(
    tmp_path: Path,
) -> None:
    market = Market("axe", hints=ONCE)
    body = with_shelf(CapabilityRef("tool_approval", {"mode": "protective"}))
    answers = ({"tool_calls": [call("axe", "c1")]}, {"text": "Cut."})
    async with inside("", tmp_path, market, *answers, session=body) as there:
        await there.ask()
        market.names = ("saw",)
        later = restarted(there, market)
        await submit_approvals(
            later.app,
            Decider(later.owner),
            there.session.id,
            SubmitApprovals((ApprovalDecision("c1", "allow"),)),
        )
        await advance(later.engine, there.session.id)
        assert await results(there) == ["used"]
        assert offered(there) == [["axe"], ["saw"]]


async def test_sessions_with_the_same_key_share_a_result_for_a_minute(tmp_path: Path) -> None:
    keys = ["one"]
    market = Market("axe", discovery_key=lambda config, context: keys[0], discovery_age=5)
    answers = [answer for _ in range(5) for answer in USES_AXE]
    async with inside("", tmp_path, market, *answers, session=with_shelf()) as there:
        await there.ask()
        second = replace(there, session=await create_session(there.app, there.owner, with_shelf()))
        await second.ask()
        assert market.looks == 1, "one look for two turns of two model calls"
        for seconds, looks in ((59, 1), (61, 2), (62, 2)):
            engine: Any = replace(there.engine, clock=LaterClock(there, seconds))
            await replace(there, engine=engine).ask()
            assert market.looks == looks, f"after {seconds} seconds"
        keys[0] = "two"
        await asyncio.gather(*(there.resolved() for _ in range(5)))
        assert market.looks == 3, "those who need it at the same time wait for one look"


@pytest.mark.parametrize("keyed", [True, False])
async def test_a_turn_continues_without_tools_that_cannot_be_found_and_says_why(
    keyed: bool, tmp_path: Path
) -> None:
    market = Market(**({"discovery_key": lambda config, context: "one"} if keyed else {}))
    for failure, reason in (
        (ToolError("the market is closed."), "the market is closed."),
        (Unavailable("the market is full"), "the market is full."),
        (RuntimeError("a detail"), "RuntimeError."),
    ):
        market.failure = failure
        folder = tmp_path / reason[:12].replace(" ", "_")
        async with inside(
            "", folder, market, {"text": "Hi."}, {"text": "Yes."}, session=with_shelf()
        ) as there:
            await there.ask()
            (request,) = there.driver.requests
            assert f"could not be read: {reason} Its tools" in request.system
            assert "a detail" not in request.system
            assert [event.type for event in await log_of(there)][-1] == "session.idled"
            market.failure, market.names = None, ("axe",)
            engine: Any = replace(there.engine, clock=LaterClock(there, 11))
            await replace(there, engine=engine).ask()
            assert offered(there) == [[], ["axe"]], "it is tried again after ten seconds"
            market.names = ()


async def test_a_discovery_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.capabilities.discovery.DISCOVERY_TIMEOUT", 0.01)

    async def hangs(config: object, context: DiscoveryContext) -> Discovered:
        await asyncio.Event().wait()
        return Discovered()

    market = Market()
    market._look = hangs  # type: ignore[method-assign]
    async with inside("", tmp_path, market, {"text": "Hi."}, session=with_shelf()) as there:
        await there.ask()
        assert "it took longer than 0.01 seconds" in there.driver.requests[0].system


async def test_a_capability_may_fail_the_turn_instead(tmp_path: Path) -> None:
    market = Market(discovery_failure="fail_turn")
    market.failure = ToolError("the market is closed")
    async with inside("", tmp_path, market, {"text": "Hi."}, session=with_shelf()) as there:
        await there.ask()
        assert not there.driver.requests
        (failed,) = [data for event in await log_of(there) if (data := event.get(TurnFailedData))]
        assert failed.error_code == "discovery_failed"
        assert failed.error == "The capability 'shelf' could not find its tools: the market is closed."


async def test_the_list_is_stored_by_digest_and_goes_with_copies(database_url: str, tmp_path: Path) -> None:
    market = Market("saw", "axe")
    answers = ({"text": "Hi."}, {"text": "Yes."})
    async with inside(database_url, tmp_path, market, *answers, session=with_shelf()) as there:
        await there.ask()
        await there.ask()
        first, digest = await digests(there)
        assert digest
        assert first == digest

        async def stored(session_id: Any) -> Any:
            async def body(tx: Tx) -> Any:
                return await read_tool_list(tx, there.owner.organization_id, session_id, digest)

            return await there.app.database.read(body)

        found = await stored(there.session.id)
        assert found.data.index(b'"axe"') < found.data.index(b'"saw"')
        copy = await fork_session(there.app, there.owner, there.session.id, ForkSession())
        await delete_session(there.app, there.owner, there.session.id)
        assert await stored(there.session.id) is None
        assert await stored(copy.id) == found


async def lists_of(there: Inside, session_id: Any) -> list[str]:
    rows = await there.app.database.read(
        lambda tx: tx.all("SELECT hash FROM tool_lists WHERE session_id = ?", session_id)
    )
    return [row[0] for row in rows]


async def test_lists_that_change_at_each_call_do_not_pile_up(database_url: str, tmp_path: Path) -> None:
    market = Market("axe")
    # Twice in each turn the model is called, and finds what it found in the turn before last.
    answers = [answer for _ in range(6) for answer in USES_AXE]
    async with inside(database_url, tmp_path, market, *answers, session=with_shelf()) as there:

        async def changes(context: ToolContext, arguments: object) -> ToolOutcome:
            market.names = ("axe", "saw")
            return ToolOutcome("used")

        market.run = changes
        for _ in range(5):
            market.names = ("axe",)
            await there.ask()
            assert await lists_of(there, there.session.id) == [(await digests(there))[-1]]
        copy = await fork_session(there.app, there.owner, there.session.id, ForkSession())
        market.names, market.run = ("axe",), _used
        await say(there)
        await interrupted(there, market)
        kept = await lists_of(there, there.session.id)
        assert kept == [(await digests(there))[-1]], "the open call needs it"
        assert await lists_of(there, copy.id) == [(await digests(there))[-2]]
        market.names = ("saw",)
        await advance(restarted(there, market).engine, there.session.id, again=True)
        assert await results(there) == ["used"] * 6
        assert await lists_of(there, there.session.id) == [(await digests(there))[-1]]
        later = there.engine.clock.now() + 2 * KEPT
        await there.app.database.write(lambda tx: purge_blobs(tx, later))
        left = await there.app.database.read(lambda tx: tx.all("SELECT hash FROM blobs"))
        used = await lists_of(there, there.session.id) + await lists_of(there, copy.id)
        assert sorted(row[0] for row in left) == sorted(used)


async def test_the_list_of_the_latest_call_is_stored_whichever_process_made_it(
    database_url: str, tmp_path: Path
) -> None:
    market = Market("axe")
    async with inside(database_url, tmp_path, market, *[{"text": "Hi."}] * 6, session=with_shelf()) as there:
        other = replace(there.engine, conversations=ConversationCache(), turns=ParkedTurns())
        for engine, name in (
            (there.engine, "axe"),
            (there.engine, "axe"),
            (other, "saw"),
            (there.engine, "axe"),
            (other, "axe"),
            (there.engine, "saw"),
        ):
            market.names = (name,)
            await say(there)
            await advance(engine, there.session.id)
            assert await lists_of(there, there.session.id) == [(await digests(there))[-1]]


async def test_sessions_that_exchange_their_lists_at_the_same_time_keep_their_own(
    database_url: str, tmp_path: Path
) -> None:
    async with inside(database_url, tmp_path, Market(), session=with_shelf()) as there:
        lists, org = [content_of(text.encode()) for text in ("one", "two")], there.owner.organization_id

        async def exchange(session_id: Any, first: int) -> None:
            for step in range(20):
                used = lists[(first + step) % 2]
                await there.app.database.write(
                    partial(keep_tool_list, org_id=org, session_id=session_id, tools=used, now=step)
                )

        await asyncio.gather(exchange("session_1", 0), exchange("session_2", 1))
        assert [await lists_of(there, f"session_{number}") for number in (1, 2)] == [
            [lists[1].hash],
            [lists[0].hash],
        ]


async def _run(sql: str, value: bytes, tx: Tx) -> int:
    return await tx.run(sql, value)


async def test_a_stored_list_that_cannot_be_read_is_found_again(tmp_path: Path) -> None:
    for number, damaged in enumerate(
        (b'{"shelf": {"tools": [{"name": "axe", "hints": {"readonly": "yes"}}]}}', b'{"shelf": 7}', b"\xff")
    ):
        market = Market("axe")
        async with inside("", tmp_path / str(number), market, *USES_AXE, session=with_shelf()) as there:
            await say(there)
            await interrupted(there, market)
            for sql in ("UPDATE blob_parts SET content = ?", "UPDATE tool_lists SET size_bytes = LENGTH(?)"):
                await there.app.database.write(partial(_run, sql, damaged))
            await advance(restarted(there, market).engine, there.session.id, again=True)
            assert await results(there) == ["used"]


async def test_nothing_is_stored_without_tools_that_are_found(tmp_path: Path) -> None:
    refs = (CapabilityRef("agent_instructions"), CapabilityRef("current_time"))
    async with inside(
        "", tmp_path, Market(restores=False), {"text": "Hi."}, session=with_shelf(*refs)
    ) as there:
        await there.ask()
        assert await digests(there) == [None]
        assert await there.app.database.read(lambda tx: tx.all("SELECT * FROM tool_lists")) == []


async def test_tools_that_no_model_can_be_offered_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = Tool("good", "Good.", schema({}), _used)
    wrong: dict[str, tuple[Any, ...]] = {
        "name": ("two words", "", "approve_tool_call", 7, None, ["list"]),
        "description": (None, 7, "x" * 20_000, ["text"]),
        "parameters": (
            None,
            [],
            {"type": "array"},
            {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}},
            {"type": "object", "default": {1, "\ud800"}},
            {"type": "object", "default": object()},
        ),
        "run": (None, "run"),
        "hints": (
            None,
            "readonly",
            {"readonly": "yes"},
            ToolHints(readonly="yes"),  # type: ignore[arg-type]
            ToolHints(idempotent=1),  # type: ignore[arg-type]
        ),
        "display_name": (7, b"bytes", ["Axe"]),
        "timeout": ("soon", None, float("nan"), float("inf"), True),
        "spill": ("no", None),
        "secret_arguments": ("password", (7,), None),
        "queue": (7,),
        "writes": (["path"],),
        "approval": ("never", None, 0),
        "verify": ("verify", 7),
        "resumable": ("yes",),
        "deferred": ("yes",),
    }
    odd = [replace(good, **{field: value}) for field, values in wrong.items() for value in values]
    none: Any = (None, "axe", {"name": "axe"}, Tool("axe", "Another axe.", schema({}), _used))
    market = Market("axe")
    market.tools = (good, *odd, *none)
    said = replace(good, name="said", description="a\x00b\ud800", display_name="\x00" * 1_000, timeout=7)
    async with inside("", tmp_path, market, {"text": "Hi."}, session=with_shelf()) as there:
        for tool in (*odd, *none):
            market.tools = (good, tool)
            caplog.clear()
            agent = await there.resolved()
            assert list(agent.bound) == ["axe", "good"], tool
            (note,) = [each.getMessage() for each in caplog.records]
            assert "1 tools of the capability shelf cannot be offered" in note
        market.tools = (good, said, *odd, *none)
        await there.ask()
        assert offered(there)[0] == ["axe", "good", "said"]
        assert f"[{len(odd) + len(none)} tools are left out" in there.driver.requests[0].system
        tool = (await there.resolved()).bound["said"].tool
        assert (tool.description, tool.display_name, tool.timeout) == ("a\ufffdb?", "\ufffd" * 200, 7.0)
        market.tools, market.names = (), tuple(f"tool_{number:04}" for number in range(700))
        *names, _ = (await there.resolved()).bound
        assert len(names) == 500, "the last one searches them"
        assert sorted(names) == names


WRONG: tuple[Any, ...] = (7, None, {1: 2})


@pytest.mark.parametrize(
    "found", [*WRONG, *map(Discovered, WRONG), *(Discovered("", value) for value in WRONG)], ids=str
)
async def test_a_result_of_a_wrong_type_is_the_capabilitys_fault_and_the_turn_continues(
    found: Any, tmp_path: Path
) -> None:
    async def look(config: object, context: DiscoveryContext) -> Any:
        return found

    market = Market()
    market._look = look  # type: ignore[method-assign]
    async with inside("", tmp_path, market, {"text": "Hi."}, session=with_shelf()) as there:
        await there.ask()
        assert "could not be read: it " in there.driver.requests[0].system
        assert "`Discovered`" in there.driver.requests[0].system
