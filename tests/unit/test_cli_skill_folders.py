"""`perdure skills`: what is read of a skill on this disk, and what is refused before anything is sent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perdure.cli import skills
from perdure.cli.common import CommandFailed
from perdure.cli.skills import _read, app

TEXT = "---\nname: forms\ndescription: Fills in forms.\n---\n\nList the fields.\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a skill without a mistake."""
    made = tmp_path / "forms"
    (made / "references").mkdir(parents=True)
    (made / "SKILL.md").write_text(TEXT)
    (made / "references" / "fields.md").write_text("Fields.")
    return made


def test_a_skill_is_read_from_its_folder_or_from_its_text(folder: Path) -> None:
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("secret")
    found = _read(folder)
    assert (found.errors, found.text.name) == ((), "forms")
    assert sorted(found.files) == ["SKILL.md", "references/fields.md"]
    alone = _read(folder / "SKILL.md")
    assert (alone.errors, sorted(alone.files)) == ((), ["SKILL.md"])


def test_links_and_what_is_no_file_are_refused(folder: Path) -> None:
    link = folder / "references" / "link.md"
    link.symlink_to(folder / "SKILL.md")
    assert _read(folder).errors == (f"{link} is a link: put the file itself into the skill's folder",)
    link.unlink()
    os.mkfifo(folder / "pipe")
    assert _read(folder).errors == (f"{folder / 'pipe'} is not an ordinary file",)


def test_a_folder_with_too_many_files_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skills, "MAX_FILES", 1)
    (folder / "references" / "more.md").touch()
    assert _read(folder).errors == (f"{folder} has too many files for a skill: at most 1",)


def test_a_path_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"missing.md cannot be read: No such file"):
        _read(tmp_path / "missing.md")


def test_a_skill_with_mistakes_is_not_added(folder: Path) -> None:
    renamed = folder.rename(folder.with_name("other"))
    assert _read(renamed).errors == (
        "the folder is called 'other', and must be called as the skill, 'forms'",
    )
    (renamed / "SKILL.md").write_bytes(b"\xff")
    assert _read(renamed).errors == ("SKILL.md is not UTF-8 text",)
    archive = renamed / "skill.zip"
    archive.write_bytes(b"not an archive")
    assert len(_read(archive).errors) == 1
    result = CliRunner().invoke(app, ["add", str(renamed)])
    assert isinstance(result.exception, CommandFailed)
    assert str(result.exception) == "the skill cannot be added: SKILL.md is not UTF-8 text"
