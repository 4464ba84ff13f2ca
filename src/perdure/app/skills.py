"""The registry of skills: create, upload, read, list, change, archive, delete, and count their users."""

from __future__ import annotations

import asyncio
import re

import msgspec
from msgspec import UNSET

from perdure.app.context import App
from perdure.app.idempotency import Once, replay, write_once
from perdure.domain.accounts import Caller
from perdure.domain.errors import Conflict, InvalidInput, Unprocessable
from perdure.domain.files import Content, content_of, encoded
from perdure.domain.ids import OrgId, SkillId
from perdure.domain.paging import AllowedAction
from perdure.domain.resources import require_manager
from perdure.domain.skill_archives import read_archive, refused
from perdure.domain.skill_md import SKILL_MD, SkillText, read_skill
from perdure.domain.skills import (
    CreateSkill,
    Skill,
    SkillContent,
    SkillFileEntry,
    SkillSource,
    SkillUsage,
    SkillValidation,
    SkillVersion,
    UpdateSkill,
    version_of,
)
from perdure.domain.times import Micros, maybe_rfc3339, to_rfc3339
from perdure.store.accounts import lock_organization
from perdure.store.blobs import keep_contents
from perdure.store.database import Changes, Tx
from perdure.store.rows import to_json
from perdure.store.skills import (
    USERS,
    KeptFile,
    SkillRow,
    SkillVersionRow,
    add_skill,
    add_version,
    configs_with_skills,
    contents_of,
    count_skills,
    count_versions,
    delete_skill,
    files_of_version,
    get_skill,
    get_version,
    list_skills,
    list_versions,
    skill_by_name,
    update_skill,
)

MAX_SKILLS = 1_000
"""Skills of an organization, archived ones included."""
MAX_VERSIONS = 100
"""Versions of a skill."""
MAX_TOLD = 10
"""Errors of a SKILL.md that one message names."""

_NAMED = re.compile(r'"(?:skill:)?(skill_[0-9a-f]{32})"')


class NewVersion(msgspec.Struct, frozen=True):
    """A checked version, before it is stored.

    Attributes:
        files: all files by path, SKILL.md included.
        contents: the contents that may not be stored yet.
    """

    text: SkillText
    files: dict[str, KeptFile]
    contents: tuple[Content, ...]

    @property
    def version(self) -> str:
        return version_of({path: each.hash for path, each in self.files.items()})

    @property
    def source(self) -> SkillSource:
        return "archive" if len(self.files) > 1 else "markdown"

    def row(self, org_id: OrgId, skill_id: SkillId, now: Micros) -> SkillVersionRow:
        """The version's row."""
        text = self.text
        return SkillVersionRow(
            skill_id,
            self.version,
            org_id,
            text.name,
            text.description,
            self.source,
            to_json(text.facts),
            now,
        )


# --- views --------------------------------------------------------------------


def to_skill(row: SkillRow, version: SkillVersionRow) -> Skill:
    """Convert a row and its current version to the resource that clients see."""
    url, facts = f"/v1/skills/{row.id}", version.facts_struct()
    actions = (
        AllowedAction("self", "GET", url, "get_skill"),
        AllowedAction("content", "GET", f"{url}/content", "get_skill_content"),
        AllowedAction("versions", "GET", f"{url}/versions", "list_skill_versions"),
        AllowedAction("update", "PATCH", url, "update_skill"),
        AllowedAction("archive", "DELETE", url, "delete_skill"),
        AllowedAction("delete", "POST", f"{url}/delete", "destroy_skill", "Delete it for good"),
    )
    return Skill(
        id=row.id,
        name=row.name,
        description=version.description,
        source_type=version.source_type,
        status=row.status,
        version=row.version,
        created_at=to_rfc3339(row.created_at),
        updated_at=to_rfc3339(row.updated_at),
        self_url=url,
        view_url=url,
        ui_link=url,
        archived_at=maybe_rfc3339(row.archived_at),
        allowed_actions=actions,
        **msgspec.structs.asdict(facts),
    )


# --- checks -------------------------------------------------------------------


def validate(text: str) -> SkillValidation:
    """Say what is wrong with a SKILL.md."""
    found = read_skill(text)
    return SkillValidation(
        not found.errors, found.name or None, found.description or None, found.errors, found.warnings
    )


def _checked(text: str) -> SkillText:
    found = read_skill(text)
    if found.errors:
        more = len(found.errors) - MAX_TOLD
        told = "; ".join(found.errors[:MAX_TOLD]) + (f"; and {more} more" if more > 0 else "")
        raise Unprocessable(f"{SKILL_MD}: {told}", code="invalid_skill", field="skill_md")
    return found


