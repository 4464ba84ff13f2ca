"""Checks of the skills that capabilities name."""

from __future__ import annotations

from collections.abc import Iterable

from perdure.domain.errors import InvalidInput
from perdure.domain.ids import OrgId
from perdure.domain.skills import LATEST, SKILL_REF, SKILLS, as_catalogue, pins_of
from perdure.domain.tools import CapabilityRef
from perdure.store.database import Tx
from perdure.store.skills import current_versions, known_versions


async def check_skill_refs(tx: Tx, org_id: OrgId, refs: Iterable[CapabilityRef], field: str) -> None:
    """Check that the organization has the skills that capabilities name, and their versions.

    Raises:
        InvalidInput: a skill or a version does not exist.
    """
    named = [
        (index, ref, skill_id, version)
        for index, ref in enumerate(refs)
        if ref.ref.startswith(SKILL_REF) or ref.ref == SKILLS
        for skill_id, version in pins_of(as_catalogue(ref).config).items()
    ]
    if not named:
        return
    ids = sorted({skill_id for _, _, skill_id, _ in named})
    pinned = sorted({version for *_, version in named if version not in (None, LATEST)})
    known, versions = await current_versions(tx, org_id, ids), await known_versions(tx, org_id, ids, pinned)
    for index, ref, skill_id, version in named:
        where = f"{field}[{index}]" + ("" if ref.ref != SKILLS else f".config.pins.{skill_id[:60]}")
        if skill_id not in known:
            raise InvalidInput(
                f"`{where}`: no skill has the id {skill_id[:60]!r}; see GET /v1/skills",
                code="unknown_capability",
                field=where,
            )
        if version not in (None, LATEST) and (skill_id, version) not in versions:
            raise InvalidInput(
                f"`{where}`: the skill {skill_id} never had the version {str(version)[:64]}: leave it out "
                f'for the current one, or write "{LATEST}"',
                code="unknown_capability",
                field=where,
            )
