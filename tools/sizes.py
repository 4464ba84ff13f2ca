"""Checks the sizes that keep the repository readable.

Functions have up to 60 lines, Python files up to 500, lines up to 110 characters. A function's lines run from
its `def` (without decorators) to its last line, docstring included. Ruff checks the lines of Python files
(E501); this checks the lines of all other text files that git tracks.

Usage: python tools/sizes.py FOLDER...
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

FUNCTION_LINES = 60
FILE_LINES = 500
LINE_CHARACTERS = 110

ROOT = Path(__file__).resolve().parents[1]

LONG_LINES_ALLOWED = (
    "*.lock",  # hashes
    "*.xz",  # recorded data, compressed
    "src/perdure/store/migrations/0001_core.sql",  # a released migration is never edited
    "src/perdure/store/migrations/0002_agent_versions.sql",  # a released migration is never edited
    "deploy/grafana/*.json",  # a query is one string of JSON
    "tests/peers/package-lock.json",  # hashes
    "tests/contract/commands.json",  # extracted from another project's client
    "tests/contract/contract.json",  # extracted from another project's document
    "tests/golden/*.json",  # recorded answers
    "tests/golden/llama/*.txt",  # recorded exchanges
    "tests/upgrade/databases/*",  # recorded databases of older releases
)
"""Files whose lines may be longer, as patterns of their paths."""

LONG_WORD = re.compile(r"\S*://\S{60,}\S*")
"""A long URL, which cannot be split."""


def oversized(folder: Path) -> Iterator[str]:
    """One line of text for every function and file under the folder that is too long."""
    for path in sorted(folder.rglob("*.py")):
        source = path.read_text("utf-8")
        lines = len(source.splitlines())
        if lines > FILE_LINES:
            yield f"{path}: {lines} lines (a file has up to {FILE_LINES})"
        for node in ast.walk(ast.parse(source, str(path))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or node.lineno) - node.lineno + 1
                if size > FUNCTION_LINES:
                    where = f"{path}:{node.lineno}: {node.name}"
                    yield f"{where} has {size} lines (a function has up to {FUNCTION_LINES})"


def text_files(root: Path) -> list[Path]:
    """The paths of all files but Python's that git tracks, or would once they are added."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    return [Path(name) for name in sorted(listed.stdout.split("\0")) if name and not name.endswith(".py")]


def wide(root: Path, paths: Iterable[Path]) -> Iterator[str]:
    """One line of text for every line of these files that is too long."""
    for path in paths:
        if any(fnmatch(path.as_posix(), pattern) for pattern in LONG_LINES_ALLOWED):
            continue
        if not (root / path).is_file():  # deleted, and not committed yet
            continue
        for number, line in enumerate((root / path).read_text("utf-8").splitlines(), 1):
            if len(line) > LINE_CHARACTERS and not LONG_WORD.search(line):
                yield f"{path}:{number}: {len(line)} characters (a line has up to {LINE_CHARACTERS})"


def main() -> int:
    found = [line for name in sys.argv[1:] for line in oversized(Path(name))]
    found += wide(ROOT, text_files(ROOT))
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
