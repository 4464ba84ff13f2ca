"""The registry of skills."""

from __future__ import annotations

from perdure.client import routes
from perdure.client.routes import Caller, listed, new_key, path_of
from perdure.client.transport import Binary
from perdure.domain.resources import ResourceConfig
from perdure.domain.skills import (
    CreateSkill,
    Skill,
    SkillContent,
    SkillUsage,
    SkillValidation,
    SkillVersion,
    UpdateSkill,
    ValidateSkill,
)

_SKILLS = "/v1/skills"
_SKILL = f"{_SKILLS}/{{}}"


class SkillMethods(Caller):
    """The client's methods about skills."""

    create_skill = routes.creates(_SKILLS, CreateSkill, Skill, "Create a skill from its SKILL.md.")
    get_skill = routes.reads(_SKILL, Skill, "Return a skill.")
    update_skill = routes.updates(_SKILL, UpdateSkill, Skill, "Change a skill; a new text is a new version.")
    delete_skill = routes.sends("DELETE", _SKILL, "Archive a skill: models are not offered it.")
    destroy_skill = routes.sends("POST", f"{_SKILL}/delete", "Delete a skill for good.")
    get_skill_config = routes.fetches(
        f"{_SKILLS}/config", ResourceConfig, "Return what the caller may do with skills."
    )
    list_skills_usage = routes.fetches(
        f"{_SKILLS}/usage", dict[str, SkillUsage], "Return how many agents and harnesses name each skill."
    )

    async def list_skills(
        self, *, search: str | None = None, include_archived: bool | None = None
    ) -> tuple[Skill, ...]:
        """List the skills of the registry.

        Args:
            search: a text that the name or the description contains.
            include_archived: also archived ones.
        """
        params = [("search", search), ("include_archived", include_archived)]
        return await listed(self, _SKILLS, Skill, params)

    async def validate_skill(self, skill_md: str) -> SkillValidation:
        """Check the text of a SKILL.md, and return what is wrong with it."""
        return await self.call("POST", f"{_SKILLS}/validate", SkillValidation, body=ValidateSkill(skill_md))

    async def upload_skill(self, archive: bytes, *, replace: bool = False) -> Skill:
        """Create a skill from a ZIP file.

        Args:
            replace: whether a skill of the same name gets a new version.

        Raises:
            Conflict: another skill has the name.
        """
        body, params = Binary(archive, "application/zip"), [("replace", replace or None)]
        return await self.call("POST", f"{_SKILLS}/upload", Skill, params=params, body=body, once=new_key())

    async def get_skill_content(self, skill_id: str, version: str | None = None) -> SkillContent:
        """Return the files of a skill; of an earlier version, if one is given."""
        path = path_of(f"{_SKILL}/content", skill_id)
        return await self.call("GET", path, SkillContent, params=[("version", version)])

    async def list_skill_versions(self, skill_id: str) -> tuple[SkillVersion, ...]:
        """List the versions of a skill, newest first."""
        return await listed(self, path_of(f"{_SKILL}/versions", skill_id), SkillVersion)
