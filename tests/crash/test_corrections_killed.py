"""kill -9 before and after each append of a turn whose answer is corrected: it ends once, with its value."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.crash.hanging_appends import AppendingServer, Moment
from tests.server import post, use_simulated_model
from tests.talk import Json, body_of, kinds_of, new_talk, script

SCHEMA: Json = {"type": "object", "properties": {"degrees": {"type": "integer"}}, "required": ["degrees"]}
STEPS = ({"text": "Warm."}, {"output": {"degrees": "21"}}, {"output": {"degrees": 21}})
APPENDS = 4
"""The turn's start; each rejected answer with the start of the next call; the last answer with its end."""
PLACES: list[tuple[Moment, int]] = [
    (moment, number) for number in range(1, APPENDS + 1) for moment in ("before", "after")
]
SAMPLE: list[tuple[Moment, int]] = [("after", 2)]
"""What `make test` plays; the soak plays the rest."""


@pytest.mark.parametrize(
    ("moment", "number"),
    [pytest.param(*place, marks=() if place in SAMPLE else pytest.mark.soak) for place in PLACES],
)
async def test_a_corrected_turn_survives_the_death_of_its_server(
    tmp_path: Path, database_url: str, moment: Moment, number: int
) -> None:
    async with (
        AppendingServer(tmp_path / "data", moment, number, database_url=database_url) as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as http,
    ):
        await use_simulated_model(http)
        talk = await new_talk(http, harness_name="base", output_schema=SCHEMA)
        await post(http, talk.path("/messages"), body_of(script(*STEPS)))
        await server.until_it_hangs()
        await server.restart()
        await talk.logged_until("session.idled")
        events = await talk.events()
    kinds = kinds_of(events)
    assert kinds.count("turn.completed") == kinds.count("output.accepted") == 1
    assert "turn.failed" not in kinds
    rejected = [event["data"]["attempt"] for event in events if event["type"] == "output.rejected"]
    assert rejected == [1, 2]
    assert events[-2]["data"]["output"] == {"degrees": 21}
    for index, kind in enumerate(kinds):
        if kind.startswith(("output.accepted", "output.rejected")):
            assert kinds[index - 1] == "reason.completed"