def _version_with(files: dict[str, Content]) -> NewVersion:
    """Check the files of a version. Raises Unprocessable."""
    try:
        text = files[SKILL_MD].data.decode()
    except UnicodeDecodeError:
        raise refused(f"{SKILL_MD} is not UTF-8 text") from None
    if "\0" in text:
        raise refused(f"{SKILL_MD} contains NUL characters")
    kept = {path: KeptFile.of(content) for path, content in files.items()}
    return NewVersion(_checked(text), kept, tuple(files.values()))


def _from_archive(data: bytes) -> NewVersion:
    return _version_with({path: content_of(content) for path, content in read_archive(data).items()})


# --- use cases ----------------------------------------------------------------


async def create_skill(app: App, caller: Caller, body: CreateSkill, once: Once | None = None) -> Skill:
    """Create a skill from the text of its SKILL.md. Raises Conflict: the name is taken."""
    require_manager(caller, "skill")
    new = _version_with({SKILL_MD: content_of(body.skill_md.encode())})
    return await _store(app, caller, new, once, replace=False)


async def upload_skill(
    app: App, caller: Caller, data: bytes, once: Once | None = None, *, replace: bool = False
) -> Skill:
    """Create a skill from a ZIP file.

    Args:
        replace: whether a skill of the same name gets a new version; otherwise the name must be free.

    Raises:
        Unprocessable, TooLarge: the archive cannot be used.
        Conflict: the name is taken.
    """
    require_manager(caller, "skill")
    await replay(app, once)
    new = await asyncio.to_thread(_from_archive, data)
    return await _store(app, caller, new, once, replace=replace)


async def _store(app: App, caller: Caller, new: NewVersion, once: Once | None, *, replace: bool) -> Skill:
    now, skill_id, org_id = app.now(), SkillId(app.new_id("skill")), caller.organization_id

    async def work(tx: Tx) -> Skill:
        # Before any lock, so that nobody waits for the contents.
        await keep_contents(tx, org_id, new.contents, now)
        # Serializes names and numbers of skills.
        await lock_organization(tx, org_id)
        known = await skill_by_name(tx, org_id, new.text.name)
        if known is not None:
            if not replace:
                raise _taken(known)
            return await _change(tx, known, new, {"status": "active", "archived_at": None}, now)
        if await count_skills(tx, org_id) >= MAX_SKILLS:
            raise Conflict(
                f"the organization has {MAX_SKILLS} skills, the maximum: delete some first",
                code="too_many_skills",
            )
        row = SkillRow(skill_id, org_id, new.text.name, new.version, "active", now, now, None)
        version = new.row(org_id, skill_id, now)
        await add_skill(tx, row)
        await add_version(tx, version, new.files)
        return to_skill(row, version)

    return await write_once(app, once, work)


def _taken(known: SkillRow) -> Conflict:
    state = "" if known.status == "active" else f" ({known.status})"
    return Conflict(
        f"a skill is called {known.name!r} already: {known.id}{state}. Change that one, delete it for good, "
        "or choose another name",
        code="skill_name_taken",
    )


async def _change(tx: Tx, row: SkillRow, new: NewVersion | None, changes: Changes, now: Micros) -> Skill:
    """Change a locked skill, whose new version's contents are stored."""
    if new is not None and new.version != row.version:
        if new.text.name != row.name:
            other = await skill_by_name(tx, row.org_id, new.text.name)
            if other is not None:
                raise _taken(other)
        await add_version(tx, new.row(row.org_id, row.id, now), new.files)
        if await count_versions(tx, row.org_id, row.id) > MAX_VERSIONS:
            raise Conflict(
                f"the skill has {MAX_VERSIONS} versions, the maximum: store it under another name",
                code="too_many_skill_versions",
            )
        changes = {**changes, "version": new.version, "name": new.text.name}
    changes = {name: value for name, value in changes.items() if getattr(row, name) != value}
    if changes:
        changes["updated_at"] = max(now, row.updated_at + 1)
        await update_skill(tx, row.org_id, row.id, changes)
    return to_skill(*await get_skill(tx, row.org_id, row.id))


async def read_one(app: App, caller: Caller, skill_id: SkillId) -> Skill:
    """Read a skill, whatever its status. Raises NotFound."""
    return to_skill(*await app.database.read(lambda tx: get_skill(tx, caller.organization_id, skill_id)))


async def all_skills(app: App, caller: Caller, text: str | None, archived: bool) -> list[Skill]:
    """List the organization's skills, oldest first.

    Args:
        text: what the name or the description contains.
        archived: whether to include archived ones.
    """
    rows = await app.database.read(
        lambda tx: list_skills(tx, caller.organization_id, text, archived), long=True
    )
    return await asyncio.to_thread(lambda: [to_skill(*each) for each in rows])


