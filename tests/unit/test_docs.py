"""Settings, events, routes, capabilities, tools, error codes and decisions are documented."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.api.kernel.problems import STATUS
from perdure.api.openapi.error_codes import ANSWERS, BY_CODE, INSIDE, TURNS
from perdure.capabilities.registry import Registry
from perdure.domain import errors
from perdure.domain.events import EVENT_DATA, KNOWN_TYPES
from perdure.engine.turn_events import ADVICE
from perdure.settings import Settings
from perdure.tools.built_in import catalogue
from perdure.wiring import all_routes
from tools import reference

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"
SOURCE = ROOT / "src" / "perdure"


def code_spans(name: str) -> set[str]:
    """All text between backticks on a page of the reference."""
    return set(re.findall(r"`([^`\n]+)`", (REFERENCE / name).read_text("utf-8")))


def error_classes() -> dict[str, type[errors.PerdureError]]:
    return {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.PerdureError)
    }


def emitted(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """The error codes in a module, each with the name of the class or function that gets it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for line in node.body:
                names = [line.target] if isinstance(line, ast.AnnAssign) else getattr(line, "targets", [])
                value = getattr(line, "value", None)
                named = any(isinstance(name, ast.Name) and name.id == "code" for name in names)
                if named and isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield node.name, value.value
        if not isinstance(node, ast.Call):
            continue
        called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        code = next((keyword.value for keyword in node.keywords if keyword.arg == "code"), None)
        if called == "NotFound" and code is None and node.args and isinstance(node.args[0], ast.Constant):
            yield called, f"{node.args[0].value.replace(' ', '_')}_not_found"
        elif called == "Fail" and node.args and isinstance(node.args[0], ast.Constant):
            yield called, node.args[0].value
        elif isinstance(code, ast.Constant) and isinstance(code.value, str):
            yield called, code.value


def codes_in_the_source() -> list[tuple[str, str, str]]:
    """Every error code in the source: (file, called class or function, code)."""
    return [
        (str(path.relative_to(SOURCE)), called, code)
        for path in sorted(SOURCE.rglob("*.py"))
        if path.name != "error_codes.py"
        for called, code in emitted(ast.parse(path.read_text("utf-8")))
    ]


def test_the_reference_is_current() -> None:
    stale = [
        name for name, text in reference.pages().items() if (REFERENCE / name).read_text("utf-8") != text
    ]
    assert stale == [], "run `make docs`"


def test_every_setting_is_documented() -> None:
    assert {f"PERDURE_{name.upper()}" for name in Settings.__struct_fields__} - code_spans(
        "settings.md"
    ) == set()


def test_every_event_is_documented() -> None:
    assert (set(EVENT_DATA) | KNOWN_TYPES) - code_spans("events.md") == set()


def test_every_kind_of_event_has_a_docstring() -> None:
    assert [kind.__name__ for kind in EVENT_DATA.values() if not (kind.__doc__ or "").strip()] == []


def test_every_route_is_documented() -> None:
    routes = all_routes(Settings(), asyncio.Event(), lambda: 0)
    known = code_spans("routes.md")
    assert {route.path for route in routes} | {route.operation_id for route in routes} <= known


def test_every_capability_and_every_tool_is_documented() -> None:
    known = code_spans("capabilities.md")
    for capability in Registry(catalogue()).all():
        assert {capability.id, *capability.aliases, *capability.features} <= known
        assert {tool.name for tool in capability.tools(None)} <= known


def test_every_error_code_in_the_source_is_explained() -> None:
    unexplained = {
        code: file for file, _, code in codes_in_the_source() if code not in BY_CODE and code not in INSIDE
    }
    assert unexplained == {}, "explain them in api/openapi/error_codes.py"
    assert set(BY_CODE) - code_spans("errors.md") == set()


def test_every_explained_error_code_is_emitted() -> None:
    named = {code for _, _, code in codes_in_the_source()} | set(ADVICE)
    text = "".join(path.read_text("utf-8") for path in SOURCE.rglob("*.py") if path.name != "error_codes.py")
    assert {code for code in BY_CODE if code not in named and f'"{code}"' not in text} == set()


def test_every_error_code_of_a_response_is_explained_with_its_status() -> None:
    classes, explained = error_classes(), {error.code: error.status for error in ANSWERS}
    for file, called, code in codes_in_the_source():
        kind = classes.get(called)
        statuses = [STATUS[each][0] for each in kind.__mro__ if each in STATUS] if kind is not None else []
        if statuses and code in explained and kind is not errors.ModelError:
            assert explained[code] == statuses[0], (file, code)


def test_every_error_code_of_a_failed_turn_is_explained() -> None:
    assert set(ADVICE) - {error.code for error in TURNS} == set()


DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))


def test_decisions_are_numbered_without_gaps() -> None:
    assert [path.name[:5] for path in DECISIONS] == [
        f"{number:04}-" for number in range(1, len(DECISIONS) + 1)
    ]


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_has_the_four_sections(path: Path) -> None:
    headings = re.findall(r"^## (.+)$", path.read_text("utf-8"), re.MULTILINE)
    assert headings == ["Context", "Decision", "Dismissed", "Consequences"]


def markdown() -> list[Path]:
    return [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def test_every_link_between_documents_has_a_target() -> None:
    broken = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in markdown()
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", path.read_text("utf-8"))
        if not (path.parent / target).exists()
    ]
    assert broken == []


def test_every_path_in_the_orientation_exists() -> None:
    text = (ROOT / "AGENTS.md").read_text("utf-8")
    named = set(re.findall(r"`((?:src|tests|docs|tools|bench)/[\w./-]*)`", text))
    assert {path for path in named if not (ROOT / path).exists()} == set()
