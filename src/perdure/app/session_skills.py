"""The skills that a session can use: those that its agent names, and those in its own files."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping

from msgspec import Struct

from perdure.app.context import Scope, Services
from perdure.app.file_access import OfSession, change_files, workspace_at
from perdure.app.session_files import read_file
from perdure.domain.errors import NotFound, ToolError
from perdure.domain.events import FileWrittenData
from perdure.domain.files import Content
from perdure.domain.ids import SessionId, SkillId
from perdure.domain.paths import name_of, parent_of
from perdure.domain.skill_catalogue import FOLDER, MAX_OWN, OfferedSkill, installed_folder
from perdure.domain.skill_md import MAX_SKILL_MD, SKILL_MD, is_skill_name, read_skill
from perdure.domain.times import Micros
from perdure.store.database import Tx
from perdure.store.file_changes import FileWrite, write_files
from perdure.store.files import FileRow, files_below, files_named, get_entries, read_heads
from perdure.store.sessions import SessionRow
from perdure.store.skills import SkillVersionRow, contents_of, files_of_version, pinned_versions
from perdure.store.workspaces import WorkspaceRow

MAX_LISTED = 100
"""Further files that an activation lists."""
KNOWN = 2_000
"""SKILL.md files whose front matter this process remembers."""

Pins = Mapping[SkillId, str | None]


class ActiveSkill(Struct, frozen=True):
    """What an activation gives.

    Attributes:
        text: the instructions, without the front matter.
        files: the absolute paths of the further files, or of the first ones.
        count: how many further files there are.
        written: the files that were put into the session.
    """

    skill: OfferedSkill
    text: str
    files: tuple[str, ...]
    count: int
    written: tuple[FileWrittenData, ...] = ()


class KnownSkills:
    """What the SKILL.md files of sessions say, by their content: it is read once."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], OfferedSkill] = OrderedDict()

    def get(self, row: FileRow) -> OfferedSkill | None:
        """What is known of a file."""
        return self._known.get((row.hash, row.path))

    def learn(self, row: FileRow, data: bytes) -> OfferedSkill:
        """Read a file."""
        found = _offered(row.path, row.size_bytes, data)
        self._known[row.hash, row.path] = found
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)
        return found


async def offered_skills(
    app: Services, known: KnownSkills, scope: Scope, session_id: SessionId, pins: Pins
) -> list[OfferedSkill]:
    """List the skills of a session: registered ones by name, then those of its files, by name.

    Those that cannot be used are among them, with their errors. A registered skill hides one of the files.
    """
    org_id = scope.organization_id

    async def work(tx: Tx) -> tuple[list[SkillVersionRow], list[FileRow], dict[str, tuple[int, bytes]]]:
        space = await workspace_at(tx, scope, OfSession(session_id))
        versions = await pinned_versions(tx, org_id, pins)
        rows = await files_named(tx, org_id, space, FOLDER, SKILL_MD, MAX_OWN)
        unknown = [row.path for row in rows if known.get(row) is None]
        heads = await read_heads(tx, org_id, space, unknown, MAX_SKILL_MD) if unknown else {}
        return list(versions.values()), rows, heads

    versions, rows, heads = await app.database.read(work)

    def own_skills() -> list[OfferedSkill]:
        return [known.get(row) or known.learn(row, heads.get(row.path, (0, b""))[1]) for row in rows]

    own = await asyncio.to_thread(own_skills) if heads else own_skills()
    registered = {each.name: each for each in map(_registered, versions)}
    return [
        *sorted(registered.values(), key=lambda each: each.name),
        *sorted((each for each in own if each.name not in registered), key=lambda each: each.name),
    ]


def _registered(row: SkillVersionRow) -> OfferedSkill:
    return OfferedSkill(
        row.name,
        row.description,
        "registry",
        installed_folder(row.name, row.version),
        row.skill_id,
        row.version,
        row.facts_struct().disable_model_invocation,
    )


