"""Capabilities as they are stored: secrets of policy hooks are encrypted, versions of skills are pinned."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import UnsetType

from perdure.app.context import App
from perdure.app.hook_secrets import sealed_config
from perdure.domain.ids import OrgId, SkillId
from perdure.domain.messages import JsonObject
from perdure.domain.policy_hooks import POLICY_HOOK
from perdure.domain.skills import SKILL_REF, SKILLS, pins_of
from perdure.domain.subagents import SUBAGENTS
from perdure.domain.tools import CapabilityRef
from perdure.store.skills import current_versions

R = TypeVar("R", tuple[CapabilityRef, ...], tuple[CapabilityRef, ...] | UnsetType)


async def stored_refs(app: App, org_id: OrgId, refs: R, field: str = "capabilities") -> R:
    """Return the capabilities as they are stored.

    Call it outside any transaction, for configurations that match their schemas.

    Raises:
        InvalidInput: a hook's URL or secret cannot be used.
    """
    if isinstance(refs, UnsetType):
        return refs
    current = await _current(app, org_id, refs)
    found = []
    for index, ref in enumerate(refs):
        capability = app.registry.get(ref.ref)
        where = f"{field}[{index}].config"
        config = ref.config
        if ref.ref.startswith(SKILL_REF):
            config = _pinned_one(ref, current)
        elif capability is not None and capability.id == SKILLS and pins_of(config):
            pins = {each: version or current.get(each) for each, version in pins_of(config).items()}
            config = {**config, "pins": pins}
        elif capability is not None and capability.id == POLICY_HOOK:
            config = await sealed_config(app, org_id, config, where)
        elif capability is not None and capability.id == SUBAGENTS and config:
            config = await _with_blueprints(app, org_id, config, where)
        found.append(msgspec.structs.replace(ref, config=config))
    return tuple(found)


async def _current(app: App, org_id: OrgId, refs: tuple[CapabilityRef, ...]) -> dict[str, str]:
    """The current versions of the skills that these capabilities name without one."""
    wanted = [
        ref.ref.removeprefix(SKILL_REF)
        for ref in refs
        if ref.ref.startswith(SKILL_REF) and not (ref.config or {}).get("version")
    ]
    wanted += [
        each for ref in refs if ref.ref == SKILLS for each, pin in pins_of(ref.config).items() if not pin
    ]
    if not wanted:
        return {}
    return await app.database.read(lambda tx: current_versions(tx, org_id, wanted))


def _pinned_one(ref: CapabilityRef, current: dict[str, str]) -> Any:
    if (ref.config or {}).get("version"):
        return ref.config
    version = current.get(SkillId(ref.ref.removeprefix(SKILL_REF)))
    return ref.config if version is None else {"version": version}  # without one, `check_refs` refuses it


async def _with_blueprints(app: App, org_id: OrgId, config: JsonObject, where: str) -> JsonObject:
    blueprints = {}
    for name, blueprint in (config.get("blueprints") or {}).items():
        own = tuple(msgspec.convert(blueprint.get("capabilities") or [], list[CapabilityRef]))
        stored = await stored_refs(app, org_id, own, f"{where}.blueprints.{name}.capabilities")
        blueprints[name] = blueprint if stored == own else {**blueprint, "capabilities": _built(stored)}
    return {**config, "blueprints": blueprints} if blueprints else config


def _built(refs: tuple[CapabilityRef, ...]) -> object:
    return msgspec.to_builtins(list(refs))
