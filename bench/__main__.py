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
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from bench.figures import QUICK, Scale
from bench.pairs import OPERATIONS, Compared, compare, print_pairs
from bench.report import Column, machine, markdown, print_table
from bench.suite import LONG, MEASURES
from bench.variant import Cores, Process, Variant, choose_cores, pin, start_process
from perdure import __version__
from tests.postgres_server import PostgresServer, postgres_server

RESULTS = Path(__file__).with_name("results")


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure the server, from outside, on a real process."
    )
    parser.add_argument(
        "measure",
        nargs="*",
        help=f"what to measure: {', '.join(MEASURES)}; default: all but {', '.join(LONG)}",
    )
    parser.add_argument("--minutes", type=float, help="how long the measure `soak` takes; default: 5")
    parser.add_argument("--quick", action="store_true", help="one short round, for a first impression")
    parser.add_argument("--rounds", type=int, help="how often to run each measure; the median counts")
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="FOLDER",
        help="another src folder to measure alternately with this one",
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder for the JSON (bench/results)")
    parser.add_argument(
        "--pairs",
        type=int,
        metavar="N",
        help="with --against: run both servers at once, and compare N short samples of each after each start;"
        f" the operations are {', '.join(OPERATIONS)}",
    )
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FILE",
        help="profile the server's main thread; this is slow, so ignore the figures",
    )
    parser.add_argument(
        "--markdown",
        action="store_true",
        help="print the last results as a table for the docs, without measuring",
    )
    options = parser.parse_args()
    if options.pairs is not None and (options.pairs < 2 or not options.against):
        parser.error("--pairs needs a number of at least 2, and --against")
    known: Collection[str] = OPERATIONS if options.pairs else MEASURES
    unknown = [name for name in options.measure if name not in known]
    if unknown:
        parser.error(f"unknown measure {', '.join(unknown)}; choose from {', '.join(known)}")
    return options


def main() -> int:
    """Measure, print and save the figures."""
    options = arguments()
    if options.markdown:
        print(
            markdown(
                [msgspec.json.decode(path.read_bytes()) for path in sorted(options.out.glob("latest*.json"))][
                    ::-1
                ]
            )
        )
        return 0
    # SIGTERM acts like Ctrl-C, which also stops the processes that this one started.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    scale = QUICK if options.quick else Scale()
    if options.rounds or options.profile:
        scale = msgspec.structs.replace(scale, rounds=options.rounds or 1)
    if options.minutes:
        scale = msgspec.structs.replace(scale, soak_minutes=options.minutes)
    cores = choose_cores()
    facts = machine(cores)
    with contextlib.ExitStack() as stack:
        postgres = None
        if options.database == "postgres":
            pin(cores.server)
            postgres = stack.enter_context(postgres_server())
        pin(cores.client)
        if options.pairs:
            print_pairs(
                uvloop.run(in_pairs(options, cores, postgres)),
                f"Perdure {__version__} on {options.database}, against {options.against}",
            )
            return 0
        # Save after each measure, so that a failure of a later one does not lose the figures.
        columns = uvloop.run(
            measure(options, scale, cores, postgres, lambda columns: save(options, columns, facts, scale))
        )
    title = f"Perdure {__version__} on {options.database}{', one short round' if options.quick else ''}"
    print_table(columns, facts, title)
    if options.profile:
        pstats.Stats(str(options.profile)).sort_stats("tottime").print_stats(45)
    return 0


async def measure(
    options: argparse.Namespace,
    scale: Scale,
    cores: Cores,
    postgres: PostgresServer | None,
    keep: Callable[[list[Column]], None],
) -> list[Column]:
    """Run each measure for the configured number of rounds, alternating between the variants.

    Args:
        options: the command line.
        scale: how much to measure.
        cores: the cores to pin processes to.
        postgres: the PostgreSQL server, or None for SQLite.
        keep: called with all figures so far after each measure.
    """
    async with compiled_variants(options, cores, postgres) as variants:
        columns = [Column(variant.name, postgres is None, {}) for variant in variants]
        for name in options.measure or [name for name in MEASURES if name not in LONG]:
            began = time.perf_counter()
            say(f"{name} ...")
            await run(name, variants, columns, scale)
            keep(columns)
            say(f"{name}: {time.perf_counter() - began:.0f} s\n")
        return columns


async def in_pairs(
    options: argparse.Namespace, cores: Cores, postgres: PostgresServer | None
) -> list[Compared]:
    """Compare the two versions in pairs of samples."""
    async with compiled_variants(options, cores, postgres) as variants:
        return await compare(options.measure or list(OPERATIONS), variants, options.pairs, say)


@contextlib.asynccontextmanager
async def compiled_variants(
    options: argparse.Namespace, cores: Cores, postgres: PostgresServer | None
) -> AsyncIterator[list[Variant]]:
    """Run the model server, and compile the variants to measure."""
    with tempfile.TemporaryDirectory(prefix="perdure-bench-model-") as folder:
        model = await start_process(["-m", "bench.model"], Path(folder) / "log")
        try:
            variants = make_variants(options, cores, postgres, model)
            for variant in variants:
                variant.compile()
            yield variants
        finally:
            await model.stop()


def make_variants(
    options: argparse.Namespace, cores: Cores, postgres: PostgresServer | None, model: Process
) -> list[Variant]:
    """Build the variants to measure: this version, and the one to compare it with."""
    variants = [Variant("measured", None, model.url, cores, postgres, options.profile)]
    if options.against:
        if not (options.against / "perdure").is_dir():
            raise SystemExit(f"--against: {options.against} does not contain the package perdure")
        variants.append(Variant("against", options.against.resolve(), model.url, cores, postgres))
    return variants


async def run(name: str, variants: list[Variant], columns: list[Column], scale: Scale) -> None:
    """Run one measure: prepare it once for each variant, then measure all variants in every round.

    The order alternates between rounds, so that drift of the machine affects all variants.
    """
    async with contextlib.AsyncExitStack() as stack:
        onces = [await stack.enter_async_context(MEASURES[name](variant, scale)) for variant in variants]
        for number in range(scale.rounds):
            order = list(zip(onces, columns, strict=True))
            for once, column in order if number % 2 == 0 else order[::-1]:
                column.add(await once())


def save(options: argparse.Namespace, columns: list[Column], facts: dict[str, Any], scale: Scale) -> None:
    """Write `latest.json` (`latest-postgres.json`). Figures of measures that did not run are kept."""
    options.out.mkdir(parents=True, exist_ok=True)
    path: Path = options.out / (
        "latest.json" if options.database == "sqlite" else f"latest-{options.database}.json"
    )
    before = msgspec.json.decode(path.read_bytes()) if path.exists() else {}
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    fresh = {
        row.key: {**msgspec.to_builtins(row), "at": stamp, "quick": options.quick}
        for row in columns[0].rows()
    }
    kept = {row["key"]: row for row in before.get("figures", [])}
    result = {
        "version": __version__,
        "database": options.database,
        "machine": facts,
        "rounds": scale.rounds,
        "figures": list({**kept, **fresh}.values()),
    }
    if len(columns) > 1:
        result["against"] = {row.key: row.value for row in columns[1].rows()}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1))


def say(text: str) -> None:
    """Print progress: on a terminal all of it, otherwise only finished lines."""
    if sys.stderr.isatty() or text.endswith("\n"):
        print(f"\r{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parents[1])
    sys.exit(main())
