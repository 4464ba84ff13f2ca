"""Routes of the registry of skills."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.api.kernel.call import Call
from perdure.api.kernel.form_data import file_of_form
from perdure.api.kernel.route import route
from perdure.api.routes.agents import Search
from perdure.app import skills as use
from perdure.domain.errors import UnsupportedMedia
from perdure.domain.files import Hash
from perdure.domain.ids import SkillId
from perdure.domain.paging import Listing
from perdure.domain.resources import ResourceConfig, policies_of
from perdure.domain.skill_archives import MAX_ARCHIVE
from perdure.domain.skills import (
    CreateSkill,
    Skill,
    SkillContent,
    SkillUsages,
    SkillValidation,
    SkillVersion,
    UpdateSkill,
    ValidateSkill,
)

_BODY = {
    "skill_md": "---\nname: pdf-forms\ndescription: Fills in PDF forms.\n---\n\nList the fields first.\n"
}
_ZIP = ("application/zip", "application/x-zip-compressed", "application/octet-stream")
_FORM_ROOM = 64 * 1024
"""Bytes of a form besides the archive."""


class ListSkills(Struct, frozen=True):
    """Query parameters of the list of skills."""

    search: Annotated[
        Search | None, Meta(description="Text to find in the name or the description, case-insensitive.")
    ] = None
    include_archived: Annotated[bool, Meta(description="Whether to include archived skills.")] = False


class UploadSkill(Struct, frozen=True):
    """Query parameters of an upload."""

    replace: Annotated[
        bool,
        Meta(
            description=(
                "Whether a skill of the same name gets a new version, and becomes active. Otherwise the "
                "answer is 409."
            )
        ),
    ] = False


class ReadContent(Struct, frozen=True):
    """Query parameters of a skill's files."""

    version: Annotated[Hash | None, Meta(description="The version to read. Default: the current one.")] = None


@route("POST", "/v1/skills", "skills", status=201, errors=(422,), body_example=_BODY)
async def create_skill(call: Call, body: CreateSkill) -> Skill:
    """Create a skill from the text of its SKILL.md.

    Agents, harnesses and sessions use it with the capability `skill:{id}`. What they save names the version
    that is current then, and keeps it until they are saved again.
    """
    return await use.create_skill(call.app, call.caller, body, call.once)


@route("GET", "/v1/skills", "skills")
async def list_skills(call: Call, query: ListSkills) -> Listing[Skill]:
    """List skills.

    Those of the organization's registry, oldest first.
    """
    return Listing(tuple(await use.all_skills(call.app, call.caller, query.search, query.include_archived)))


@route("GET", "/v1/skills/config", "skills")
async def skill_config(call: Call) -> ResourceConfig:
    """Get the caller's permissions on skills.

    This depends on the caller's role in the organization.
    """
    return policies_of(call.caller.role, "skill")


@route("GET", "/v1/skills/usage", "skills")
async def list_skills_usage(call: Call) -> SkillUsages:
    """Count the users of the skills.

    By the skill's id: how many active agents and harnesses name it, in whichever version.
    """
    return await use.usage_of_skills(call.app, call.caller)


@route("POST", "/v1/skills/validate", "skills", status=200, body_example=_BODY)
async def validate_skill(call: Call, body: ValidateSkill) -> SkillValidation:
    """Check the text of a SKILL.md.

    The answer is 200 in any case: `errors` say what is wrong, with line numbers.
    """
    return use.validate(body.skill_md)


@route(
    "POST",
    "/v1/skills/upload",
    "skills",
    status=201,
    errors=(415, 422),
    body_limit=MAX_ARCHIVE + _FORM_ROOM,
    accepts=("application/zip", "multipart/form-data"),
)
async def upload_skill(call: Call, query: UploadSkill, body: bytes) -> Skill:
    """Upload a skill as a ZIP file.

    The body is the file, as `application/zip`, or a form (`multipart/form-data`) with one file. It contains
    SKILL.md at its root or in its only folder, and further files: up to 200, of up to 1 MB, 5 MB together.
    Encrypted entries, links, absolute paths, and names that differ only by case are refused.
    """
    given = call.header(b"content-type") or ""
    media = given.partition(";")[0].strip().lower()
    # Any web page can make a browser send a form here, but no Authorization header.
    if media == "multipart/form-data" and call.header(b"authorization") is not None:
        body = await file_of_form(given, body)
    elif media not in _ZIP:
        raise UnsupportedMedia("send a ZIP file with the header Content-Type: application/zip")
    return await use.upload_skill(call.app, call.caller, body, call.once, replace=query.replace)


@route("GET", "/v1/skills/{skill_id}", "skills", errors=(404,))
async def get_skill(call: Call, skill_id: SkillId) -> Skill:
    """Get a skill.

    Whatever its status.
    """
    return await use.read_one(call.app, call.caller, skill_id)


@route("PATCH", "/v1/skills/{skill_id}", "skills", errors=(404, 422), body_example={"status": "disabled"})
async def update_skill(call: Call, skill_id: SkillId, body: UpdateSkill) -> Skill:
    """Update a skill.

    A new `skill_md` makes a new version. Who has pinned an earlier one keeps it.
    """
    return await use.change_skill(call.app, call.caller, skill_id, body)


@route("DELETE", "/v1/skills/{skill_id}", "skills", errors=(404,))
async def delete_skill(call: Call, skill_id: SkillId) -> None:
    """Archive a skill.

    Lists hide it, and models are not offered it any more; agents and sessions that name it go on without it.
    `PATCH` it with the status `active` to restore it.
    """
    await use.archive_skill(call.app, call.caller, skill_id)


@route("POST", "/v1/skills/{skill_id}/delete", "skills", status=204, errors=(404,))
async def destroy_skill(call: Call, skill_id: SkillId) -> None:
    """Delete a skill for good.

    All its versions are deleted. Agents and sessions that name it go on without it.
    """
    await use.destroy_skill(call.app, call.caller, skill_id)


@route("GET", "/v1/skills/{skill_id}/content", "skills", errors=(404,))
async def get_skill_content(call: Call, skill_id: SkillId, query: ReadContent) -> SkillContent:
    """Get the files of a skill.

    Of its current version, or of any earlier one.
    """
    return await use.read_content(call.app, call.caller, skill_id, query.version)


@route("GET", "/v1/skills/{skill_id}/versions", "skills", errors=(404,))
async def list_skill_versions(call: Call, skill_id: SkillId) -> Listing[SkillVersion]:
    """List the versions of a skill, newest first.

    Agents pin one with `config.version` of the capability `skill:{id}`. A version that the skill has had
    twice is listed where it was first.
    """
    return Listing(tuple(await use.all_versions(call.app, call.caller, skill_id)))


ROUTES = (
    create_skill,
    list_skills,
    skill_config,
    list_skills_usage,
    validate_skill,
    upload_skill,
    get_skill,
    update_skill,
    delete_skill,
    destroy_skill,
    get_skill_content,
    list_skill_versions,
)
