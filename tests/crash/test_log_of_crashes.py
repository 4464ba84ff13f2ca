"""What operators see of processes that die or stop: lines of the log, and metrics."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx

from tests.crash import poisoned
from tests.crash.test_poison import outlive
from tests.log_lines import JSON_LOG, line_with, lines_of
from tests.metrics import scrape, value
from tests.server import Server, use_simulated_model
from tests.talk import Talk, kinds_of, new_talk, script


async def test_a_killed_server_leaves_a_recovered_turn_and_a_poisoned_session_a_sealed_one(
    database_url: str, tmp_path: Path
) -> None:
    server = Server(tmp_path / "data", database_url=database_url, environment=JSON_LOG)
    server.program = (poisoned.__file__,)
    async with server:
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            await use_simulated_model(http)
            slow = await new_talk(http)
            await slow.say(script({"text": "Slow.", "first_ms": 2000}))
            await slow.logged_until("reason.started")
        await server.restart()
        line = await line_with(server, message="turn recovered", session=slow.id)
        assert line["code"] == "lost"
        assert line["recoveries"] == 1
        assert line["turn"].startswith("turn_")
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            assert "turn.completed" in kinds_of(await Talk(http, slow.id).logged_until("session.idled"))
            assert value(await scrape(http), "perdure_turn_recoveries_total") == 1
            poison = await new_talk(http)
            await poison.say(poisoned.PILL)
        await outlive(server, poison.id)
        line = await line_with(server, message="turn sealed", session=poison.id)
        assert (line["level"], line["code"], line["recoveries"]) == ("error", "no_progress", 3)
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            sealed = {"outcome": "sealed", "code": "no_progress"}
            assert value(await scrape(http), "perdure_turns_total", **sealed) == 1
    assert poisoned.PILL not in server.log.read_text()


async def test_a_server_that_stood_still_past_its_lease_says_that_it_was_fenced(
    postgres_url: str, tmp_path: Path
) -> None:
    more = {**JSON_LOG, "PERDURE_MASTER_KEY": "11" * 32}
    left = Server(tmp_path / "left", database_url=postgres_url, environment=more)
    right = Server(tmp_path / "right", database_url=postgres_url, environment=more)
    async with left, right, httpx.AsyncClient(base_url=right.url, timeout=60) as http:
        await use_simulated_model(http)
        talk = await new_talk(http)
        await talk.say(script({"text": "Long.", "first_ms": 3000}))
        await talk.logged_until("reason.started")
        async with httpx.AsyncClient(base_url=left.url) as other:
            holder = left if value(await scrape(other), "perdure_turns_running") else right
        taker = right if holder is left else left
        os.kill(holder.pid, signal.SIGSTOP)
        try:
            line = await line_with(taker, message="turn recovered", session=talk.id)
            assert line["code"] == "lost"
        finally:
            os.kill(holder.pid, signal.SIGCONT)
        assert await line_with(holder, message="turn fenced", session=talk.id)
        async with httpx.AsyncClient(base_url=holder.url) as other:
            assert value(await scrape(other), "perdure_turns_fenced_total") == 1
        assert [each for each in lines_of(taker) if each["message"] == "turn fenced"] == []
        assert "turn.completed" in kinds_of(await Talk(http, talk.id).logged_until("session.idled"))
