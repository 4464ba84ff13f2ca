"""kill -9 at any moment under load: no acknowledged message is lost, no effect doubled, every turn ends."""

from __future__ import annotations

import random
import time
from pathlib import Path

import httpx
import pytest

from tests.crash.checks import check_rows, check_storm
from tests.crash.storm import Storm, seed
from tests.server import Server, use_simulated_model
from tests.soak import SCALE, amounts

KEY = {"PERDURE_MASTER_KEY": "11" * 32}
RECOVERIES = 3
"""How often a turn is recovered without progress before it is sealed (wire contract)."""


async def prepare(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        await use_simulated_model(http)


@pytest.mark.parametrize("crashes", amounts(2, 12 * SCALE))
async def test_a_server_on_sqlite_is_killed_again_and_again(tmp_path: Path, crashes: int) -> None:
    chance = random.Random(seed())
    async with Server(tmp_path) as server:
        await prepare(server)
        storm = Storm([server.url], chance, crashes=crashes)
        began = time.monotonic()
        await storm.run(server.restart)
        print(f"the storm took {time.monotonic() - began:.1f} s")
        await check_storm(storm, server.url, may_seal=storm.crashes > RECOVERIES)
    await check_rows(storm, tmp_path, "")


@pytest.mark.parametrize("crashes", amounts(1, 8 * SCALE))
async def test_a_server_on_postgresql_is_killed_again_and_again(
    postgres_url: str, tmp_path: Path, crashes: int
) -> None:
    chance = random.Random(seed())
    async with Server(tmp_path, database_url=postgres_url) as server:
        await prepare(server)
        storm = Storm([server.url], chance, crashes=crashes)
        await storm.run(server.restart)
        await check_storm(storm, server.url, may_seal=storm.crashes > RECOVERIES)
    await check_rows(storm, tmp_path, postgres_url)


@pytest.mark.parametrize("crashes", amounts(2, 12 * SCALE))
async def test_either_of_two_servers_on_postgresql_is_killed_again_and_again(
    postgres_url: str, tmp_path: Path, crashes: int
) -> None:
    chance = random.Random(seed())
    left = Server(tmp_path / "left", database_url=postgres_url, environment=KEY)
    right = Server(tmp_path / "right", database_url=postgres_url, environment=KEY)
    async with left, right:
        await prepare(left)
        storm = Storm([left.url, right.url], chance, crashes=crashes)
        began = time.monotonic()
        await storm.run(lambda: chance.choice([left, right]).restart())
        print(f"the storm took {time.monotonic() - began:.1f} s")
        await check_storm(storm, left.url, may_seal=storm.crashes > RECOVERIES)
    await check_rows(storm, tmp_path, postgres_url)
