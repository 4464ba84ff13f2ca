"""House rules that no other tool checks."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.wheel import build_wheel
from tools.sizes import oversized, text_files, wide
from tools.unused import main as check_unused
from tools.unused import unused

pytestmark = pytest.mark.unmeasured  # reads the source

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "perdure"
RINGS = {
    "domain", "net", "sandbox", "store", "llm", "capabilities", "engine", "app", "tools", "api", "doors",
    "worker", "cli",
}  # fmt: skip
OUTSIDE_THE_RINGS = {
    "__init__",
    "__main__",
    "settings",
    "routing",
    "keeping",
    "transfers",
    "wiring",
    "server",
    "stopping",
    "logs",
    "listening",
    "observed",
    "client",
}

# The brackets keep this file from matching its own pattern.
REGISTRY_HOSTS = re.compile(
    r"pypi\.[o]rg|pythonhosted\.[o]rg|registry\.npmjs\.[o]rg|crates\.[i]o|proxy\.golang\.[o]rg"
    r"|repo1?\.maven\.[o]rg|deb\.debian\.[o]rg"
)
RUNS_SQL = {"all", "one", "run", "run_many", "append"}
STATEMENT = re.compile(
    r"\s*(SELECT\s+\S+.*\sFROM\s|SELECT\s+\d|SELECT\s+$|INSERT\s+INTO\s|DELETE\s+FROM\s|UPDATE\s+\w+\s+SET\s"
    r"|(CREATE|ALTER|DROP)\s+(TABLE|INDEX|TRIGGER)\s|WITH\s+(RECURSIVE\s+)?\w+.*\sAS\s*\()|.*\bpg_(try_)?advisory_",
    re.DOTALL,
)
MACHINE_PATHS = re.compile(r"/work/(?:main|shared|\.library)|(?<![\w.])/[r]oot/|(?<![\w.])/[U]sers/")


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def _files_of_the_project() -> list[Path]:
    """The files that git tracks or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def _lines_that_match(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {found[0]}"
        for path in _files_of_the_project()
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1)
        if (found := pattern.search(line))
    ]


def test_no_function_and_no_file_is_too_long() -> None:
    assert list(oversized(PACKAGE)) == []


def test_a_long_function_and_a_long_file_are_found(tmp_path: Path) -> None:
    (tmp_path / "fine.py").write_text("def short():\n" + "    x = 1\n" * 59)
    (tmp_path / "long_function.py").write_text("\n\nasync def long():\n" + "    x = 1\n" * 60)
    (tmp_path / "long_file.py").write_text("x = 1\n" * 501)
    assert [line.removeprefix(f"{tmp_path}/") for line in oversized(tmp_path)] == [
        "long_file.py: 501 lines (a file has up to 500)",
        "long_function.py:3: long has 61 lines (a function has up to 60)",
    ]


def test_no_line_of_a_text_file_is_too_long() -> None:
    assert list(wide(ROOT, text_files(ROOT))) == []


def test_a_long_line_is_found_unless_it_is_recorded_data_or_a_url(tmp_path: Path) -> None:
    (tmp_path / "tests" / "golden").mkdir(parents=True)
    (tmp_path / "tests" / "golden" / "answer.json").write_text("1" * 200)
    (tmp_path / "fine.md").write_text("x" * 110 + "\n")
    (tmp_path / "url.md").write_text("https://example.com/" + "x" * 100)
    (tmp_path / "long.md").write_text("\n" + "x" * 111 + "\n")
    names = ["fine.md", "long.md", "tests/golden/answer.json", "url.md"]
    assert list(wide(tmp_path, map(Path, names))) == ["long.md:2: 111 characters (a line has up to 110)"]


def test_the_line_check_reads_the_files_that_git_tracks_and_ruff_does_not() -> None:
    found = {path.as_posix() for path in text_files(ROOT)}
    assert {"Makefile", "README.md", "pyproject.toml", "tools/install.sh", ".ci/run"} <= found
    assert "tools/sizes.py" not in found


def test_the_folders_of_the_package_are_the_rings() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders - OUTSIDE_THE_RINGS == RINGS


def test_only_the_entry_points_the_settings_and_the_client_are_outside_the_rings() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} <= OUTSIDE_THE_RINGS


def test_the_import_contract_knows_every_ring() -> None:
    rings_contract = _project()["tool"]["importlinter"]["contracts"][0]
    layers = [name.strip() for layer in rings_contract["layers"] for name in layer.split("|")]
    assert sorted(layers) == sorted(RINGS)


def test_only_the_store_holds_sql() -> None:
    # The sandbox's is SQLite's own, about the databases of sessions.
    outside = set(PACKAGE.rglob("*.py")) - {
        path for ring in ("store", "sandbox") for path in (PACKAGE / ring).rglob("*.py")
    }
    assert [line for path in sorted(outside) for line in _sql_in(path.read_text("utf-8"), path)] == []


