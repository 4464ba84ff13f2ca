"""Report the figures as a table and as JSON, with facts about the machine."""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil  # type: ignore[import-untyped]
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from bench.figures import FIGURES, Figure, Figures, formatted
from bench.variant import Cores


class Row(Struct, frozen=True):
    """A figure and its values, one per round."""

    key: str
    measure: str
    text: str
    unit: str
    target: str
    value: float
    runs: tuple[float, ...]
    met: bool | None


class Column(Struct):
    """The figures of one variant of the server.

    `embedded`: whether it uses the embedded database, which most targets are for.
    """

    name: str
    embedded: bool
    values: dict[str, list[float]]

    def add(self, figures: Figures) -> None:
        """Add the figures of one round."""
        for key, value in figures.items():
            self.values.setdefault(key, []).append(value)

    def rows(self) -> list[Row]:
        """Return the measured figures, in the order of `FIGURES`."""
        return [
            _row(figure, self.values[figure.key], self.embedded)
            for figure in FIGURES
            if figure.key in self.values
        ]


def _row(figure: Figure, runs: list[float], embedded: bool) -> Row:
    value = median(runs)
    target, met = (figure.target, figure.is_met(value)) if embedded or figure.everywhere else ("", None)
    return Row(figure.key, figure.measure, figure.text, figure.unit, target, value, tuple(runs), met)


def machine(cores: Cores) -> dict[str, Any]:
    """Return the facts about the machine that affect the figures."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "pinned": cores.server is not None,
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "flush_ms": round(flush_time() * 1e3, 3),
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        for line in facts.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def flush_time(times: int = 50) -> float:
    """Measure the median seconds that the temporary folder's disk takes to flush 4 KB."""
    took = []
    with tempfile.NamedTemporaryFile() as file:
        for _ in range(times):
            file.write(bytes(4096))
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - began)
    return median(took)


def print_table(columns: list[Column], facts: dict[str, Any], title: str) -> None:
    """Print the table; with more than one column, also the ratios of the first to the others."""
    console = Console(width=None if sys.stdout.isatty() else 132)
    pinned = "server and client pinned to separate cores" if facts["pinned"] else "nothing pinned"
    console.print(
        f"{facts['processor']}, {facts['cores']} cores ({pinned}), {facts['memory_gb']} GB, "
        f"{facts['system']}, Python {facts['python']}, SQLite {facts['sqlite']}, "
        f"disk flush {facts['flush_ms']} ms, load {facts['load'][0]}",
        style="dim",
    )
    first, *others = columns
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("figure")
    for name in (
        "target",
        first.name,
        "runs",
        *(f"{other.name} {what}" for other in others for what in ("", "ratio")),
    ):
        table.add_column(name, justify="right")
    table.add_column("")
    against = [{row.key: row for row in other.rows()} for other in others]
    measure = ""
    for row in first.rows():
        if measure not in {"", row.measure}:
            table.add_section()
        measure = row.measure
        low, high = min(row.runs), max(row.runs)
        runs = f"{formatted(low)} .. {formatted(high)}" if len(row.runs) > 1 else ""
        verdict = {True: "[green]ok[/]", False: "[red]over[/]", None: ""}[row.met]
        if row.met is False and row.target.startswith(">"):
            verdict = "[red]under[/]"
        cells = [row.text, row.target, f"{formatted(row.value)} {row.unit}", runs]
        for other in against:
            theirs = other.get(row.key)
            cells += (
                ["-", "-"] if theirs is None else [formatted(theirs.value), _ratio(row.value, theirs.value)]
            )
        table.add_row(*cells, verdict)
    console.print(table)


def markdown(results: Sequence[dict[str, Any]]) -> str:
    """Format the table of docs/reference/performance.md.

    It has a column for each database, and says whether the first database meets the targets.
    """
    columns = [{row["key"]: row for row in result["figures"]} for result in results]
    head = [results[0]["database"], "", *(result["database"] for result in results[1:])]
    lines = [f"| what | target | {' | '.join(head)} |", "| --- | --- |" + " --- |" * len(head)]
    for figure in FIGURES:
        rows = [column.get(figure.key) for column in columns]
        if any(rows) and not figure.plotted:
            first, *others = [_with_unit(row["value"], figure.unit) if row else "" for row in rows]
            met = figure.is_met(rows[0]["value"]) if rows[0] else None
            verdict = {True: "met", False: "**missed**", None: ""}[met]
            target = f"{figure.target} {figure.unit}" if figure.target else ""
            lines.append(
                f"| {' | '.join([figure.text, target.replace('<', '&lt;'), first, verdict, *others])} |"
            )
    return "\n".join(lines)


def _with_unit(value: float, unit: str) -> str:
    return f"{formatted(value)}{'' if unit in {'/s', 'x', '%'} else ' '}{unit}"


def _ratio(ours: float, theirs: float) -> str:
    return f"{ours / theirs:.2f}x" if theirs else "-"
