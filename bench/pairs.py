"""Compare two versions of the server in pairs: both run at once, and short samples take turns.

Two runs of one measure differ by a fifth on a busy machine, and a server by a tenth from its own next start.
The median of the ratios of many pairs, over several starts of both servers, differs by a few hundredths.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from statistics import median, quantiles

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from bench.figures import formatted
from bench.files import text
from bench.mcp import IDLE, PLACES, rounds, seat_with, servers, shop
from bench.mcp import ROUNDS as MCP_ROUNDS
from bench.model import Script
from bench.requests import AT_ONCE, works
from bench.site import LIVE, Seat, Site, Turn, open_site
from bench.start import ready
from bench.streams import LONG
from bench.tools import CALLS, EMPTY, prepared, script_of, session_body
from bench.tools import ROUNDS as CALL_ROUNDS
from bench.trees import CHILDREN, PARENTS, grove
from bench.turns import ROUNDS, TEXT, TOOLS
from bench.variant import Stopwatch, Variant
from bench.wire import Connection, connect

STARTS = 3
"""Starts of both servers for each operation."""


class Cost(Struct, frozen=True):
    """What one operation took: milliseconds on the clock, and of the server's CPU."""

    elapsed: float
    cpu: float


Sample = Callable[[], Awaitable[Cost]]
Operation = Callable[[Variant], AbstractAsyncContextManager[Sample]]
"""Prepares a server, and yields what takes one sample of it."""


class Compared(Struct, frozen=True):
    """The costs of one operation in both versions, in pairs."""

    name: str
    pairs: list[tuple[Cost, Cost]]

    def cells(self) -> list[str]:
        """Return the cells of its row: for both costs ours, theirs, the ratio and its quartiles."""
        cells = [self.name]
        for values in (
            [(ours.elapsed, theirs.elapsed) for ours, theirs in self.pairs],
            [(ours.cpu, theirs.cpu) for ours, theirs in self.pairs],
        ):
            ratios = [ours / theirs for ours, theirs in values]
            low, _, high = quantiles(ratios, n=4)
            cells += [
                formatted(median(ours for ours, _ in values)),
                formatted(median(theirs for _, theirs in values)),
                f"{median(ratios):.2f}x",
                f"{low:.2f} .. {high:.2f}",
            ]
        return cells


async def compare(
    names: list[str], variants: list[Variant], pairs: int, say: Callable[[str], None]
) -> list[Compared]:
    """Run the named operations.

    Args:
        names: operations of `OPERATIONS`.
        variants: this version and the other one.
        pairs: the number of pairs for each start.
        say: reports progress.
    """
    results = []
    for name in names:
        say(f"{name} ...")
        costs: list[tuple[Cost, Cost]] = []
        for _ in range(STARTS):
            costs += await _pairs(OPERATIONS[name], variants, pairs)
        results.append(Compared(name, costs))
        say(f"{name}: {results[-1].cells()[3]} elapsed, {results[-1].cells()[7]} CPU\n")
    return results


async def _pairs(operation: Operation, variants: list[Variant], count: int) -> list[tuple[Cost, Cost]]:
    async with contextlib.AsyncExitStack() as stack:
        ours, theirs = [await stack.enter_async_context(operation(variant)) for variant in variants]
        pairs = []
        for number in range(-2, count):
            if number % 2:
                second, first = await theirs(), await ours()
            else:
                first, second = await ours(), await theirs()
            if number >= 0:  # the first samples warm up
                pairs.append((first, second))
        return pairs


