"""The catalogue of skills that a model sees: names and descriptions, within a budget of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from perdure.domain.ids import SkillId
from perdure.domain.texts import cut_line
from perdure.domain.tokens import text_tokens

FOLDER = "/.agents/skills"
"""The folder of a session's own skills: `{FOLDER}/{name}/SKILL.md`."""
INSTALLED = "/.agents/installed"
"""Where the files of registered skills are put when they are activated."""
MAX_CATALOGUE = 3_500
"""Estimated tokens of the catalogue in the prompt: every model call pays for it."""
MAX_OWN = 500
"""Skills of a session's own files."""

_LENGTHS = (1024, 400, 200, 120, 80, 50, 25, 0)
"""Characters of a description, tried in turn until the catalogue fits."""
_INTRODUCTION = (
    "Skills are instructions for particular tasks. Before a task that one of these fits, call activate_skill "
    "with its name, and follow what it says."
)
_SHORTENED = "Descriptions are shortened here: list_skills has them in full."


class OfferedSkill(Struct, frozen=True):
    """A skill that a session can use.

    Attributes:
        source: whether it is in the registry, or in the session's files.
        folder: where its files are, or will be once it is activated.
        skill_id, version: of a registered one.
        hidden: whether only people may use it.
        errors: why it cannot be used.
    """

    name: str
    description: str
    source: Literal["registry", "files"]
    folder: str
    skill_id: SkillId | None = None
    version: str | None = None
    hidden: bool = False
    errors: tuple[str, ...] = ()


def installed_folder(name: str, version: str) -> str:
    """Where the files of a registered skill are put. Each version has its own folder."""
    return f"{INSTALLED}/{name}-{version[:12]}"


def catalogue_text(skills: Sequence[OfferedSkill]) -> str:
    """The catalogue for the prompt; empty without skills.

    Longer descriptions are shortened as far as it has to be, and the last skills are left out if the names
    alone are too long.
    """
    if not skills:
        return ""
    shown = [(each.name, " ".join(each.description.split())) for each in skills]
    for length in _LENGTHS:
        text = _text(shown, length, 0)
        if text_tokens(text) <= MAX_CATALOGUE:
            return text
    while len(shown) > 1 and text_tokens(text := _text(shown, 0, len(skills) - len(shown))) > MAX_CATALOGUE:
        shown = shown[: len(shown) * 9 // 10]
    return text


def _text(skills: Sequence[tuple[str, str]], length: int, left_out: int) -> str:
    """The catalogue of names with descriptions, each in one line, of up to `length` characters."""
    lines, shortened = [], False
    for name, whole in skills:
        said = cut_line(whole, length) if length else ""
        shortened = shortened or said != whole
        lines.append(f"- {name}: {said}" if said else f"- {name}")
    more = [f"{left_out} more skills: see list_skills."] if left_out else []
    return "\n".join([_INTRODUCTION, *([_SHORTENED] if shortened else []), *lines, *more])
