"""Skills: instructions for particular tasks, which a model reads when it needs them (agentskills.io)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from perdure.domain.errors import InvalidInput
from perdure.domain.files import Encoding
from perdure.domain.ids import SkillId, is_id
from perdure.domain.messages import JsonObject
from perdure.domain.paging import AllowedActions, SelfUrl, UiLink, ViewUrl
from perdure.domain.skill_md import MAX_SKILL_MD
from perdure.domain.times import ArchivedAt, CreatedAt, DeletedAt, UpdatedAt
from perdure.domain.tools import CapabilityRef

SkillSource = Literal["markdown", "archive"]
SkillStatus = Literal["active", "disabled", "archived", "deleted"]

SKILLS = "skills"
"""The id of the capability."""
SKILL_REF = "skill:"
"""How the capability of a registered skill begins: `skill:{id}`."""
LATEST = "latest"
"""In place of a version: whichever is current when the turn begins."""
OFFERS = ("always", "with_skills")
"""When the tools of skills are offered."""
MAX_PINS = 500
"""Registered skills of one configuration."""
CODE = "invalid_capability_config"

CONFIG_SCHEMA: JsonObject = {
    "type": "object",
    "properties": {
        "version": {
            "type": "string",
            "pattern": f"^({LATEST}|[0-9a-f]{{64}})$",
            "description": (
                f"A version of the skill, or `{LATEST}`. Default: the one that is current when it is saved."
            ),
        }
    },
    "additionalProperties": False,
}
"""The configuration of a capability `skill:{id}`."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_LINK = Meta(examples=["/v1/skills/skill_0192f0c1b2a37b5c8d4e5f60718293a4"])
_SKILL_MD = Meta(
    description="The text of SKILL.md: front matter with `name` and `description`, and Markdown."
)
_EXAMPLE = "---\nname: pdf-forms\ndescription: Fills in PDF forms.\n---\n\nList the form's fields first.\n"

SkillMd = Annotated[str, Meta(max_length=MAX_SKILL_MD)]


