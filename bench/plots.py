"""Draw the plots of the docs from the last results: `make plots`.

Matplotlib draws them. It is not installed with the other packages, but into an environment of its own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl  # type: ignore[import-not-found]
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
PLOTS = ROOT / "docs" / "reference" / "plots"
SQLITE, POSTGRES, PALE = "#0b6e4f", "#2f5fa8", "#9db8dd"
NAMES = {"sqlite": "SQLite", "postgres": "PostgreSQL"}
COLOURS = {"sqlite": SQLITE, "postgres": POSTGRES}

Results = dict[str, dict[str, float]]
"""By database: the figures by their keys."""


def main() -> int:
    """Draw what the last results have the figures for."""
    results = _read()
    if not results:
        print("there are no results: run `make bench ARGS='sweep crowds takeover'` first", file=sys.stderr)
        return 1
    mpl.rcParams.update(
        {
            "svg.hashsalt": "perdure",
            "svg.fonttype": "path",
            "figure.facecolor": "white",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#e4e4e4",
            "font.size": 10,
            "legend.frameon": False,
            "lines.linewidth": 2,
            "lines.markersize": 5,
        }
    )
    PLOTS.mkdir(parents=True, exist_ok=True)
    for name, draw in (("turns", _turns), ("streams", _streams), ("takeover", _takeover)):
        figure = draw(results)
        if any(axes.lines for axes in figure.axes):
            _save(name, figure)
        plt.close(figure)
    return 0


def _read() -> Results:
    found = {}
    for database, name in (("sqlite", "latest.json"), ("postgres", "latest-postgres.json")):
        path = RESULTS / name
        if path.exists():
            figures = json.loads(path.read_bytes())["figures"]
            found[database] = {row["key"]: row["value"] for row in figures}
    return found


def _save(name: str, figure: Any) -> None:
    figure.tight_layout()
    path = PLOTS / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None})
    print(path.relative_to(ROOT))


def _series(figures: dict[str, float], key: str) -> tuple[list[int], list[float]]:
    """The points of a plot: the figures whose keys are `key` and a number, by that number."""
    prefix = f"{key}_"
    points = {
        int(name[len(prefix) :]): value
        for name, value in figures.items()
        if name.startswith(prefix) and name[len(prefix) :].isdecimal()
    }
    counts = sorted(points)
    return counts, [points[count] for count in counts]


def _draw(axes: Any, points: tuple[list[int], list[float]], label: str, colour: str, line: str = "-") -> None:
    """Draw a line with its points, if there are any."""
    if points[0]:
        axes.plot(*points, f"o{line}", label=label, color=colour)


def _finish(axes: Any, title: str, unit: str, across: str) -> None:
    axes.set_ylim(bottom=0)
    axes.set_xlabel(across)
    axes.set_ylabel(unit)
    axes.set_title(title, loc="left", fontweight="bold")
    if axes.lines:
        axes.legend()


def _turns(results: Results) -> Any:
    figure, (rates, costs) = plt.subplots(1, 2, figsize=(9, 3.6))
    for database, figures in results.items():
        colour, name = COLOURS[database], NAMES[database]
        _draw(rates, _series(figures, "sweep_per_s"), name, colour)
        _draw(costs, _series(figures, "sweep_cpu_ms"), f"server, {name}", colour)
        _draw(costs, _series(figures, "sweep_database_ms"), "PostgreSQL itself", PALE)
    for axes in (rates, costs):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
    across = "turns at once, one process"
    _finish(rates, "Text turns per second", "turns/s", across)
    _finish(costs, "Processor time per turn", "ms", across)
    return figure


def _streams(results: Results) -> Any:
    figure, (firsts, memory) = plt.subplots(1, 2, figsize=(9, 3.6))
    for database, figures in results.items():
        colour, name = COLOURS[database], NAMES[database]
        _draw(firsts, _series(figures, "crowds_first_ms"), f"{name}, median", colour)
        _draw(firsts, _series(figures, "crowds_p99_ms"), f"{name}, 99th percentile", colour, "--")
        _draw(memory, _series(figures, "crowds_mb"), name, colour)
    across = "streams at once, one core"
    _finish(firsts, "Time to the first token, added", "ms", across)
    _finish(memory, "Peak memory of the server", "MB", across)
    return figure


def _takeover(results: Results) -> Any:
    found = results.get("postgres", {})
    shares = [share for share in range(10, 101, 10) if f"takeover_{share}_s" in found]
    seconds = [found[f"takeover_{share}_s"] for share in shares]
    figure, axes = plt.subplots(figsize=(6, 3.4))
    if shares:
        axes.step([0, *seconds], [0, *shares], where="post", color=POSTGRES)
    axes.set_xlim(0, 14)
    axes.set_ylim(0, 102)
    axes.set_xlabel("seconds after the process was killed")
    axes.set_ylabel("% of its turns taken over")
    axes.set_title("Recovery of 1,000 turns", loc="left", fontweight="bold")
    return figure


if __name__ == "__main__":
    sys.exit(main())
