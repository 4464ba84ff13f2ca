"""A command whose packages are not all installed says what to install."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from perdure.cli.parts import EXTRAS, advice

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
WITHOUT = (
    "import sys; sys.modules[{module!r}] = None; sys.argv[1:] = {arguments!r}; "
    "from perdure.__main__ import main; main()"
)


def without(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in an interpreter that cannot import this module."""
    code = WITHOUT.format(module=module, arguments=list(arguments))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("module", "extra", "arguments"),
    [
        ("typer", "server", ()),
        ("typer", "server", ("chat",)),
        ("uvloop", "server", ("serve",)),
        ("aiohttp", "server", ("serve",)),
        ("rich", "server", ("demo",)),
    ],
)
def test_one_line_says_what_to_install(module: str, extra: str, arguments: tuple[str, ...]) -> None:
    done = without(module, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: this needs the package {module}, which is not installed: pip install 'perdure[{extra}]'\n"
    )


def test_postgresql_without_its_extra_says_what_to_install(tmp_path: Path) -> None:
    url = "postgresql://nobody@127.0.0.1:1/nowhere"
    done = without("asyncpg", "serve", "--data", str(tmp_path), "--database-url", url)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: PostgreSQL needs more packages: pip install 'perdure[postgres]'\n"


def test_a_module_outside_of_all_extras_gets_no_advice() -> None:
    assert advice(ModuleNotFoundError("no", name="perdure_dice")) is None
    assert advice(ModuleNotFoundError("no")) is None
    assert "perdure[server]" in str(advice(ModuleNotFoundError("no", name="cryptography.hazmat")))


def test_every_module_of_every_extra_is_known() -> None:
    distributions = {
        re.sub("[-_.]+", "-", name).lower(): module
        for module, names in packages_distributions().items()
        for name in names
        if not module.startswith("_")
    }
    for extra, modules in EXTRAS.items():
        wanted = PROJECT["optional-dependencies"][extra]
        names = [re.split(r"[^a-z0-9-]", requirement)[0] for requirement in wanted]
        assert {distributions[name] for name in names if name != "perdure"} == set(modules)
