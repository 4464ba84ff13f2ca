"""Measure several processes on one PostgreSQL, each with a share of a core, and the roles API and worker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median

from bench.figures import Figures, Once, Scale, nothing
from bench.site import Site, open_site
from bench.turns import TEXT
from bench.variant import Server, Variant
from bench.wire import connect

KEY = {"PERDURE_MASTER_KEY": "11" * 32}
AT_ONCE = 64
SHARE = 0.2
"""The part of a core that each server process gets, so that several of them and PostgreSQL fit on one."""
GROUPS = Path("/sys/fs/cgroup/cpu")
PERIOD = 10_000
"""Microseconds in which a share is given out: short, so that a process that has used its own waits little."""
SHARED = GROUPS.is_dir()
"""Whether this system can give shares."""


@contextlib.asynccontextmanager
async def roles(variant: Variant, scale: Scale) -> AsyncIterator[Once]:
    """Compare one process with two, and with one of the API and one worker. PostgreSQL on Linux."""
    if variant.postgres is None:
        yield nothing
        return
    yield partial(_once, variant, scale)


async def _once(variant: Variant, scale: Scale) -> Figures:
    figures: Figures = {}
    async with variant.server(KEY) as server, open_site(server, variant.model) as site:
        figures["roles_whole_ms"] = await _alone(site, scale.turns)
        if not SHARED:
            return figures
        one = await _rate([site], [server], scale.swept_turns)
        other = await variant.start(server.settings, KEY)
        try:
            second = Site(other, await connect(other.url), site.model_id, site.agent_id)
            two = await _rate([site, second], [server, other], scale.swept_turns)
        finally:
            await other.stop()
    async with contextlib.AsyncExitStack() as stack:
        settings = await stack.enter_async_context(variant.database())
        api = await variant.start(settings, KEY, "api")
        stack.push_async_callback(api.stop)
        worker = await variant.start(settings, KEY, "worker")
        stack.push_async_callback(worker.stop)
        site = await stack.enter_async_context(open_site(api, variant.model))
        figures["roles_split_ms"] = await _alone(site, scale.turns)
        split = await _rate([site], [api, worker], scale.swept_turns)
    return {**figures, "roles_one_per_s": one, "roles_two_per_s": two / one, "roles_split_per_s": split / one}


async def _alone(site: Site, count: int) -> float:
    """Return the median milliseconds of text turns, one at a time."""
    async with site.seats(20) as seats:
        times = [(await seats[i % 20].turn(site.desk, TEXT)).total for i in range(count + 20)]
        return median(times[20:]) * 1e3


async def _rate(sites: Sequence[Site], servers: Sequence[Server], count: int) -> float:
    """Return turns per second at 64 at once, spread over the sites, while each server has its share."""
    part = AT_ONCE // len(sites)
    async with contextlib.AsyncExitStack() as stack:
        crowds = [(site, await stack.enter_async_context(site.seats(part * 4))) for site in sites]
        with _shares(servers):
            for limit in (part * 2, count // len(sites)):  # the first warms up
                rates = await asyncio.gather(*(site.play(seats, part, limit, TEXT) for site, seats in crowds))
        return sum(rates)


@contextlib.contextmanager
def _shares(servers: Sequence[Server]) -> Iterator[None]:
    """Give each server its share of a core, by a control group of its own."""
    groups = []
    try:
        for number, server in enumerate(servers):
            group = GROUPS / f"perdure-bench-{number}"
            group.mkdir()
            groups.append(group)
            (group / "cpu.cfs_period_us").write_text(str(PERIOD))
            (group / "cpu.cfs_quota_us").write_text(str(round(PERIOD * SHARE)))
            for pid in server.pids:
                (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        for group in groups:
            for pid in (group / "cgroup.procs").read_text().split():
                (GROUPS / "cgroup.procs").write_text(pid)
            group.rmdir()
