"""The command line of the benchmarks: `python -m bench [MEASURE ...]`."""

from __future__ import annotations

import argparse
import contextlib
import os
import pstats
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from bench.figures import QUICK, Scale
from bench.place import Cores, Place, Process, choose_cores, pin, start_process
from bench.report import Column, machine, markdown, print_table
from bench.suite import MEASURES
from perdure import __version__
from tests.postgres_server import PostgresServer, postgres_server

RESULTS = Path(__file__).with_name("results")


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure the server, from outside, on a real process."
    )
    parser.add_argument("measure", nargs="*", help=f"which: {', '.join(MEASURES)}; all if none is named")
    parser.add_argument("--quick", action="store_true", help="less of everything, once: a first look")
    parser.add_argument("--rounds", type=int, help="how often each measure is run; the median counts")
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument(
        "--against", type=Path, metavar="FOLDER", help="another src folder, measured in turn with this one"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the JSON goes (bench/results)")
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FILE",
        help="profile the server's main thread; slow, so figures mean little",
    )
    parser.add_argument(
        "--markdown",
        action="store_true",
        help="measure nothing: print the last results as a table for the docs",
    )
    given = parser.parse_args()
    unknown = [name for name in given.measure if name not in MEASURES]
    if unknown:
        parser.error(f"there is no measure {', '.join(unknown)}; there are {', '.join(MEASURES)}")
    return given


def main() -> int:
    """Measure, print, and keep."""
    given = arguments()
    if given.markdown:
        print(
            markdown(
                [msgspec.json.decode(path.read_bytes()) for path in sorted(given.out.glob("latest*.json"))][
                    ::-1
                ]
            )
        )
        return 0
    # Told to end, it ends as on Ctrl-C: the processes that it started end with it.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    scale = QUICK if given.quick else Scale()
    if given.rounds or given.profile:
        scale = msgspec.structs.replace(scale, rounds=given.rounds or 1)
    cores = choose_cores()
    facts = machine(cores)
    with contextlib.ExitStack() as stack:
        postgres = None
        if given.database == "postgres":
            pin(cores.server)
            postgres = stack.enter_context(postgres_server())
        pin(cores.client)
        # Kept after each measure: what a later one meets does not cost what was measured before.
        columns = uvloop.run(
            measure(given, scale, cores, postgres, lambda found: save(given, found, facts, scale))
        )
    title = f"Perdure {__version__} on {given.database}{', quick: less of everything' if given.quick else ''}"
    print_table(columns, facts, title)
    if given.profile:
        pstats.Stats(str(given.profile)).sort_stats("tottime").print_stats(45)
    return 0


async def measure(
    given: argparse.Namespace,
    scale: Scale,
    cores: Cores,
    postgres: PostgresServer | None,
    keep: Callable[[list[Column]], None],
) -> list[Column]:
    """Run the measures, each as often as there are rounds, the places in turn.

    `keep` gets what there is after each.
    """
    with tempfile.TemporaryDirectory(prefix="perdure-bench-model-") as folder:
        model = await start_process(["-m", "bench.model"], Path(folder) / "log")
        try:
            places = make_places(given, cores, postgres, model)
            columns = [Column(place.name, postgres is None, {}) for place in places]
            for name in given.measure or MEASURES:
                began = time.perf_counter()
                say(f"{name} ...")
                await run(name, places, columns, scale)
                keep(columns)
                say(f"{name}: {time.perf_counter() - began:.0f} s\n")
            return columns
        finally:
            await model.stop()


def make_places(
    given: argparse.Namespace, cores: Cores, postgres: PostgresServer | None, model: Process
) -> list[Place]:
    """This version, and the one that it is compared with."""
    places = [Place("measured", None, model.url, cores, postgres, given.profile)]
    if given.against:
        if not (given.against / "perdure").is_dir():
            raise SystemExit(f"{given.against} holds no perdure package")
        places.append(Place("against", given.against.resolve(), model.url, cores, postgres))
    return places


async def run(name: str, places: list[Place], columns: list[Column], scale: Scale) -> None:
    """One measure: prepared once for each place, then all of them in each round, in an order that turns."""
    async with contextlib.AsyncExitStack() as stack:
        onces = [await stack.enter_async_context(MEASURES[name](place, scale)) for place in places]
        for number in range(scale.rounds):
            order = list(zip(onces, columns, strict=True))
            for once, column in order if number % 2 == 0 else order[::-1]:
                column.add(await once())


def save(given: argparse.Namespace, columns: list[Column], facts: dict[str, Any], scale: Scale) -> None:
    """Write `latest.json` (`latest-postgres.json`).

    Figures of measures that were not run now stay as they were.
    """
    given.out.mkdir(parents=True, exist_ok=True)
    path: Path = given.out / (
        "latest.json" if given.database == "sqlite" else f"latest-{given.database}.json"
    )
    before = msgspec.json.decode(path.read_bytes()) if path.exists() else {}
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    fresh = {
        row.key: {**msgspec.to_builtins(row), "at": stamp, "quick": given.quick} for row in columns[0].rows()
    }
    kept = {row["key"]: row for row in before.get("figures", [])}
    result = {
        "version": __version__,
        "database": given.database,
        "machine": facts,
        "rounds": scale.rounds,
        "figures": list({**kept, **fresh}.values()),
    }
    if len(columns) > 1:
        result["against"] = {row.key: row.value for row in columns[1].rows()}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1))


def say(text: str) -> None:
    """A word on the terminal; where nobody watches, only whole lines."""
    if sys.stderr.isatty() or text.endswith("\n"):
        print(f"\r{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parents[1])
    sys.exit(main())
