"""Find unused code in `src` and `tools`: `python tools/unused.py`.

vulture finds names that are defined and never read. Code that only tests call counts as unused. This script
ignores names that other code uses without naming them:

* fields of structs in domain/, app/, api/ and doors/: the wire format, which msgspec reads and writes;
* attributes of other libraries' objects (`options.max_mem = ...`): the library reads them;
* commands and callbacks of the command line: typer calls them;
* public methods of the client, in its classes named `...Methods`: users call them.

tools/unused.toml lists all other names that are used from outside, with the reason. An entry that is no
longer needed is an error too.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from vulture import Vulture

ROOT = Path(__file__).resolve().parents[1]
CHECKED = ("src", "tools")
USERS = ("src", "tools", "examples")
"""Examples count as users: they show what plug-ins may do."""
WIRE = ("src/perdure/domain/", "src/perdure/app/", "src/perdure/api/", "src/perdure/doors/")
CLIENT = "src/perdure/client/"
CALLED_BY_TYPER = ["@*.command", "@*.callback"]


def used_by_shape(path: Path, wire: bool) -> set[tuple[int, str]]:
    """Return line and name of a file's wire fields and of attributes that it sets on foreign objects."""
    used: set[tuple[int, str]] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if wire and isinstance(node, ast.ClassDef):
            fields = [item.target for item in node.body if isinstance(item, ast.AnnAssign)]
            used |= {(field.lineno, field.id) for field in fields if isinstance(field, ast.Name)}
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and not _is_self(node.value):
            used.add((node.lineno, node.attr))
    return used


def public_methods(path: Path) -> set[tuple[int, str]]:
    """Return line and name of the methods of a file's classes named `...Methods`."""
    methods: set[tuple[int, str]] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name.endswith("Methods"):
            for item in node.body:
                if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
                    first = item.decorator_list[0] if item.decorator_list else item  # `@overload`
                    methods.add((first.lineno, item.name))
                elif isinstance(item, ast.Assign):
                    names = [target for target in item.targets if isinstance(target, ast.Name)]
                    methods |= {(item.lineno, each.id) for each in names}
    return {(line, name) for line, name in methods if not name.startswith("_")}


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def unused(root: Path) -> Iterator[tuple[str, int, str, str]]:
    """Yield path, line, kind and name of unused code."""
    vulture = Vulture(ignore_names=["__*__"], ignore_decorators=CALLED_BY_TYPER)
    vulture.scavenge([root / folder for folder in USERS if (root / folder).exists()])
    shapes: dict[Path, set[tuple[int, str]]] = {}
    for item in vulture.get_unused_code(min_confidence=60):
        path = Path(item.filename).resolve()
        name = path.relative_to(root).as_posix()
        if path not in shapes:
            shapes[path] = used_by_shape(path, name.startswith(WIRE))
            if name.startswith(CLIENT):
                shapes[path] |= public_methods(path)
        if name.startswith(CHECKED) and (item.first_lineno, item.name) not in shapes[path]:
            yield name, item.first_lineno, item.typ, item.name


def main(root: Path = ROOT, allowed: Path = ROOT / "tools" / "unused.toml") -> int:
    """Print unused code and stale entries of the list; return 1 if there are any, else 0."""
    reasons = tomllib.loads(allowed.read_text("utf-8"))
    listed = {(path, name) for path, names in reasons.items() for name in names}
    items = list(unused(root))
    problems = [
        f"{path}:{line}: unused {kind} {name!r}"
        for path, line, kind, name in items
        if (path, name) not in listed
    ]
    stale = listed - {(path, name) for path, _, _, name in items}
    problems += [
        f"tools/unused.toml: {name!r} of {path} is used, or gone: remove the entry"
        for path, name in sorted(stale)
    ]
    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