def print_pairs(results: list[Compared], title: str) -> None:
    """Print the table of all ratios."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("operation")
    for what in ("ms", "CPU ms"):
        for name in (what, "against", "ratio", "quartiles"):
            table.add_column(name, justify="right")
    for result in results:
        table.add_row(*result.cells())
    Console(width=132).print(table)


# --- the operations -----------------------------------------------------------------


@contextlib.asynccontextmanager
async def _site(variant: Variant) -> AsyncIterator[Site]:
    roomy = {"PERDURE_HISTORY_TOKENS": "400000"}  # the calls of one turn are not summarized
    async with variant.server(roomy) as server, open_site(server, variant.model) as site:
        yield site


async def _cost(site: Site, count: int, work: Awaitable[object]) -> Cost:
    watch = Stopwatch(site.server)
    await work
    return Cost(watch.wall() / count * 1e3, watch.cpu() / count * 1e3)


def _request(name: str, count: int) -> Operation:
    """A plain request, 16 at a time, among 100 sessions."""

    @contextlib.asynccontextmanager
    async def operation(variant: Variant) -> AsyncIterator[Sample]:
        async with _site(variant) as site:
            work = works(site, [await site.session() for _ in range(100)])[name]
            yield lambda: _cost(site, count, site.at_once(AT_ONCE, count, work))

    return operation


@contextlib.asynccontextmanager
async def _write(variant: Variant) -> AsyncIterator[Sample]:
    """A file of 4 KB, 16 at a time, in a new session."""
    async with _site(variant) as site:
        bodies = [msgspec.json.encode({"content": text(number)}) for number in range(200)]

        async def sample() -> Cost:
            base = f"/v1/sessions/{await site.session()}/fs/notes"

            async def write(line: Connection, number: int) -> None:
                await line.send("POST", f"{base}/{number % 20}/{number}.txt", bodies[number])

            return await _cost(site, len(bodies), site.at_once(AT_ONCE, len(bodies), write))

        yield sample


def _turns(script: Script, count: int, at_once: int = 1, rounds: int = 1) -> Operation:
    """A turn in a young session, one or many at once, divided by its rounds."""

    @contextlib.asynccontextmanager
    async def operation(variant: Variant) -> AsyncIterator[Sample]:
        async with _site(variant) as site, site.seats(max(at_once, 8)) as seats:
            free = list(seats)

            async def play(line: Connection, _number: int) -> None:
                seat = free.pop()
                await seat.turn(line, script)
                free.insert(0, seat)

            yield lambda: _cost(site, count * rounds, site.at_once(at_once, count, play))

    return operation


@contextlib.asynccontextmanager
async def _first_token(variant: Variant) -> AsyncIterator[Sample]:
    """The first token, with as many streams at once as the model can serve: until its client has it."""
    async with _site(variant) as site, site.seats(50, LIVE) as seats:
        script = Script(tokens=40, every=25, first=200)
        lines = [await connect(site.server.url) for _ in seats]

        async def sample() -> Cost:
            watch = Stopwatch(site.server)
            turns = await _together(seats, lines, script)
            firsts = [(turn.first or turn.total) * 1e3 - script.first for turn in turns]
            return Cost(median(firsts), watch.cpu() / len(turns) * 1e3)

        yield sample


async def _together(seats: list[Seat], lines: list[Connection], script: Script) -> list[Turn]:
    return await asyncio.gather(*(seat.turn(line, script) for seat, line in zip(seats, lines, strict=True)))


def _tool(name: str) -> Operation:
    """A round of the built-in harness with this tool, in a new session."""

    @contextlib.asynccontextmanager
    async def operation(variant: Variant) -> AsyncIterator[Sample]:
        async with _site(variant) as site:
            body = await session_body(site)

            async def sample() -> Cost:
                async with prepared(site, body, CALLS.get(name, EMPTY)) as play:
                    watch = Stopwatch(site.server)
                    return Cost(await play(), watch.cpu() / CALL_ROUNDS * 1e3)

            yield sample

    return operation


@contextlib.asynccontextmanager
async def _approval(variant: Variant) -> AsyncIterator[Sample]:
    """A turn with one call that waits for an approval."""
    async with _site(variant) as site:
        careful = {"ref": "tool_approval", "config": {"mode": "protective"}}
        body = {**await session_body(site), "capabilities": [careful]}
        session = f"/v1/sessions/{(await site.desk.json('POST', '/v1/sessions', body))['id']}"
        feed = await connect(site.server.url)
        feed.follow("GET", f"{session}/sse?types=tool.call_requested&types=turn.completed&types=turn.failed")
        await feed.frame()
        numbers = itertools.count()

        async def turn() -> None:
            call = ("kv_store", {"operation": "set", "key": "count", "value": str(next(numbers))})
            content = [{"type": "text", "text": script_of([call])}]
            await site.desk.json("POST", f"{session}/messages", {"message": {"content": content}})
            asked = msgspec.json.decode((await feed.frame()).data)
            decision = {"tool_call_id": asked["data"]["tool_calls"][0]["id"], "decision": "allow"}
            await site.desk.json("POST", f"{session}/tool-approvals", {"decisions": [decision]})
            if (frame := await feed.frame()).event != "turn.completed":
                raise RuntimeError(f"a turn did not complete: {frame.event}")

        yield lambda: _cost(site, 1, turn())


@contextlib.asynccontextmanager
async def _start(variant: Variant) -> AsyncIterator[Sample]:
    """From the start of a process with existing data to its first healthy answer."""
    async with variant.server() as before:
        await before.stop()

        async def sample() -> Cost:
            began = time.perf_counter()
            server = await variant.start(before.settings)
            await ready(server)
            cost = Cost((time.perf_counter() - began) * 1e3, server.cpu() * 1e3)
            await server.stop()
            return cost

        yield sample


@contextlib.asynccontextmanager
async def _restart(variant: Variant) -> AsyncIterator[Sample]:
    """A process's first turn, in a session of fifty turns."""
    async with _site(variant) as site:
        seat = await site.seat()
        for _ in range(50):
            await seat.turn(site.desk, TEXT)
        await site.server.stop()

        async def sample() -> Cost:
            server = await variant.start(site.server.settings)
            async with open_site(server, variant.model) as fresh:
                again = await fresh.seat_of(seat.session_id)
                cost = await _cost(fresh, 1, again.turn(fresh.desk, TEXT))
                again.close()
            await server.stop()
            return cost

        yield sample