def _offered(path: str, size: int, data: bytes) -> OfferedSkill:
    """A skill of the session's files. Its folder's name is its name."""
    folder = parent_of(path)
    name, text = name_of(folder), read_skill(data.decode(errors="replace"))
    errors = text.errors
    if size > MAX_SKILL_MD:
        errors = (f"{SKILL_MD} has {size} bytes: the maximum is {MAX_SKILL_MD}",)
    elif not errors and text.name != name:
        errors = (f"line 2: `name` is {text.name!r}, and must be the folder's name, {name!r}",)
    if not is_skill_name(name):
        errors = errors or ("the folder's name must be lower-case letters, digits and single hyphens",)
    hidden = text.facts.disable_model_invocation
    return OfferedSkill(name, text.description, "files", folder, hidden=hidden, errors=errors)


async def activate(
    app: Services, scope: Scope, session_id: SessionId, skill: OfferedSkill, since: Micros
) -> ActiveSkill:
    """Read the text of a skill, and put the files of a registered one into the session.

    Running it again changes nothing: each version has a folder of its own, whose files are read-only.

    Args:
        since: when the turn began. Files that were written since then count as written by this call: an
            attempt before a crash may have written them, and the log does not say so yet.

    Raises:
        ToolError: the skill has just been deleted.
        TooLarge: there is no room for its files.
    """
    if skill.source == "files":
        return await _own(app, scope, session_id, skill)
    files = await _contents(app, scope, skill)
    text = files[SKILL_MD].data.decode()
    if len(files) == 1:
        return ActiveSkill(skill, read_skill(text).body, (), 0)
    written = await _install(app, scope, session_id, skill, files, since)
    paths = tuple(f"{skill.folder}/{path}" for path in files if path != SKILL_MD)
    return ActiveSkill(skill, read_skill(text).body, paths, len(paths), written)


async def _own(app: Services, scope: Scope, session_id: SessionId, skill: OfferedSkill) -> ActiveSkill:
    main = f"{skill.folder}/{SKILL_MD}"
    _, data = await read_file(app, scope, session_id, main)
    text = read_skill(data.decode(errors="replace"))
    if text.errors:
        raise ToolError(f"the skill {skill.name!r} cannot be used: {'; '.join(text.errors)}")

    async def further(tx: Tx) -> tuple[list[str], int]:
        space = await workspace_at(tx, scope, OfSession(session_id))
        return await files_below(tx, scope.organization_id, space, skill.folder, MAX_LISTED, main)

    paths, count = await app.database.read(further)
    return ActiveSkill(skill, text.body, tuple(paths), count)


async def _contents(app: Services, scope: Scope, skill: OfferedSkill) -> dict[str, Content]:
    skill_id, version, org_id = skill.skill_id, skill.version, scope.organization_id
    if skill_id is None or version is None:
        raise AssertionError("a registered skill has an id and a version")

    async def work(tx: Tx) -> dict[str, Content]:
        return await contents_of(tx, org_id, await files_of_version(tx, org_id, skill_id, version))

    files = await app.database.read(work, long=True)
    if not files:
        raise ToolError(f"the skill {skill.name!r} has just been deleted")
    return files


async def _install(
    app: Services,
    scope: Scope,
    session_id: SessionId,
    skill: OfferedSkill,
    files: Mapping[str, Content],
    since: Micros,
) -> tuple[FileWrittenData, ...]:
    """Write the files that are missing or different, all or none, as read-only ones."""
    now, by_path = app.now(), {f"{skill.folder}/{path}": content for path, content in files.items()}

    async def change(tx: Tx, space: WorkspaceRow, session: SessionRow | None) -> tuple[FileWrittenData, ...]:
        there = await get_entries(tx, space.org_id, space.id, by_path)
        same = [row for path, row in there.items() if row.hash == by_path[path].hash]
        known = {row.path for row in same}
        writes = [
            FileWrite(path, content, readonly=True, force=True)
            for path, content in by_path.items()
            if path not in known
        ]
        done = await write_files(tx, space, writes, app.file_limits, now) if writes else []
        before = [row for row in same if row.updated_at >= since]
        return tuple(
            FileWrittenData(row.path, "write", created, row.size_bytes)
            for row, created in [
                *((row, True) for row in before),
                *((each.row, each.created) for each in done),
            ]
        )

    try:
        return await change_files(app, scope, OfSession(session_id), change)
    except NotFound as error:
        raise ToolError(error.message) from None
