"""The error codes of skills, as rows for `error_codes`: code, meaning, remedy."""

from __future__ import annotations

INVALID_SKILLS = (
    (
        "invalid_skill",
        "The SKILL.md of a skill is not valid.",
        "Correct the lines that the message names. `POST /v1/skills/validate` checks a text.",
    ),
    (
        "invalid_skill_archive",
        "The archive of a skill is not a ZIP file that can be taken.",
        "The message says why. Pack the skill's folder with ordinary files only.",
    ),
)
SKILL_CONFLICTS = (
    (
        "skill_name_taken",
        "The organization has another skill of this name; archived ones count.",
        "Change that one, delete it, or upload with `replace=true`.",
    ),
    ("too_many_skills", "The organization has 1,000 skills.", "Delete some."),
    ("too_many_skill_versions", "The skill has 100 versions.", "Store it under another name."),
)
MISSING_SKILLS = (
    ("skill_not_found", "The organization has no such skill.", "See `GET /v1/skills`."),
    (
        "skill_version_not_found",
        "The skill never had this version.",
        "See `GET /v1/skills/{skill_id}/versions`.",
    ),
)