def test_sql_is_found_wherever_it_stands() -> None:
    source = """
async def a(tx, n): return await tx.one(QUERY, n)
sql = f"SELECT {name} FROM things"
lock = "x; select pg_advisory_xact_lock(1)"
async def b(tx): return await database.read(lambda tx: tx.all("DELETE FROM things"))
words = "SELECT is a word. Update me; tx.one"
tx.after_commit(call)
"""
    assert [line.split(": ")[0] for line in _sql_in(source, PACKAGE / "x.py")] == ["2", "3", "4", "5", "5"]


def _sql_in(source: str, path: Path) -> list[str]:
    """The lines of a module that run statements or hold them."""
    found: set[tuple[int, str]] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="tx"), attr=method)) if method in RUNS_SQL:
                found.add((node.lineno, f"tx.{method}"))
            case ast.Constant(value=str(text)) if STATEMENT.match(text):
                found.add((node.lineno, text[:40]))
    return [f"{line}: {what} in {path.relative_to(PACKAGE)}" for line, what in sorted(found)]


def test_no_file_names_a_package_registry() -> None:
    assert _lines_that_match(REGISTRY_HOSTS) == []


def test_no_file_names_a_path_of_a_developers_machine() -> None:
    assert _lines_that_match(MACHINE_PATHS) == []


def test_no_pattern_of_a_field_accepts_a_newline_at_the_end() -> None:
    """In Python's regular expressions, `$` also matches before one."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Meta":
                given = [each.value for each in node.keywords if each.arg == "pattern"]
                names = vars(importlib.import_module(name)) if given else {}
                found += [(name, eval(ast.unparse(each), dict(names))) for each in given]
    assert len(found) > 8
    assert [each for each in found if each[1].endswith("$")] == []


def test_every_dependency_is_locked() -> None:
    project = _project()["project"]
    required = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    locked = set(
        re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text("utf-8"), re.MULTILINE)
    )
    # Extras may include other extras of this package.
    assert {re.split(r"[^a-z0-9-]", requirement)[0] for requirement in required} - locked == {"perdure"}


def test_the_wheel_contains_all_files_of_the_package(tmp_path: Path) -> None:
    packed = {
        name for name in zipfile.ZipFile(build_wheel(tmp_path)).namelist() if name.startswith("perdure/")
    }
    source = {
        f"perdure/{path.relative_to(PACKAGE)}"
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == source
    assert "perdure/py.typed" in packed


UNUSED = """
from msgspec import Struct

LIMIT = 7


class Answer(Struct):
    shown: str


class Jar:
    def __init__(self):
        self.lid = 1

    def open(self):
        return serve(Answer("x"))

    def close(self): ...


def serve(options):
    options.speed = 3
    Jar().open()


def purge_answers(): ...


@app.command()
def run(): ...
"""


def _tree(root: Path, code: str) -> Path:
    for name, text in (
        ("src/perdure/domain/answers.py", code),
        (
            "src/perdure/engine/answers.py",
            "from msgspec import Struct\nclass Kept(Struct):\n    part: int\nKept",
        ),
        (
            "tests/test_answers.py",
            "from perdure.domain.answers import LIMIT, Jar, purge_answers\nJar().close()",
        ),
    ):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(text)
    return root


def test_code_that_only_tests_use_is_found(tmp_path: Path) -> None:
    assert [(path, kind, name) for path, _, kind, name in unused(_tree(tmp_path, UNUSED))] == [
        ("src/perdure/domain/answers.py", "variable", "LIMIT"),
        ("src/perdure/domain/answers.py", "attribute", "lid"),
        ("src/perdure/domain/answers.py", "method", "close"),
        ("src/perdure/domain/answers.py", "function", "purge_answers"),
        ("src/perdure/engine/answers.py", "variable", "part"),
    ]


def test_unused_code_needs_a_reason_and_a_reason_needs_unused_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    allowed = tmp_path / "unused.toml"
    allowed.write_text(
        '["src/perdure/domain/answers.py"]\nLIMIT = "x"\nlid = "x"\nclose = "x"\nserve = "x"\n'
        '["src/perdure/engine/answers.py"]\npart = "x"\n'
    )
    assert check_unused(_tree(tmp_path, UNUSED), allowed) == 1
    assert capsys.readouterr().out.splitlines() == [
        "src/perdure/domain/answers.py:26: unused function 'purge_answers'",
        "tools/unused.toml: 'serve' of src/perdure/domain/answers.py is used, or gone: remove the entry",
    ]
    allowed.write_text("")
    (tmp_path / "src/perdure/domain/answers.py").write_text("")
    (tmp_path / "src/perdure/engine/answers.py").write_text("")
    assert check_unused(tmp_path, allowed) == 0
