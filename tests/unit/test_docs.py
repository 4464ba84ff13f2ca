"""What exists is documented: settings, events, routes, capabilities, tools, error codes, decisions."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.api.kernel.problems import STATUS
from perdure.api.openapi.error_codes import RESPONSES, TURNS
from perdure.capabilities.registry import Registry
from perdure.domain import errors
from perdure.domain.events import EVENT_DATA, KNOWN_TYPES
from perdure.engine.turn_events import ADVICE
from perdure.routing import ThisProcess, all_routes
from perdure.settings import Settings
from perdure.tools.built_in import catalogue
from tests.error_codes import EXPLAINED, INTERNAL_SIGNALS
from tools import reference

pytestmark = pytest.mark.unmeasured  # reads the source

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"
SOURCE = ROOT / "src" / "perdure"


def words_of(name: str) -> set[str]:
    """Everything that stands `between backticks` on a page of the reference."""
    return set(re.findall(r"`([^`\n]+)`", (REFERENCE / name).read_text("utf-8")))


def error_classes() -> dict[str, type[errors.PerdureError]]:
    return {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.PerdureError)
    }


def emitted(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """The error codes in a piece of source, each with the name of what is called with it."""
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
        code = next((each.value for each in node.keywords if each.arg == "code"), None)
        if called == "NotFound" and code is None and node.args and isinstance(node.args[0], ast.Constant):
            yield called, f"{node.args[0].value.replace(' ', '_')}_not_found"
        elif called == "Fail" and node.args and isinstance(node.args[0], ast.Constant):
            yield called, node.args[0].value
        elif isinstance(code, ast.Constant) and isinstance(code.value, str):
            yield called, code.value


@functools.cache
def codes_in_the_source() -> list[tuple[str, str, str]]:
    """Every error code that the source names: (where, what is called with it, code)."""
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
    assert {f"PERDURE_{name.upper()}" for name in Settings.__struct_fields__} - words_of(
        "settings.md"
    ) == set()


def test_every_event_is_documented() -> None:
    assert (set(EVENT_DATA) | KNOWN_TYPES) - words_of("events.md") == set()


def test_every_kind_of_event_says_what_it_is() -> None:
    assert [kind.__name__ for kind in EVENT_DATA.values() if not (kind.__doc__ or "").strip()] == []


def test_every_route_is_documented() -> None:
    routes = all_routes(Settings(), ThisProcess())
    known = words_of("routes.md")
    assert {route.path for route in routes} | {route.operation_id for route in routes} <= known


def test_every_capability_and_every_tool_is_documented() -> None:
    known = words_of("capabilities.md")
    for capability in Registry(catalogue()).all():
        assert {capability.id, *capability.aliases, *capability.features} <= known
        assert {tool.name for tool in capability.tools(None)} <= known


def test_every_error_code_that_the_source_names_is_explained() -> None:
    unexplained = {
        code: place for place, _, code in codes_in_the_source() if code not in EXPLAINED | INTERNAL_SIGNALS
    }
    assert unexplained == {}, "explain them in api/openapi/error_codes.py"
    assert EXPLAINED - words_of("errors.md") == set()


def test_no_error_code_is_explained_that_nothing_emits() -> None:
    named = {code for _, _, code in codes_in_the_source()} | set(ADVICE)
    text = "".join(path.read_text("utf-8") for path in SOURCE.rglob("*.py") if path.name != "error_codes.py")
    assert {code for code in EXPLAINED if code not in named and f'"{code}"' not in text} == set()


def test_every_error_code_of_an_answer_has_the_status_that_it_is_answered_with() -> None:
    classes, explained = error_classes(), {error.code: error.status for error in RESPONSES}
    for place, called, code in codes_in_the_source():
        kind = classes.get(called)
        statuses = [STATUS[each][0] for each in kind.__mro__ if each in STATUS] if kind is not None else []
        if statuses and code in explained and kind is not errors.ModelError:
            assert explained[code] == statuses[0], (place, code)


def test_every_way_for_a_turn_to_fail_is_explained() -> None:
    assert set(ADVICE) - {error.code for error in TURNS} == set()


DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))


def test_decisions_are_numbered_without_a_gap() -> None:
    assert [path.name[:5] for path in DECISIONS] == [
        f"{number:04}-" for number in range(1, len(DECISIONS) + 1)
    ]


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_says_why_what_what_not_and_what_follows(path: Path) -> None:
    headings = re.findall(r"^## (.+)$", path.read_text("utf-8"), re.MULTILINE)
    assert headings == ["Context", "Decision", "Dismissed", "Consequences"]


def markdown() -> list[Path]:
    return [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def test_every_link_between_documents_leads_somewhere() -> None:
    broken = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in markdown()
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", path.read_text("utf-8"))
        if not (path.parent / target).exists()
    ]
    assert broken == []


def test_every_path_that_the_orientation_names_exists() -> None:
    text = (ROOT / "AGENTS.md").read_text("utf-8")
    named = set(re.findall(r"`((?:src|tests|docs|tools|bench)/[\w./-]*)`", text))
    assert {path for path in named if not (ROOT / path).exists()} == set()
