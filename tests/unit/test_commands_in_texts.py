"""Every `perdure` command that the docs, the files for deployments and our own messages name can be given."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from typer.main import get_command

from perdure.cli.main import app

pytestmark = pytest.mark.unmeasured  # reads the source

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
OLD = ROOT / "docs" / "decisions"
"""Decisions are of their time: a command in one may be gone."""
SHELLS = {"", "sh", "bash", "shell", "console"}
PROGRAM = re.compile(r"(?:^|[\s`(])perdure (?=[a-z]+(?:\s|$))|(?<=--rm api )(?=[a-z])")
END = re.compile(r"[|;&<>]|\s#|`|\\$|\)\"?$")
ROOT_COMMAND: Any = get_command(app)


def fenced(text: str) -> Iterator[str]:
    """The lines of a page's blocks for a shell, with continued lines joined."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if language in SHELLS:
            yield from re.sub(r"\\\n\s*", " ", block).splitlines()


def whole_commands() -> list[tuple[str, str]]:
    """Commands as somebody types them: (file, what follows `perdure`)."""
    found = [
        (str(page.relative_to(ROOT)), line)
        for page in PAGES
        if not page.is_relative_to(OLD)
        for line in fenced(page.read_text())
    ]
    for path in sorted((ROOT / "deploy").rglob("*")):
        if path.is_file():
            found += [
                (str(path.relative_to(ROOT)), line.strip(" #")) for line in path.read_text().splitlines()
            ]
    return [
        (name, END.split(line[match.end() :])[0].strip())
        for name, line in found
        for match in PROGRAM.finditer(line)
        if not line.lstrip().startswith("#")
    ]


def named_commands() -> list[tuple[str, str]]:
    """Commands that prose and messages name between backticks, perhaps without arguments."""
    texts = [page for page in PAGES if not page.is_relative_to(OLD)]
    texts += sorted((ROOT / "src").rglob("*.py"))
    return sorted(
        {
            (str(path.relative_to(ROOT)), " ".join(words.split()))
            for path in texts
            for words in re.findall(r"(?<!`)`perdure ([a-z][^`{}\"]*)`", path.read_text())
        }
    )


def found_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that these words begin with, and its arguments."""
    command, context = ROOT_COMMAND, click.Context(ROOT_COMMAND)
    while words and hasattr(command, "get_command"):
        if command.invoke_without_command and words[0].startswith("-"):
            break
        inner = command.get_command(context, words[0])
        assert inner is not None, f"there is no command {words[0]!r}"
        command, words = inner, words[1:]
    return command, words


@pytest.mark.parametrize(("name", "line"), sorted(set(whole_commands())))
def test_a_command_that_can_be_copied_is_one(name: str, line: str) -> None:
    command, words = found_command(shlex.split(line, comments=True))
    try:
        command.make_context("perdure", words)
    except typer.Exit:
        pass  # of --help
    except Exception as error:
        # A value that only the reader has may be missing where it is used, such as a file.
        kind = type(error).__name__
        if kind != "BadParameter":
            raise AssertionError(f"{kind}: {error.format_message()}") from error  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "line"), named_commands())
def test_a_command_that_a_text_names_exists_with_its_options(name: str, line: str) -> None:
    command, words = found_command([word.strip("[]") for word in re.split(r"[\s|]+", line) if word != "..."])
    known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
    given = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert given <= known | {"--help", "-h"}
