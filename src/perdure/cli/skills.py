"""`perdure skills ...`: the registry of skills, and checks of skills before they are added."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import Struct

from perdure.cli.common import DEFAULT_URL, CommandFailed, Json, Org, Token, Url, connect, enter
from perdure.cli.terminal import Screen
from perdure.domain.errors import PerdureError
from perdure.domain.skill_archives import MAX_ARCHIVE, MAX_FILE, MAX_FILES, check_files, read_archive
from perdure.domain.skill_md import MAX_SKILL_MD, SKILL_MD, SkillText, read_skill

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.domain.skills import Skill

app = typer.Typer(
    help="Keep a registry of skills: instructions for particular tasks.",
    epilog="Start with `perdure skills validate ./my-skill`, then `perdure skills add ./my-skill`.",
    no_args_is_help=True,
)

_LEFT_OUT = frozenset({".git", ".DS_Store", "__pycache__", "node_modules", ".venv"})
_MOST_SEEN = 20_000
"""Files and folders that are looked at: the path may be a wrong one, such as a home folder."""

_Path = Annotated[
    Path,
    typer.Argument(
        exists=True, help="A skill's folder, its SKILL.md, or a ZIP file of the folder.", show_default=False
    ),
]


class Found(Struct, frozen=True):
    """A skill on this disk, with what is wrong with it."""

    text: SkillText
    files: dict[str, bytes]
    errors: tuple[str, ...]


@app.command()
def validate(path: _Path) -> None:
    """Check a skill, without a server. The status is 1 if it cannot be added.

    Example: perdure skills validate ./pdf-forms
    """
    found, screen = _read(path), Screen()
    for error in found.errors:
        screen.line(("error", "red"), f": {error}")
    for warning in found.text.warnings:
        screen.line(("warning", "yellow"), f": {SKILL_MD}, {warning}")
    if found.errors:
        raise typer.Exit(1)
    further = len(found.files) - 1
    files = "1 further file" if further == 1 else f"{further} further files"
    screen.line(("ok", "green"), f": {found.text.name}, {files}")


@app.command()
def add(
    path: _Path,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Make it a new version of the skill of this name, if there is one."),
    ] = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Add a skill to the registry.

    Example: perdure skills add ./pdf-forms --replace
    """
    found = _read(path)
    if found.errors:
        raise CommandFailed("the skill cannot be added: " + "; ".join(found.errors))
    enter(_add(connect(url, token, org), found, replace, as_json))


async def _add(client: Client, found: Found, replace: bool, as_json: bool) -> None:
    async with client:
        skill = await client.upload_skill(_packed(found.files), replace=replace)
    screen = Screen()
    if as_json:
        screen.json(skill)
        return
    screen.line("added ", (skill.id, "bold"), f" ({skill.name}), version {skill.version[:12]}")
    screen.line(f'Agents use it with the capability "skill:{skill.id}".')


@app.command("list")
def list_skills(
    archived: Annotated[bool, typer.Option("--archived", help="Include archived skills.")] = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """List the skills of the registry."""
    enter(_list(connect(url, token, org), archived, as_json))


async def _list(client: Client, archived: bool, as_json: bool) -> None:
    async with client:
        skills = await client.list_skills(include_archived=archived or None)
    head = ("SKILL", "STATUS", "NAME", "VERSION", "DESCRIPTION")
    Screen().listing(skills, head, _row, as_json=as_json)


def _row(skill: Skill) -> tuple[str, ...]:
    return skill.id, skill.status, skill.name, skill.version[:12], skill.description


# --- skills on this disk --------------------------------------------------------


def _read(path: Path) -> Found:
    """Read a skill. Raises CommandFailed: the path cannot be read."""
    errors: list[str] = []
    try:
        if path.is_dir():
            files = _folder(path)
        elif path.suffix.lower() == ".zip":
            files = read_archive(_bytes(path, MAX_ARCHIVE + 1))
        else:
            files = {SKILL_MD: _bytes(path, MAX_SKILL_MD + 1)}
        check_files({name: len(data) for name, data in files.items()})
    except OSError as error:
        raise CommandFailed(f"{path} cannot be read: {error.strerror or error}") from None
    except PerdureError as error:
        return Found(SkillText(), {}, (error.message,))
    try:
        text = read_skill(files[SKILL_MD].decode())
    except UnicodeDecodeError:
        return Found(SkillText(), {}, (f"{SKILL_MD} is not UTF-8 text",))
    errors += [f"{SKILL_MD}, {error}" for error in text.errors]
    name = path.resolve().name if path.is_dir() else text.name
    if not errors and name != text.name:
        errors.append(f"the folder is called {name!r}, and must be called as the skill, {text.name!r}")
    return Found(text, files, tuple(errors))


def _bytes(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        return file.read(most)


def _folder(folder: Path) -> dict[str, bytes]:
    """Read the files of a folder. Links are refused: what they lead to may not be meant to be shared."""
    files: dict[str, bytes] = {}
    seen = 0
    for place, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = sorted(set(folders) - _LEFT_OUT)
        seen += len(folders) + len(names)
        for name in sorted({*folders, *names} - _LEFT_OUT):
            path = Path(place, name)
            if path.is_symlink():
                raise CommandFailed(f"{path} is a link: put the file itself into the skill's folder")
            if name in folders:
                continue
            if seen > _MOST_SEEN or len(files) > MAX_FILES:
                raise CommandFailed(f"{folder} has too many files for a skill: at most {MAX_FILES}")
            if not path.is_file():
                raise CommandFailed(f"{path} is not an ordinary file")
            files[path.relative_to(folder).as_posix()] = _bytes(path, MAX_FILE + 1)
    return files


def _raise(error: OSError) -> None:
    raise error


def _packed(files: dict[str, bytes]) -> bytes:
    """Pack the files; the same files give the same bytes."""
    from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

    packed = io.BytesIO()
    with ZipFile(packed, "w") as archive:
        for name, data in sorted(files.items()):
            info = ZipInfo(name)
            info.compress_type = ZIP_DEFLATED
            archive.writestr(info, data)
    return packed.getvalue()
