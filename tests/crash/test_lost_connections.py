"""The database closes its connections under load: nothing is lost, and the worst answer is a 503."""

from __future__ import annotations

import random
from pathlib import Path

import asyncpg
import pytest

from tests.crash.checks import check_rows, check_storm
from tests.crash.storm import Storm, seed
from tests.crash.test_kills import prepare
from tests.server import Server
from tests.soak import SCALE, amounts

HANG_UP = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


@pytest.mark.parametrize("cuts", amounts(4, 30 * SCALE))
async def test_every_connection_is_cut_again_and_again(postgres_url: str, tmp_path: Path, cuts: int) -> None:
    chance = random.Random(seed())

    async def hang_up() -> None:
        connection = await asyncpg.connect(postgres_url)
        try:
            await connection.execute(HANG_UP)
        finally:
            await connection.close()

    async with Server(tmp_path, database_url=postgres_url) as server:
        await prepare(server)
        storm = Storm([server.url], chance, crashes=cuts)
        await storm.run(hang_up)
        await check_storm(storm, server.url)
        assert "Traceback" not in server.log.read_text()
    await check_rows(storm, tmp_path, postgres_url)
