"""Compares our API document with the wire contract; every difference is listed with its reason.

contract.json is the structure of the contract for the core areas (see extract.py). The list of differences is
in docs/reference/compatibility.md: it has exactly the checks that fail.
"""

from __future__ import annotations

import json
import re
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from perdure.api.openapi.document import build_document
from tests.contract.areas import AREAS, contract, operations
from tests.contract.compare import Check, Comparison
from tests.journeys.world import ROUTES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "compatibility.md"

CONTRACT = contract()
COMMANDS: list[dict[str, Any]] = json.loads(Path(__file__).with_name("commands.json").read_text())
"""The commands of the contract's newest clients, with the kind of each parameter."""
DOCUMENT = build_document(ROUTES, "0")


def place_of(command: dict[str, Any]) -> str:
    """The method and the path of a command's route, whatever its variables are called."""
    return f"{command['method']} {re.sub('{[^}]+}', '{}', command['path'])}"


PLACES = {place_of({"method": route.method, "path": route.path}) for route in ROUTES}


def compared() -> dict[str, dict[Check, bool]]:
    """The checks of each area."""
    found: dict[str, dict[Check, bool]] = {}
    for name, _ in AREAS:
        comparison = Comparison(CONTRACT, DOCUMENT)
        for area, method, path, operation in operations(CONTRACT):
            if area == name:
                comparison.operation(method, path, operation)
        found[name] = comparison.checks
    return found


CHECKS = compared()


ENTRY = re.compile(r"^\* ((?:.|\n)+?)\\\n((?:  `.*\n)+)", re.MULTILINE)
"""A reason, and the elements that it applies to."""


def listed_differences() -> list[tuple[str, list[str], str]]:
    """The entries of the page: what differs (the heading), where (one or more elements), and why."""
    _, *sections = re.split(r"^### (.+)\n", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    return [
        (what, re.findall(r"`([^`]+)`", elements), " ".join(reason.split()))
        for what, section in zip(sections[::2], sections[1::2], strict=True)
        for reason, elements in ENTRY.findall(section)
    ]


def test_exactly_the_differences_from_the_contract_are_listed() -> None:
    differences = {check for checks in CHECKS.values() for check, good in checks.items() if not good}
    differences |= {(each["command"], "command") for each in COMMANDS if place_of(each) not in PLACES}
    listed = [(element, what) for what, elements, _ in listed_differences() for element in elements]
    assert sorted(differences - set(listed)) == []
    assert sorted(set(listed) - differences) == []
    assert sorted({each for each in listed if listed.count(each) > 1}) == []


def test_every_difference_has_a_reason() -> None:
    entries = listed_differences()
    assert len(entries) == PAGE.read_text("utf-8").partition("## Differences")[2].count("\n* ")
    assert [elements for _, elements, reason in entries if len(reason.split()) < 4] == []


def share(checks: dict[Check, bool]) -> str:
    """How much of the contract is covered: routes, and checks. A missing route counts as one failed check."""
    routes = [good for (_, what), good in checks.items() if what == "route"]
    good = sum(checks.values())
    details = f"{good:>4} of {len(checks):>4} checks {100 * good / len(checks):6.1f} %"
    return f"{sum(routes):>3} of {len(routes):>3} routes, {details}"


def test_the_covered_share_of_the_contract_is_printed_for_each_area(
    capsys: pytest.CaptureFixture[str],
) -> None:
    every = {(name, *check): good for name, checks in CHECKS.items() for check, good in checks.items()}
    assert sum(every.values()) > 0.9 * len(every)
    lines = [f"  {name:<18}{share(checks)}" for name, checks in CHECKS.items()]
    with capsys.disabled():
        # If tests run in worker processes, only their stderr reaches the terminal.
        print("\nThe wire contract, covered:", *lines, sep="\n", file=sys.stderr)


def test_every_operation_of_the_contract_belongs_to_one_area() -> None:
    known = {name for name, _ in AREAS}
    assert {area for area, *_ in operations(CONTRACT)} == known


def test_the_table_of_commands_has_exactly_the_commands_of_the_contract() -> None:
    table = files("perdure.api.kernel").joinpath("commands.txt").read_text("utf-8")
    assert table.splitlines() == [f"{each['command']} {each['method']} {each['path']}" for each in COMMANDS]