class Skill(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A skill of the organization's registry."""

    id: Annotated[SkillId, Meta(description="The skill's id.")]
    name: Annotated[str, Meta(description="The name that models activate it by.", examples=["pdf-forms"])]
    description: Annotated[
        str,
        Meta(description="What it does and when to use it, for models.", examples=["Fills in PDF forms."]),
    ]
    source_type: Annotated[SkillSource, Meta(description="`archive` if it has more files than SKILL.md.")]
    status: Annotated[SkillStatus, Meta(description="Only `active` skills are offered to models.")]
    version: Annotated[
        str,
        Meta(
            description="The digest of its files, which agents pin: SHA-256, in hex.",
            examples=["5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9"],
        ),
    ]
    created_at: CreatedAt
    updated_at: UpdatedAt
    self_url: Annotated[SelfUrl, _LINK]
    view_url: Annotated[ViewUrl, _LINK]
    ui_link: Annotated[UiLink, _LINK]
    license: Annotated[str | None, Meta(description="Its license.")] = None
    compatibility: Annotated[str | None, Meta(description="What it needs, for people.")] = None
    allowed_tools: Annotated[
        str | None, Meta(description="The tools that its author names. It grants nothing.")
    ] = None
    metadata: Annotated[JsonObject, Meta(description="Further facts of the front matter.")] = {}
    user_invocable: Annotated[bool, Meta(description="Whether it is meant to be invoked by people.")] = True
    disable_model_invocation: Annotated[
        bool, Meta(description="Whether models are not offered it, and cannot activate it.")
    ] = False
    archived_at: ArchivedAt = None
    deleted_at: DeletedAt = None
    allowed_actions: AllowedActions = ()


class SkillFileEntry(Struct, frozen=True, omit_defaults=True):
    """A further file of a skill."""

    path: Annotated[
        str, Meta(description="The path, relative to the skill's folder.", examples=["scripts/fill.py"])
    ]
    content: Annotated[str, Meta(description="The content.", examples=["print('filled')\n"])]
    encoding: Annotated[Encoding, Meta(description="`base64` if the content is not text.")] = "text"


class SkillContent(Struct, frozen=True):
    """The files of a skill."""

    skill_md: Annotated[str, Meta(description="The text of SKILL.md.", examples=[_EXAMPLE])]
    files: Annotated[tuple[SkillFileEntry, ...], Meta(description="Its further files, sorted by path.")]


class SkillVersion(Struct, frozen=True, kw_only=True):
    """A version that a skill has had, without its files."""

    skill_id: Annotated[SkillId, Meta(description="The skill.")]
    version: Annotated[
        str,
        Meta(
            description="The digest of its files, which agents pin: SHA-256, in hex.",
            examples=["5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9"],
        ),
    ]
    is_current: Annotated[bool, Meta(description="Whether it is the skill's version now.", examples=[True])]
    name: Annotated[str, Meta(description="The name in it.", examples=["pdf-forms"])]
    description: Annotated[str, Meta(description="The description in it.", examples=["Fills in PDF forms."])]
    source_type: Annotated[SkillSource, Meta(description="`archive` if it has more files than SKILL.md.")]
    file_count: Annotated[int, Meta(description="The number of its files, SKILL.md included.", examples=[2])]
    size_bytes: Annotated[int, Meta(description="The bytes of its files together.", examples=[2048])]
    created_at: CreatedAt


class SkillUsage(Struct, frozen=True):
    """How many agents and harnesses name a skill."""

    agents: Annotated[int, Meta(description="The number of agents.", ge=0, examples=[2])]
    harnesses: Annotated[int, Meta(description="The number of harnesses.", ge=0, examples=[0])]


SkillUsages = Annotated[
    dict[SkillId, SkillUsage],
    Meta(
        description="By the skill's id.",
        examples=[{"skill_0192f0c1b2a37b5c8d4e5f60718293a4": {"agents": 2, "harnesses": 0}}],
    ),
]


class SkillValidation(Struct, frozen=True, omit_defaults=True):
    """What is wrong with a SKILL.md."""

    valid: Annotated[bool, Meta(description="Whether it can be stored.", examples=[True])]
    name: Annotated[str | None, Meta(description="The name in it.", examples=["pdf-forms"])] = None
    description: Annotated[
        str | None, Meta(description="The description in it.", examples=["Fills in PDF forms."])
    ] = None
    errors: Annotated[
        tuple[str, ...],
        Meta(
            description="Why it cannot be stored, with line numbers.",
            examples=[["line 2: `name` is missing"]],
        ),
    ] = ()
    warnings: Annotated[tuple[str, ...], Meta(description="What should be better, with line numbers.")] = ()


class CreateSkill(Struct, frozen=True):
    """The body that creates a skill without further files."""

    skill_md: Annotated[SkillMd, _SKILL_MD, Meta(examples=[_EXAMPLE])]


class ValidateSkill(Struct, frozen=True):
    """The body with a SKILL.md to check."""

    skill_md: Annotated[str, _SKILL_MD, Meta(examples=[_EXAMPLE])]


class UpdateSkill(Struct, frozen=True):
    """The body that changes a skill: omitted fields keep their values."""

    skill_md: Annotated[
        SkillMd | UnsetType,
        Meta(description="A new text of SKILL.md, which makes a new version. Further files stay."),
    ] = UNSET
    status: Annotated[
        SkillStatus | UnsetType, Meta(description="`disabled`: the skill stays, and is not offered.")
    ] = UNSET


# --- versions and references --------------------------------------------------


def version_of(hashes: Mapping[str, str]) -> str:
    """The digest of a skill's files, given the SHA-256 of each by its path."""
    lines = "".join(f"{hashes[path]} {path}\n" for path in sorted(hashes))
    return hashlib.sha256(lines.encode()).hexdigest()


def is_version(text: object) -> bool:
    """Whether a text is a version that can be pinned, or `latest`."""
    return isinstance(text, str) and (text == LATEST or _DIGEST.fullmatch(text) is not None)


def as_catalogue(ref: CapabilityRef) -> CapabilityRef:
    """Return a reference `skill:{id}` as one to the capability that offers all skills; others stay."""
    if not ref.ref.startswith(SKILL_REF):
        return ref
    version = ref.config.get("version") if isinstance(ref.config, dict) else None
    return CapabilityRef(SKILLS, {"pins": {ref.ref.removeprefix(SKILL_REF): version}})


def merged(lower: Any, higher: Any) -> Any:
    """The configuration of two layers: all of their skills, and for the rest the higher layer's."""
    low, high = lower or {}, higher or {}
    both = {**low, **high}
    if "pins" in low and "pins" in high:
        both["pins"] = {**low["pins"], **high["pins"]}
    return both or None


def pins_of(config: Any) -> dict[SkillId, str | None]:
    """The registered skills of a configuration, each with its version; None: the current one."""
    return {SkillId(skill_id): version for skill_id, version in ((config or {}).get("pins") or {}).items()}


def read_config(config: Any, where: str) -> None:
    """Check a configuration of the capability. Against its schema, 500 pins would cost too much.

    Args:
        where: the path of the configuration in the request, for errors.

    Raises:
        InvalidInput: names what is not valid.
    """
    if not isinstance(config, dict) or set(config) - {"pins", "offer"}:
        raise _wrong(where, "it may have only `pins` and `offer`")
    if "offer" in config and config["offer"] not in OFFERS:
        raise _wrong(f"{where}.offer", f"it must be one of: {', '.join(OFFERS)}")
    pins = config.get("pins", {})
    if not isinstance(pins, dict) or len(pins) > MAX_PINS:
        raise _wrong(f"{where}.pins", f"it must be an object with up to {MAX_PINS} skills")
    for skill_id, version in pins.items():
        if not is_id(skill_id, "skill"):
            raise _wrong(f"{where}.pins", f"{skill_id[:60]!r} is not the id of a skill; see GET /v1/skills")
        if not (version is None or is_version(version)):
            what = f'it must be a whole version of the skill (64 hex digits), "{LATEST}", or null'
            raise _wrong(f"{where}.pins.{skill_id}", what)


def _wrong(field: str, what: str) -> InvalidInput:
    return InvalidInput(f"`{field}`: {what}", code=CODE, field=field)


def check_skill_ref(ref: CapabilityRef, where: str) -> None:
    """Check the form of a reference `skill:{id}`. Raises InvalidInput."""
    skill_id = ref.ref.removeprefix(SKILL_REF)
    if not is_id(skill_id, "skill"):
        raise InvalidInput(
            f"`{where}.ref`: {skill_id[:60]!r} is not the id of a skill; see GET /v1/skills",
            code="unknown_capability",
            field=where,
        )
    config = {} if ref.config is None else ref.config
    version = config.get("version") if isinstance(config, dict) else ""
    if not (version is None or is_version(version)) or set(config) - {"version"}:
        raise InvalidInput(
            f"`{where}.config` may have only `version`: a whole version of the skill (64 hex digits, see "
            f'GET /v1/skills/{skill_id}/versions), or "{LATEST}"',
            code=CODE,
            field=where,
        )
