"""What was measured, as a table and as JSON, with what is known about the machine."""

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

from bench.figures import FIGURES, Figure, Figures, shown
from bench.place import Cores


class Row(Struct, frozen=True):
    """A figure and its values, one a round."""

    key: str
    measure: str
    text: str
    unit: str
    target: str
    value: float
    runs: tuple[float, ...]
    kept: bool | None


class Column(Struct):
    """What one version of the server gave.

    `embedded`: on the embedded default, which most targets are for.
    """

    name: str
    embedded: bool
    found: dict[str, list[float]]

    def add(self, figures: Figures) -> None:
        """Take in one round."""
        for key, value in figures.items():
            self.found.setdefault(key, []).append(value)

    def rows(self) -> list[Row]:
        """The figures that were measured, in the order of `FIGURES`."""
        return [
            _row(figure, self.found[figure.key], self.embedded)
            for figure in FIGURES
            if figure.key in self.found
        ]


def _row(figure: Figure, runs: list[float], embedded: bool) -> Row:
    value = median(runs)
    target, kept = (figure.target, figure.kept(value)) if embedded or figure.everywhere else ("", None)
    return Row(figure.key, figure.measure, figure.text, figure.unit, target, value, tuple(runs), kept)


def machine(cores: Cores) -> dict[str, Any]:
    """The facts that figures depend on."""
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
    """The median seconds that the disk under the temporary folder takes to make 4 KB durable."""
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
    """The table; with a second column also what the first one's figures are to the second's."""
    console = Console(width=None if sys.stdout.isatty() else 132)
    pinned = "server and client each on a core of their own" if facts["pinned"] else "nothing pinned"
    console.print(
        f"{facts['processor']}, {facts['cores']} cores ({pinned}), {facts['memory_gb']} GB, {facts['system']}, Python "
        f"{facts['python']}, SQLite {facts['sqlite']}, disk flush {facts['flush_ms']} ms, load {facts['load'][0]}",
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
        runs = f"{shown(low)} .. {shown(high)}" if len(row.runs) > 1 else ""
        verdict = {True: "[green]ok[/]", False: "[red]over[/]", None: ""}[row.kept]
        if row.kept is False and row.target.startswith(">"):
            verdict = "[red]under[/]"
        cells = [row.text, row.target, f"{shown(row.value)} {row.unit}", runs]
        for other in against:
            theirs = other.get(row.key)
            cells += ["-", "-"] if theirs is None else [shown(theirs.value), _ratio(row.value, theirs.value)]
        table.add_row(*cells, verdict)
    console.print(table)


def markdown(results: Sequence[dict[str, Any]]) -> str:
    """The table of docs/reference/performance.md.

    One column for each database, and whether the first keeps the targets.
    """
    columns = [{row["key"]: row for row in result["figures"]} for result in results]
    head = [results[0]["database"], "", *(result["database"] for result in results[1:])]
    lines = [f"| what | target | {' | '.join(head)} |", "| --- | --- |" + " --- |" * len(head)]
    for figure in FIGURES:
        found = [column.get(figure.key) for column in columns]
        if any(found):
            first, *others = [_with_unit(row["value"], figure.unit) if row else "" for row in found]
            kept = figure.kept(found[0]["value"]) if found[0] else None
            verdict = {True: "met", False: "**missed**", None: ""}[kept]
            target = f"{figure.target} {figure.unit}" if figure.target else ""
            lines.append(
                f"| {' | '.join([figure.text, target.replace('<', '&lt;'), first, verdict, *others])} |"
            )
    return "\n".join(lines)


def _with_unit(value: float, unit: str) -> str:
    return f"{shown(value)}{'' if unit in {'/s', 'x', '%'} else ' '}{unit}"


def _ratio(ours: float, theirs: float) -> str:
    return f"{ours / theirs:.2f}x" if theirs else "-"