@contextlib.asynccontextmanager
async def _mcp_idle(variant: Variant) -> AsyncIterator[Sample]:
    """A turn with twenty MCP servers of fifty tools that it does not use."""
    async with shop() as peer, variant.server(PLACES) as server, open_site(server, variant.model) as site:
        seat = await seat_with(site, servers(peer))
        yield lambda: _cost(site, 1, seat.turn(site.desk, IDLE))


@contextlib.asynccontextmanager
async def _mcp_round(variant: Variant) -> AsyncIterator[Sample]:
    """A round of an MCP server's tool."""
    async with shop() as peer, variant.server(PLACES) as server, open_site(server, variant.model) as site:
        play = await rounds(site, peer)

        async def sample() -> Cost:
            watch = Stopwatch(server)
            return Cost(await play("mcp_s0__tool_0") * 1e3, watch.cpu() / MCP_ROUNDS * 1e3)

        yield sample


@contextlib.asynccontextmanager
async def _spawn(variant: Variant) -> AsyncIterator[Sample]:
    """A turn that begins a sub-agent and receives its answer."""
    async with _site(variant) as site, grove(site) as places:
        yield lambda: _cost(site, 1, places.spawn())


@contextlib.asynccontextmanager
async def _tree(variant: Variant) -> AsyncIterator[Sample]:
    """A sub-agent among fifty at once."""
    async with _site(variant) as site, grove(site) as places:
        yield lambda: _cost(site, PARENTS * CHILDREN, places.tree())


OPERATIONS: dict[str, Operation] = {
    "start": _start,
    "restart": _restart,
    **{name: _request(name, 40 if name == "list" else 200) for name in ("get", "patch", "list", "create")},
    "write": _write,
    "turn": _turns(TEXT, 20),
    "turns_16": _turns(TEXT, 96, at_once=16),
    "turns_64": _turns(TEXT, 192, at_once=64),
    "round": _turns(TOOLS, 6, rounds=ROUNDS),
    "long": _turns(LONG, 4),
    "first_token": _first_token,
    "approval": _approval,
    "mcp_idle": _mcp_idle,
    "mcp_round": _mcp_round,
    "spawn": _spawn,
    "tree": _tree,
    "tool_empty": _tool("empty"),
    **{f"tool_{name}": _tool(name) for name in CALLS},
}
"""The operations by name, in the order in which they run."""
