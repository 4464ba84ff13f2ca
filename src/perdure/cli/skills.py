"""`perdure skills ...`: the registry of skills, and checks of skills before they are added."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import Struct

from perdure.cli.common import DEFAULT_URL, CommandFailed, Json, Org, Token, Url, Yes, confirm, connect, enter
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


_Skill = Annotated[str, typer.Argument(help="The skill's id or name.", show_default=False)]


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
    from perdure.client import Conflict

    async with client:
        before = await _known(client, found.text.name) if replace else None
        try:
            skill = await client.upload_skill(_packed(found.files), replace=replace)
        except Conflict as error:
            if error.code != "skill_name_taken":
                raise
            raise CommandFailed(f"{error.message}. With `--replace`, it becomes a new version") from None
    screen = Screen()
    if as_json:
        screen.json(skill)
        return
    done = "added" if before is None else "unchanged:" if before.version == skill.version else "changed"
    screen.line(f"{done} ", (skill.id, "bold"), f" ({skill.name}), version {skill.version[:12]}")
    screen.line(f'Agents use it with the capability "skill:{skill.id}".')
    if done == "changed":
        screen.line("Agents keep the version that they have pinned until they are saved again without one.")


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


@app.command()
def show(
    skill: _Skill,
    version: Annotated[
        str | None,
        typer.Option("--version", "-v", help="A version, or how it begins.", show_default="the current one"),
    ] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Print the SKILL.md of a skill, and the names of its further files.

    Example: perdure skills show pdf-forms --version 5feceb66
    """
    enter(_show(connect(url, token, org), skill, version, as_json))


async def _show(client: Client, skill: str, version: str | None, as_json: bool) -> None:
    async with client:
        found = await _named(client, skill)
        wanted = None if version is None else await _version(client, found, version)
        content = await client.get_skill_content(found.id, wanted)
    screen = Screen()
    if as_json:
        screen.json(content)
        return
    screen.content(content.skill_md.encode())
    for file in content.files:
        screen.line((f"further file: {file.path}", "dim"))


@app.command()
def versions(
    skill: _Skill, as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None, org: Org = None
) -> None:
    """List the versions of a skill, newest first. Agents pin one by its digest."""
    enter(_versions(connect(url, token, org), skill, as_json))


async def _versions(client: Client, skill: str, as_json: bool) -> None:
    async with client:
        found = await client.list_skill_versions((await _named(client, skill)).id)
    Screen().listing(
        found,
        ("VERSION", "STATE", "FILES", "BYTES", "CREATED", "DESCRIPTION"),
        lambda each: (
            each.version,
            "current" if each.is_current else "",
            f"{each.file_count}",
            f"{each.size_bytes}",
            each.created_at,
            each.description,
        ),
        as_json=as_json,
    )


@app.command()
def archive(skill: _Skill, url: Url = DEFAULT_URL, token: Token = None, org: Org = None) -> None:
    """Archive a skill: models are not offered it any more. `add --replace` brings it back."""
    enter(_end(connect(url, token, org), skill, for_good=False))


@app.command()
def delete(
    skill: _Skill,
    yes: Yes = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    org: Org = None,
) -> None:
    """Delete a skill for good, with all its versions.

    Asks for confirmation on a terminal; without one, pass --yes.
    """
    if not yes:
        confirm(f"Delete {skill} and all its versions?")
    enter(_end(connect(url, token, org), skill, for_good=True))


async def _end(client: Client, skill: str, *, for_good: bool) -> None:
    async with client:
        found = await _named(client, skill)
        await (client.destroy_skill(found.id) if for_good else client.delete_skill(found.id))
    Screen().line(f"{'deleted' if for_good else 'archived'} {found.name}")


async def _named(client: Client, skill: str) -> Skill:
    """The skill of an id or a name, archived ones included: a name is taken once."""
    found = await (client.get_skill(skill) if skill.startswith("skill_") else _known(client, skill))
    if found is not None:
        return found
    raise CommandFailed(f"no skill is called {skill!r}; `perdure skills list --archived` lists all")


async def _known(client: Client, name: str) -> Skill | None:
    """The skill of a name, whatever its status; None if there is none."""
    found = await client.list_skills(search=name, include_archived=True)
    return next((each for each in found if each.name == name), None)


async def _version(client: Client, skill: Skill, begins: str) -> str:
    """The version that begins in this way."""
    found = [
        each.version
        for each in await client.list_skill_versions(skill.id)
        if each.version.startswith(begins.lower())
    ]
    if len(found) == 1:
        return found[0]
    few = f"{len(found)} versions begin" if found else "no version begins"
    raise CommandFailed(f"{few} with {begins!r}; `perdure skills versions {skill.name}` lists them")


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
