"""The database closes its connections under load: nothing is lost, and the worst answer is a 503."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.crash.checks import check_rows, check_storm
from tests.crash.fleet import hang_up
from tests.crash.storm import Storm, seed
from tests.crash.test_kills import prepare
from tests.server import Server
from tests.soak import SCALE, amounts


@pytest.mark.parametrize("cuts", amounts(4, 30 * SCALE))
async def test_every_connection_is_cut_again_and_again(postgres_url: str, tmp_path: Path, cuts: int) -> None:
    chance = random.Random(seed())

    async with Server(tmp_path, database_url=postgres_url) as server:
        await prepare(server)
        storm = Storm([server.url], chance, crashes=cuts)
        await storm.run(lambda: hang_up(postgres_url))
        await check_storm(storm, server.url)
        assert "Traceback" not in server.log.read_text()
    await check_rows(storm, tmp_path, postgres_url)