async def read_content(app: App, caller: Caller, skill_id: SkillId, version: str | None) -> SkillContent:
    """Read the files of a version, the current one by default. Raises NotFound."""
    org_id = caller.organization_id

    async def work(tx: Tx) -> dict[str, Content]:
        row, _ = await get_skill(tx, org_id, skill_id)
        wanted = version or row.version
        await get_version(tx, org_id, skill_id, wanted)
        return await contents_of(tx, org_id, await files_of_version(tx, org_id, skill_id, wanted))

    return await asyncio.to_thread(_content, await app.database.read(work, long=True))


def _content(files: dict[str, Content]) -> SkillContent:
    further = (
        SkillFileEntry(path, encoded(each.data, each.is_text), "text" if each.is_text else "base64")
        for path, each in files.items()
        if path != SKILL_MD
    )
    return SkillContent(files[SKILL_MD].data.decode(), tuple(further))


async def all_versions(app: App, caller: Caller, skill_id: SkillId) -> list[SkillVersion]:
    """List the versions of a skill, newest first. Raises NotFound."""
    org_id = caller.organization_id

    async def work(tx: Tx) -> tuple[SkillRow, list[tuple[SkillVersionRow, int, int]]]:
        row, _ = await get_skill(tx, org_id, skill_id)
        return row, await list_versions(tx, org_id, skill_id)

    row, versions = await app.database.read(work)
    return [
        SkillVersion(
            skill_id=skill_id,
            version=each.version,
            is_current=each.version == row.version,
            name=each.name,
            description=each.description,
            source_type=each.source_type,
            file_count=files,
            size_bytes=size,
            created_at=to_rfc3339(each.created_at),
        )
        for each, files, size in versions
    ]


async def change_skill(app: App, caller: Caller, skill_id: SkillId, body: UpdateSkill) -> Skill:
    """Change the fields of a skill that the body contains. A new text makes a new version."""
    require_manager(caller, "skill")
    if body.status == "deleted":
        raise InvalidInput(
            "`status` cannot become `deleted` by a change: send POST /v1/skills/{id}/delete", field="status"
        )
    main = None if body.skill_md is UNSET else _version_with({SKILL_MD: content_of(body.skill_md.encode())})
    now, org_id = app.now(), caller.organization_id

    async def work(tx: Tx) -> Skill:
        if main is not None:
            await keep_contents(tx, org_id, main.contents, now)
            await lock_organization(tx, org_id)
        row, _ = await get_skill(tx, org_id, skill_id, lock=True)
        changes: Changes = {}
        if body.status is not UNSET:
            archived_at = (row.archived_at or now) if body.status == "archived" else None
            changes = {"status": body.status, "archived_at": archived_at}
        new = None
        if main is not None:
            files = await files_of_version(tx, org_id, row.id, row.version)
            further = {each.path: each.kept() for each in files}
            new = msgspec.structs.replace(main, files={**further, **main.files})
        return await _change(tx, row, new, changes, now)

    return await app.database.write(work)


async def archive_skill(app: App, caller: Caller, skill_id: SkillId) -> None:
    """Archive a skill: lists hide it, and agents that name it go on without it."""
    await change_skill(app, caller, skill_id, UpdateSkill(status="archived"))


async def destroy_skill(app: App, caller: Caller, skill_id: SkillId) -> None:
    """Delete a skill for good, with all its versions. Agents that name it go on without it."""
    require_manager(caller, "skill")
    now = app.now()

    async def work(tx: Tx) -> None:
        row, _ = await get_skill(tx, caller.organization_id, skill_id, lock=True)
        await delete_skill(tx, row.org_id, row.id, now)

    await app.database.write(work)


async def usage_of_skills(app: App, caller: Caller) -> dict[SkillId, SkillUsage]:
    """Count the active agents and harnesses that name each skill of the organization."""
    org_id = caller.organization_id
    rows = await app.database.read(lambda tx: list_skills(tx, org_id, None, True), long=True)
    counts = {row.id: dict.fromkeys(USERS, 0) for row, _ in rows}
    for table in USERS if counts else ():
        after = ""
        while batch := await _batch(app, org_id, table, after):
            for named in await asyncio.to_thread(_names_in, batch):
                for skill_id in named & counts.keys():
                    counts[skill_id][table] += 1
            after = batch[-1][0]
    return {skill_id: SkillUsage(each["agents"], each["harnesses"]) for skill_id, each in counts.items()}


async def _batch(app: App, org_id: OrgId, table: str, after: str) -> list[tuple[str, str]]:
    return await app.database.read(lambda tx: configs_with_skills(tx, org_id, table, after), long=True)


def _names_in(batch: list[tuple[str, str]]) -> list[set[SkillId]]:
    """The skills that each configuration names; in texts of one, quotation marks are escaped."""
    return [{SkillId(each) for each in _NAMED.findall(config)} for _, config in batch]
