"""kill -9 over trees under budgets at four levels (promise P13): no limit passed, nothing left held."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.crash.money_storm import MoneyStorm, check_money
from tests.crash.storm import seed
from tests.crash.test_kills import KEY, prepare
from tests.crash.test_trees_killed import check
from tests.crash.tree_storm import timed
from tests.server import Server
from tests.soak import SCALE, amounts


@pytest.mark.parametrize("crashes", amounts(1, 6 * SCALE))
async def test_money_on_sqlite_adds_up_whenever_the_server_is_killed(tmp_path: Path, crashes: int) -> None:
    server = Server(tmp_path)
    async with server:
        await prepare(server)
        storm = MoneyStorm([server.url], random.Random(seed()), tmp_path, "", small=crashes == 1)
        await timed(storm.run(server.restart, crashes))
    await check(storm, [server])
    await _check_spent(storm, server)


@pytest.mark.parametrize("crashes", amounts(1, 6 * SCALE))
async def test_money_on_postgresql_adds_up_whichever_of_two_servers_is_killed(
    postgres_url: str, tmp_path: Path, crashes: int
) -> None:
    chance = random.Random(seed())
    servers = [Server(tmp_path / name, database_url=postgres_url, environment=KEY) for name in ("one", "two")]

    async def crash() -> None:
        await chance.choice(servers).restart()

    async with AsyncExitStack() as stack:
        for server in servers:
            await stack.enter_async_context(server)
        await prepare(servers[0])
        urls = [server.url for server in servers]
        storm = MoneyStorm(urls, chance, tmp_path, postgres_url, small=crashes == 1)
        await timed(storm.run(crash, crashes))
    await check(storm, servers)
    await _check_spent(storm, servers[0])


async def _check_spent(storm: MoneyStorm, server: Server) -> None:
    charged = await check_money(server.data, server.database_url)
    assert charged["model"] > 0
    print(f"{dict(charged)} calls were charged; {storm.paused} sessions waited for money in the end")
