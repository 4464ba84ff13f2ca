"""`perdure serve` starts without the library of the command line, which would stay in its memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from perdure.cli.main import app
from perdure.cli.serving import LARGEST_PORT, ServeOptions, plain_options

SERVE = typer.main.get_group(app).commands["serve"]
STARTED = (
    "import atexit, sys; atexit.register(lambda: print(*sys.modules)); sys.argv[1:] = {arguments!r}; "
    "from perdure.__main__ import main; main()"
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a fresh interpreter, which prints its modules at its end."""
    code = STARTED.format(arguments=list(arguments))
    # Measuring coverage imports modules of its own.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--port", "0"],
        [f"--port={LARGEST_PORT}", "--host", "::1"],
        ["--data", "a/b", "--data=c d"],
        ["--tools", "a.py", "--tools=b=c.py", "--port", "1"],
        ["--database-url", "postgresql://127.0.0.1/mine?a=b"],
    ],
)
def test_plain_options_are_read_as_by_the_library(arguments: list[str]) -> None:
    options = plain_options(arguments)
    assert options is not None
    read = SERVE.make_context("serve", list(arguments)).params
    assert options._asdict() == {**read, "tools": tuple(read["tools"] or ())}


def test_every_option_is_one_of_the_command() -> None:
    assert {each.name for each in SERVE.params} - {"help"} == set(ServeOptions._fields)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--local-model"],
        ["--prot", "1"],
        ["--port"],
        ["--port="],
        ["--port", "x"],
        ["--port", "-1"],
        ["--port", str(LARGEST_PORT + 1)],
        ["--data", "--port", "1"],
        ["--host=", "--port", "1"],
        ["here"],
        ["--", "--port"],
    ],
)
def test_all_else_is_left_to_the_library(arguments: list[str]) -> None:
    assert plain_options(arguments) is None


def test_a_server_holds_nothing_that_only_commands_and_rare_requests_need(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    done = run("serve", "--port", "0", "--data", str(file))
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot use the data folder")
    modules = {*done.stdout.split()}
    assert "perdure.server" in modules
    rare = {"difflib", "html.entities", "perdure.api.openapi.document", "perdure.api.openapi.docs_html"}
    commands = {"perdure.cli.main", "perdure.client", "pydantic", "rich", "typer"}
    assert not modules & {*commands, *rare, "genai_prices", "xml.sax.saxutils", "zoneinfo"}


def test_a_mistake_on_the_command_line_is_explained_by_the_library() -> None:
    done = run("serve", "--prot", "1")
    assert done.returncode == 2
    assert "No such option: --prot" in done.stderr
    assert "typer" in done.stdout.split()


def test_an_unexpected_error_is_one_line(tmp_path: Path) -> None:
    done = run("serve", "--data", f"{tmp_path}\0")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["api", "worker"])
def test_a_role_needs_postgresql(tmp_path: Path, command: str) -> None:
    done = run(command, "--port", "0", "--data", str(tmp_path / "data"))
    assert done.returncode == 1
    assert f"`perdure {command}` needs PostgreSQL" in done.stderr
    assert "PERDURE_DATABASE_URL" in done.stderr
    assert not (tmp_path / "data").exists()
