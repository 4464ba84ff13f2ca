"""Code of `src` and `tools` that nothing there uses: `python tools/unused.py`.

vulture finds names that are defined and never read. What only tests call is unused. Left out
here is what other code uses without naming it:

* fields of structs in domain/, app/ and api/: they are wire format, which msgspec reads and writes;
* attributes of other libraries' objects (`options.max_mem = ...`): the library reads them;
* commands and callbacks of the command line: typer calls them.

Everything else that is used from outside is listed in tools/unused.toml, with its reason. An entry that is no
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
"""An example is a use: it shows what plug-ins may do."""
WIRE = ("src/perdure/domain/", "src/perdure/app/", "src/perdure/api/")
CALLED_BY_TYPER = ["@*.command", "@*.callback"]


def used_by_shape(path: Path, wire: bool) -> set[tuple[int, str]]:
    """The lines and names of a file's fields and foreign attributes, which no rule about names can judge."""
    found: set[tuple[int, str]] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if wire and isinstance(node, ast.ClassDef):
            fields = [one.target for one in node.body if isinstance(one, ast.AnnAssign)]
            found |= {(field.lineno, field.id) for field in fields if isinstance(field, ast.Name)}
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and not _is_self(node.value):
            found.add((node.lineno, node.attr))
    return found


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def unused(root: Path) -> Iterator[tuple[str, int, str, str]]:
    """What nothing uses: path, line, kind and name."""
    vulture = Vulture(ignore_names=["__*__"], ignore_decorators=CALLED_BY_TYPER)
    vulture.scavenge([root / folder for folder in USERS if (root / folder).exists()])
    shapes: dict[Path, set[tuple[int, str]]] = {}
    for item in vulture.get_unused_code(min_confidence=60):
        path = Path(item.filename).resolve()
        name = path.relative_to(root).as_posix()
        if path not in shapes:
            shapes[path] = used_by_shape(path, name.startswith(WIRE))
        if name.startswith(CHECKED) and (item.first_lineno, item.name) not in shapes[path]:
            yield name, item.first_lineno, item.typ, item.name


def main(root: Path = ROOT, allowed: Path = ROOT / "tools" / "unused.toml") -> int:
    """Print what is unused, and entries of the list that nothing needs; 1 if there are any."""
    reasons = tomllib.loads(allowed.read_text("utf-8"))
    listed = {(path, name) for path, names in reasons.items() for name in names}
    found = list(unused(root))
    complaints = [
        f"{path}:{line}: unused {kind} {name!r}"
        for path, line, kind, name in found
        if (path, name) not in listed
    ]
    stale = listed - {(path, name) for path, _, _, name in found}
    complaints += [f"tools/unused.toml: {name!r} of {path} is used, or gone" for path, name in sorted(stale)]
    print("\n".join(complaints), end="\n" if complaints else "")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
