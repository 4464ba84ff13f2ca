"""Typed results that are judged by an engine in the test's own process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from perdure.app.sessions import create_session
from perdure.capabilities.arguments import ArgumentChecks, TooCostly
from perdure.domain.events import OutputAcceptedData, OutputRejectedData
from perdure.domain.sessions import CreateSession
from perdure.sandbox.pool import Sandbox
from tests.journeys.mcp_inside import Host, hosting
from tests.talk import Json


async def judged(
    folder: Path, *steps: Json, checks: ArgumentChecks | None = None
) -> tuple[list[Sequence[str]], list[Any]]:
    """The problems of the answers that were rejected, and the values that were accepted."""
    async with hosting("", folder, *steps) as opened:
        body = CreateSession(harness_name="base", output_schema={"type": "integer", "maximum": 50})
        session = await create_session(opened.app, opened.owner, body)
        host: Host = replace(opened, session=session)
        if checks is not None:
            host = replace(host, engine=replace(host.engine, arguments=checks))
        await host.ask()
        log = await host.log()
    rejected = [event.get(OutputRejectedData) for event in log]
    accepted = [event.get(OutputAcceptedData) for event in log]
    return [each.errors for each in rejected if each], [each.output for each in accepted if each]


async def test_a_number_that_may_lack_digits_is_not_taken(tmp_path: Path) -> None:
    cut: Json = {"text": '{"value": 12}', "finish_reason": "length"}
    rejected, accepted = await judged(tmp_path, cut, {"text": '{"value": 12}'})
    assert rejected == [("answer: the number may lack digits: the text reached its length limit",)]
    assert accepted == [12]


async def test_what_is_no_json_or_does_not_fit_is_told(tmp_path: Path) -> None:
    cut: Json = {"text": '{"value": 1', "finish_reason": "length"}
    (first, second), accepted = await judged(tmp_path, cut, {"output": 51}, {"output": 50})
    assert first[0].endswith("; it reached its length limit")
    assert "50" in second[0]
    assert accepted == [50]


class Hasty(ArgumentChecks):
    """Checks that have no time for the first answer."""

    def __init__(self) -> None:
        super().__init__(Sandbox())
        self.asked = 0

    async def problems(self, *args: Any) -> list[str] | None:
        self.asked += 1
        if self.asked == 1:
            raise TooCostly
        return await super().problems(*args)


async def test_an_answer_that_costs_too_much_to_check_is_asked_for_again(tmp_path: Path) -> None:
    rejected, accepted = await judged(tmp_path, {"output": 1}, {"output": 2}, checks=Hasty())
    assert rejected == [("the answer could not be checked in time: give a shorter one",)]
    assert accepted == [2]
