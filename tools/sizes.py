"""Checks the sizes that keep the code readable: functions up to 60 lines, files up to 500.

A function's lines run from its `def` (decorators apart) to its last one, docstring included.
Usage: python tools/sizes.py FOLDER...
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FUNCTION_LINES = 60
FILE_LINES = 500


def oversized(folder: Path) -> Iterator[str]:
    """One line of text for everything under the folder that is too long."""
    for path in sorted(folder.rglob("*.py")):
        source = path.read_text("utf-8")
        lines = len(source.splitlines())
        if lines > FILE_LINES:
            yield f"{path}: {lines} lines (a file has up to {FILE_LINES})"
        for node in ast.walk(ast.parse(source, str(path))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or node.lineno) - node.lineno + 1
                if size > FUNCTION_LINES:
                    yield f"{path}:{node.lineno}: {node.name} has {size} lines (a function has up to {FUNCTION_LINES})"


def main() -> int:
    found = [line for name in sys.argv[1:] for line in oversized(Path(name))]
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
