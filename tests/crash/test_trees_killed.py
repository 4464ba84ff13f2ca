"""kill -9 over trees of sub-agents (promise P12): every task ends once, and who began it hears of it once."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.crash.storm import seed
from tests.crash.test_kills import KEY, prepare
from tests.crash.tree_storm import DEADLOCKS, TreeStorm, counted, timed
from tests.crash.tree_storm_checks import check_trees
from tests.server import Server
from tests.soak import SCALE, amounts


async def check(storm: TreeStorm, servers: list[Server]) -> None:
    assert storm.refused == []
    for server in servers:
        log = server.log.read_text()
        for trouble in ("Traceback", "deadlock", "40P01"):
            assert trouble not in log, log[max(0, log.index(trouble) - 2000) :][:6000]
    if servers[0].database_url:
        assert await counted(servers[0].database_url, DEADLOCKS) == (0,)
    tasks = await check_trees(servers[0].data, servers[0].database_url)
    print(f"{tasks} tasks are left, and {len(storm.roots)} trees were begun")


@pytest.mark.parametrize("crashes", amounts(1, 14 * SCALE))
async def test_trees_on_sqlite_end_whenever_the_server_is_killed(tmp_path: Path, crashes: int) -> None:
    server = Server(tmp_path)
    async with server:
        await prepare(server)
        storm = TreeStorm([server.url], random.Random(seed()), tmp_path, "", small=crashes == 1)
        await timed(storm.run(server.restart, crashes))
    await check(storm, [server])


@pytest.mark.parametrize("crashes", amounts(1, 14 * SCALE))
async def test_trees_on_postgresql_end_whichever_of_three_servers_is_killed(
    postgres_url: str, tmp_path: Path, crashes: int
) -> None:
    chance = random.Random(seed())
    servers = [
        Server(tmp_path / name, database_url=postgres_url, environment=KEY)
        for name in ("one", "two", "three")
    ]

    async def crash() -> None:
        await chance.choice(servers).restart()

    async with AsyncExitStack() as stack:
        for server in servers:
            await stack.enter_async_context(server)
        await prepare(servers[0])
        urls = [server.url for server in servers]
        storm = TreeStorm(urls, chance, tmp_path, postgres_url, small=crashes == 1)
        await timed(storm.run(crash, crashes))
    await check(storm, servers)
