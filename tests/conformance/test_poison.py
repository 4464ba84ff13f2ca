"""Sessions that cannot be worked on: each is sealed after a few attempts, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.app.accounts import bootstrap
from perdure.app.events import fill_prompt
from perdure.app.file_access import OfSession
from perdure.app.files import create_path
from perdure.app.messages import post_message
from perdure.app.models import create_model
from perdure.app.providers import create_provider
from perdure.app.sessions import create_session
from perdure.capabilities.port import Capability
from perdure.capabilities.registry import Registry
from perdure.domain.accounts import Caller
from perdure.domain.errors import Unavailable
from perdure.domain.events import (
    Event,
    LlmGenerationData,
    OutputMessageCompletedData,
    TurnFailedData,
    TurnSealedData,
)
from perdure.domain.files import CreateFile
from perdure.domain.ids import SessionId
from perdure.domain.messages import CreateMessage, InputMessage, TextPart, text_of
from perdure.domain.providers import CreateModel, CreateProvider
from perdure.domain.sessions import CreateSession
from perdure.domain.tools import CapabilityRef
from perdure.engine.advance import advance
from perdure.settings import Settings
from perdure.store.claims import claim, release
from perdure.store.database import Database
from perdure.store.events import events_after
from perdure.store.fair_line import FairLine
from perdure.store.sessions import SessionRow, append, look_session
from perdure.tools.built_in import built_in
from perdure.wiring import Parts, open_parts
from perdure.worker.sweep import Sweep
from perdure.worker.worker import Worker
from tests.conformance.places import Place
from tests.inside import nobody
from tests.journeys.test_outages import Faulty

PATIENCE = 60.0
KEY = "11" * 32


class House:
    """Perdure in this process on either database, with a capability that raises what it is told to."""

    def __init__(self, parts: Parts, owner: Caller) -> None:
        self.parts, self.owner = parts, owner

    async def session(self, *refs: CapabilityRef) -> SessionId:
        return (await create_session(self.parts.app, self.owner, CreateSession(capabilities=refs))).id

    async def say(self, session_id: SessionId, text: str = "Hello?") -> None:
        body = CreateMessage(InputMessage((TextPart(text),)))
        await post_message(self.parts.app, self.owner, session_id, body)

    async def break_row(self, sql: str, *args: Any) -> None:
        await self.parts.database.write(lambda tx: tx.run(sql, *args))

    async def row(self, session_id: SessionId) -> SessionRow:
        row = await self.parts.database.read(lambda tx: look_session(tx, session_id))
        assert row is not None
        return row

    async def at_rest(self, session_id: SessionId) -> list[Event]:
        """The log once the session is idle."""
        async with asyncio.timeout(PATIENCE):
            while (await self.row(session_id)).status != "idle":
                await asyncio.sleep(0.05)
        return await self.parts.database.read(lambda tx: events_after(tx, session_id, 0))


class Raises:
    """A capability whose configuration names the error that its prompt raises; `left` counts them down."""

    def __init__(self, errors: dict[str, Callable[[], BaseException]]) -> None:
        self._errors = errors
        self.raised: dict[str, int] = {}
        self.capability = Capability(
            id="raises",
            name="Raises",
            description="For tests.",
            category="test",
            tools=self._tools,
        )

    def _tools(self, config: Any) -> tuple[()]:
        name = (config or {}).get("error")
        if name is not None and name in self.raised:
            self.raised[name] += 1
            raise self._errors[name]()  # noqa: RSE102 (it is made here)
        return ()

    def begin(self) -> None:
        """Raise from now on: the sessions exist."""
        self.raised = dict.fromkeys(self._errors, 0)


@asynccontextmanager
async def house_on(place: Place, folder: Path, raises: Raises) -> AsyncIterator[House]:
    url = place.url if place.kind == "postgres" else ""
    async with open_parts(Settings(data=str(folder), database_url=url, master_key=KEY)) as opened:
        mine: dict[str, Any] = {"registry": Registry((*built_in(opened.app), raises.capability))}
        parts = replace(opened, app=replace(opened.app, **mine), engine=replace(opened.engine, **mine))
        owner = await bootstrap(parts.app)
        provider = await create_provider(parts.app, owner, CreateProvider("Simulated", "llmsim"))
        await create_model(parts.app, owner, provider.id, CreateModel("simulated", "Simulated"))
        worker = Worker(parts.engine, nobody)
        await worker.start()
        yield House(parts, owner)
        await worker.drain(0)


def _deep() -> BaseException:
    return RecursionError("maximum recursion depth exceeded")


ERRORS: dict[str, Callable[[], BaseException]] = {
    "recursion": _deep,
    "memory": MemoryError,
    "assertion": AssertionError,
    "type": lambda: TypeError("a fault of the program"),
    "stopped": lambda: StopAsyncIteration("a fault of the program"),
    "cancelled": asyncio.CancelledError,
    "several": lambda: BaseExceptionGroup("faults", [KeyboardInterrupt()]),
}
BROKEN = {
    "message": "UPDATE events SET data = '{\"message' WHERE session_id = ? AND type = 'input.message'",
    "number": "UPDATE events SET data = '7' WHERE session_id = ? AND type = 'input.message'",
}


async def test_whatever_a_session_fails_with_it_is_sealed_and_says_so(
    place: Place, database: Database, tmp_path: Path
) -> None:
    raises = Raises(ERRORS)
    async with house_on(place, tmp_path, raises) as house:
        failing = {name: await house.session(CapabilityRef("raises", {"error": name})) for name in ERRORS}
        healthy = await house.session()
        raises.begin()
        for session_id in (*failing.values(), healthy):
            await house.say(session_id)
        for name, session_id in failing.items():
            events = await house.at_rest(session_id)
            assert [event.type for event in events[-3:]] == [
                "output.message.completed", "turn.sealed", "session.idled"
            ]  # fmt: skip
            detail = events[-2].read(TurnSealedData).detail or ""
            assert type(ERRORS[name]()).__name__ in detail, detail
            assert raises.raised[name] == 4
        assert (await house.at_rest(healthy))[-2].type == "turn.completed"


async def test_messages_that_waited_for_a_sealed_turn_are_in_the_history_of_the_next_one(
    place: Place, database: Database, tmp_path: Path
) -> None:
    raises = Raises(ERRORS)
    async with house_on(place, tmp_path, raises) as house:
        session_id = await house.session(CapabilityRef("raises", {"error": "type"}))
        raises.begin()
        await house.say(session_id, "first")
        await house.say(session_id, "second")
        sealed = await house.at_rest(session_id)
        assert sum(event.type == "turn.sealed" for event in sealed) == 1
        (said,) = [
            event.read(OutputMessageCompletedData).message for event in sealed if "I stopped" in event.data
        ]
        assert "those that waited were not worked on" in text_of(said.content)
        raises.raised.clear()  # the fault is repaired
        await house.say(session_id, "third")
        events = (await house.at_rest(session_id))[len(sealed) :]
        (called,) = [event for event in events if event.type == "llm.generation"]
        filled = await house.parts.database.read(lambda tx: fill_prompt(tx, called))
        prompt = filled.read(LlmGenerationData).messages or ()
        assert [text_of(each.content) for each in prompt if each.role == "user"] == [
            "first",
            "second",
            "third",
        ]
        assert events[-1].type == "session.idled"


async def test_a_session_whose_rows_cannot_be_decoded_is_sealed(
    place: Place, database: Database, tmp_path: Path
) -> None:
    async with house_on(place, tmp_path, Raises({})) as house:
        sessions = {}
        for name, sql in BROKEN.items():
            sessions[name] = session_id = await house.session()
            await house.say(session_id, "First.")
            await house.at_rest(session_id)
            await house.break_row(sql, session_id)
            house.parts.engine.conversations.take(session_id)
            await house.say(session_id, "Second.")
        for session_id in sessions.values():
            async with asyncio.timeout(PATIENCE):
                while (await house.row(session_id)).finished_at is None:
                    await asyncio.sleep(0.05)
            row = await house.row(session_id)
            assert (row.status, row.recoveries) == ("idle", 0)


async def test_a_session_whose_configuration_cannot_be_decoded_fails_each_turn_and_says_so(
    place: Place, database: Database, tmp_path: Path
) -> None:
    async with house_on(place, tmp_path, Raises({})) as house:
        session_id = await house.session()
        await house.break_row("UPDATE sessions SET config = '{' WHERE id = ?", session_id)
        for _ in range(2):
            await house.say(session_id)
            failed = (await house.at_rest(session_id))[-2].read(TurnFailedData)
            assert failed.error_code == "row_damaged"


async def test_an_unavailable_database_never_seals(place: Place, database: Database, tmp_path: Path) -> None:
    errors: dict[str, Callable[[], BaseException]] = {
        "database": lambda: Unavailable("away"),
        "descriptors": lambda: OSError(24, "too many open files"),
        "disk": lambda: OSError(28, "no space left"),
    }
    raises = Raises(errors)
    async with house_on(place, tmp_path, raises) as house:
        sessions = [await house.session(CapabilityRef("raises", {"error": name})) for name in errors]
        raises.begin()
        sweep = Sweep(house.parts.engine, Worker(house.parts.engine, nobody))
        for session_id in sessions:
            await house.say(session_id)
        async with asyncio.timeout(PATIENCE):
            while min(raises.raised.values()) < 7:
                await sweep.once(stale_after=0)
                await asyncio.sleep(0.1)
        assert all([(await house.row(session_id)).status == "active" for session_id in sessions])
        raises.raised = {}
        for session_id in sessions:
            await sweep.once(stale_after=0)
            assert (await house.at_rest(session_id))[-2].type == "turn.completed"


async def test_a_claim_whose_outcome_is_unknown_counts_once(
    place: Place, database: Database, tmp_path: Path
) -> None:
    """The database commits the claim, then the connection breaks, again and again."""
    raises = Raises({"once": RuntimeError})
    async with house_on(place, tmp_path, raises) as house:
        session_id = await house.session(CapabilityRef("raises", {"error": "once"}))
        await house.parts.queue.stop()
        await house.say(session_id)
        faulty = Faulty(
            house.parts.database, lambda kind, count: "after" if kind == "write" and count < 8 else None
        )
        engine = replace(house.parts.engine, database=faulty)
        for _ in range(6):
            with pytest.raises(Unavailable):
                await advance(engine, session_id, again=True)
        assert (await house.row(session_id)).recoveries <= 1


async def test_a_recovery_is_counted_at_the_claim_and_forgotten_at_progress(
    place: Place, database: Database, tmp_path: Path
) -> None:
    async with house_on(place, tmp_path, Raises({})) as house:
        row = await house.row(await house.session())
        claims = [row := await database.write(lambda tx, row=row: claim(tx, row)) for _ in range(3)]
        assert [each.recoveries for each in claims] == [1, 2, 3]
        await database.write(lambda tx: release(tx, row))
        assert (await house.row(row.id)).recoveries == 2
        uncounted = await database.write(lambda tx: claim(tx, row, counts=False))
        assert uncounted.recoveries == 3
        said, _ = await database.write(lambda tx: append(tx, uncounted, [], now=1, progress=False))
        assert said.recoveries == 3
        write = CreateFile("A client's file.")
        await create_path(house.parts.app, house.owner, OfSession(row.id), "/notes.txt", write)
        said = await house.row(row.id)
        assert said.recoveries == 3
        worked, _ = await database.write(lambda tx: append(tx, said, [], now=1))
        assert (await house.row(row.id)).recoveries == worked.recoveries == 0


@pytest.mark.parametrize("hours", [-3, 3, 24 * 3652])
async def test_a_clock_that_went_back_strands_no_active_session(
    place: Place, database: Database, tmp_path: Path, hours: int
) -> None:
    """The rows are from a time at which the clock was ahead or behind; nobody runs the sessions."""
    async with house_on(place, tmp_path, Raises({})) as house:
        offset = hours * 3_600_000_000
        sessions = [await house.session() for _ in range(2)]
        await house.parts.queue.stop()
        for session_id in sessions:
            await house.say(session_id)
        await house.break_row("UPDATE sessions SET updated_at = updated_at + ?", offset)
        worker = Worker(house.parts.engine, nobody)
        if place.kind == "sqlite":  # the queue is in memory: a new process begins with an empty one
            house.parts.queue._waiting = FairLine()  # type: ignore[attr-defined]
            house.parts.queue._known.clear()  # type: ignore[attr-defined]
            await worker.start()
            await house.say(sessions[0], "Are you there?")
            assert (await house.at_rest(sessions[0]))[-2].type == "turn.completed"
            assert await Sweep(house.parts.engine, worker).once(stale_after=0) == 1
        else:
            await worker.start()
        assert (await house.at_rest(sessions[1]))[-2].type == "turn.completed"
        await worker.drain(0)
