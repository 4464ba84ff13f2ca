"""The database fails while a turn runs: what was paid for is logged once, and the model misses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.app.messages import post_message
from perdure.app.session_files import write_file
from perdure.app.sessions import create_session
from perdure.domain.errors import Unavailable
from perdure.domain.files import content_of
from perdure.domain.messages import CreateMessage, InputMessage, TextPart
from perdure.domain.sessions import CreateSession
from perdure.domain.tools import CapabilityRef
from perdure.engine.advance import advance
from perdure.store.database import Database
from perdure.store.events import events_after
from perdure.store.file_changes import FileWrite
from perdure.tools.agent_instructions import agent_instructions
from tests.journeys.test_discovery import Inside, Shelf, inside, with_shelf
from tests.talk import call

When = Callable[[str, int], str | None]
"""From `read` or `write` and the number of such calls so far: `before`, `after`, or None for no fault."""


class Faulty:
    """The real database, which fails as the test says: before a transaction, or after its commit."""

    def __init__(self, database: Database, fails: When) -> None:
        self._database = database
        self._fails = fails
        self._calls = {"read": 0, "write": 0}
        self.faults = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def read(self, body: Any, **how: Any) -> Any:
        return await self._run("read", lambda: self._database.read(body, **how))

    async def write(self, body: Any, **how: Any) -> Any:
        return await self._run("write", lambda: self._database.write(body, **how))

    async def _run(self, kind: str, work: Callable[[], Any]) -> Any:
        self._calls[kind] += 1
        fault = self._fails(kind, self._calls[kind])
        if fault is None:
            return await work()
        self.faults += 1
        if fault == "after":
            await work()
        raise Unavailable("simulated", unknown=fault == "after")


async def advanced(there: Inside, fails: When) -> tuple[list[str], int]:
    """Advance the session, as a worker does; return the log's types, and the number of faults."""
    database = Faulty(there.engine.database, fails)

    class Clock:
        now = there.engine.clock.now
        elapsed = there.engine.clock.elapsed

        async def sleep(self, seconds: float) -> None:
            await asyncio.sleep(0)

    engine = replace(there.engine, database=database, clock=Clock())
    for tries in range(20):
        try:
            await advance(engine, there.session.id, retried=tries > 0)
            break
        except Unavailable:
            continue
    events = await there.app.database.read(lambda tx: events_after(tx, there.session.id, 0))
    return [event.type for event in events], database.faults


ANSWERS: tuple[dict[str, Any], ...] = ({"tool_calls": [call("axe")]}, {"text": "Cut."})


@pytest.mark.parametrize("kind", ["before", "after"])
@pytest.mark.parametrize("times", [1, 3])
async def test_whichever_write_or_read_fails_the_model_is_called_twice_and_the_log_is_the_same(
    kind: str, times: int, database_url: str, tmp_path: Path
) -> None:
    async with inside(database_url, tmp_path, Shelf("axe"), *ANSWERS, session=with_shelf()) as there:
        await _ask(there)
        expected, _ = await advanced(there, lambda each, count: None)
        for what, number in [(what, number) for what in ("write", "read") for number in range(1, 12)]:
            there.driver.requests.clear()
            case = replace(there, session=await create_session(there.app, there.owner, with_shelf()))
            await _ask(case)
            types, _ = await advanced(case, _failing(what, number, times, kind))
            assert len(there.driver.requests) == 2, f"{what} {number}: the model was called again"
            assert types == expected, f"{what} {number}"


def _failing(what: str, first: int, times: int, kind: str) -> When:
    return lambda each, count: kind if each == what and first <= count < first + times else None


async def _ask(there: Inside) -> None:
    message = CreateMessage(InputMessage((TextPart("Hello."),)))
    await post_message(there.app, there.owner, there.session.id, message)


async def test_a_slow_database_delays_the_model_call_but_leaves_nothing_out_of_its_prompt(
    database_url: str, tmp_path: Path
) -> None:
    session = CreateSession(harness_name="base", capabilities=(CapabilityRef("agent_instructions"),))
    async with inside(database_url, tmp_path, Shelf(), {"text": "Yes."}, session=session) as there:
        write = FileWrite("/AGENTS.md", content_of(b"Speak in verse."))
        await write_file(there.app, there.owner, there.session.id, write)
        await _ask(there)
        # The instructions are read through a database that fails three times.
        slow = Faulty(
            there.app.database, lambda each, count: "before" if each == "read" and count <= 3 else None
        )
        capabilities = [
            agent_instructions(replace(there.app, database=slow)) if each.id == "agent_instructions" else each
            for each in there.engine.registry.all()
        ]
        engine = replace(there.engine, registry=type(there.engine.registry)(tuple(capabilities)))
        types, _ = await advanced(replace(there, engine=engine), lambda each, count: None)
        assert slow.faults == 3
        assert types.count("turn.completed") == 1
        assert ["Speak in verse." in request.system for request in there.driver.requests] == [True]
