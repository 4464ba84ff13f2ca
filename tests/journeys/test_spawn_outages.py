"""The answer to the commit that begins sub-agents is lost: they have begun, once, and no call fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.app.messages import post_message
from perdure.app.sessions import create_session
from perdure.domain.messages import CreateMessage, InputMessage, TextPart
from perdure.domain.sessions import CreateSession
from perdure.domain.tools import CapabilityRef
from perdure.store.events import events_after
from tests.journeys.test_discovery import Inside, Shelf, inside
from tests.journeys.test_outages import When, advanced


def _lost(first: int) -> When:
    return lambda each, count: "after" if each == "write" and count == first else None


def _begin(name: str, files: str) -> dict[str, Any]:
    arguments = {"name": name, "instructions": "Go.", "mode": "background", "files": files}
    return {"name": "spawn_agent", "arguments": arguments}


@pytest.mark.parametrize("files", ["shared", "fork"])
@pytest.mark.parametrize("count", [1, 2])
async def test_a_spawn_that_reaches_the_limit_succeeds_although_the_answer_to_its_commit_is_lost(
    count: int, files: str, database_url: str, tmp_path: Path
) -> None:
    limit = CapabilityRef("subagents", {"max_open": count})
    body = CreateSession(harness_name="base", capabilities=(limit,))
    answers = ({"tool_calls": [_begin(f"agent {each}", files) for each in range(count)]}, {"text": "Begun."})
    async with inside(database_url, tmp_path, Shelf(), *answers, session=body) as there:
        faults = 0
        for number in range(1, 9):
            there.driver.requests.clear()
            case = replace(there, session=await create_session(there.app, there.owner, body))
            done, begun, failed = await _turn(case, number)
            faults += failed
            assert begun == count, number
            assert ['"success":true' in each for each in done] == [True] * count, (number, done)
    assert faults > 3


async def _turn(there: Inside, number: int) -> tuple[list[str], int, int]:
    """Results of calls, the number of tasks that began, and of faults."""
    message = CreateMessage(InputMessage((TextPart("Hello."),)))
    await post_message(there.app, there.owner, there.session.id, message)
    types, faults = await advanced(there, _lost(number))
    events = await there.app.database.read(lambda tx: events_after(tx, there.session.id, 0))
    done = [event.data for event in events if event.type == "tool.completed"]
    return done, types.count("task.created"), faults
