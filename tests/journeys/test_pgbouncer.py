"""PostgreSQL behind PgBouncer in transaction mode: connections keep nothing, and there are few of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from perdure.domain.errors import Unavailable
from perdure.store.postgres.database import open_postgres
from tests.pgbouncer import SIZE, pgbouncer
from tests.server import Server, use_simulated_model
from tests.talk import Talk, call, new_talk, script

KEY = {"PERDURE_MASTER_KEY": "11" * 32}
AT_ONCE = 24
"""Sessions at work at once: more than there are connections."""


def behind(pooled: str, direct: str, folder: Path) -> Server:
    environment = {**KEY, "PERDURE_DATABASE_DIRECT_URL": direct}
    return Server(folder, database_url=pooled, environment=environment)


async def test_two_processes_share_four_connections(postgres_url: str, tmp_path: Path) -> None:
    async with (
        pgbouncer(postgres_url, tmp_path / "pgbouncer") as pooled,
        behind(pooled, postgres_url, tmp_path / "one") as one,
        behind(pooled, postgres_url, tmp_path / "two") as two,
        httpx.AsyncClient(base_url=one.url, timeout=60, limits=httpx.Limits(max_connections=None)) as http,
        httpx.AsyncClient(base_url=two.url, timeout=60, limits=httpx.Limits(max_connections=None)) as other,
    ):
        await use_simulated_model(http)
        talks = [await new_talk(http) for _ in range(AT_ONCE)]
        steps = {"tool_calls": [call("get_current_time")]}, {"text": "Done. " * 40, "delay_ms": 20}

        async def play(number: int, talk: Talk) -> None:
            here, there = (http, other) if number % 2 else (other, http)
            async with Talk(there, talk.id).follow() as stream:  # live text crosses the processes
                await Talk(here, talk.id).say(script(*steps))
                seen = await stream.until("session.idled")
            assert any(each.kind == "output.message.delta" for each in seen)
            events = await talk.events()
            assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
            assert "turn.failed" not in {event["type"] for event in events}

        await asyncio.gather(*(play(number, talk) for number, talk in enumerate(talks)))
        answer = await other.get("/v1/sessions", params={"search": "please"})
        assert answer.status_code == 200, answer.text
        # A runner that is killed is taken over through the pooler, too.
        slow = await new_talk(other)
        await slow.say(script({"text": "Slow.", "first_ms": 3000}))
        await slow.logged_until("reason.started")
        await two.kill()
        await Talk(http, slow.id).logged_until("session.idled")
        for server in (one, two):
            log = server.log.read_text()
            assert "Traceback" not in log, log
            assert "prepared statement" not in log, log


async def test_transactions_have_their_time_limits_and_reads_cannot_write(
    postgres_url: str, tmp_path: Path
) -> None:
    async with pgbouncer(postgres_url, tmp_path / "pgbouncer") as pooled:
        database = await open_postgres(pooled, direct_url=postgres_url)
        try:
            shown = "SELECT current_setting('statement_timeout'), current_setting('lock_timeout')"
            for run in (database.read, database.write):
                assert tuple(await run(lambda tx: tx.one(shown)) or ()) == ("30s", "10s")
            with pytest.raises(Unavailable, match="read"):
                await database.read(lambda tx: tx.run("DELETE FROM drafts"))
            async with asyncio.TaskGroup() as group:  # more at once than there are connections
                for _ in range(10 * SIZE):
                    group.create_task(database.read(lambda tx: tx.one("SELECT ?", "text")))
        finally:
            await database.close()


async def test_a_pooler_without_the_direct_url_is_explained(postgres_url: str, tmp_path: Path) -> None:
    async with pgbouncer(postgres_url, tmp_path / "pgbouncer") as pooled:
        with pytest.raises(Unavailable, match="PERDURE_DATABASE_DIRECT_URL"):
            await open_postgres(pooled)
