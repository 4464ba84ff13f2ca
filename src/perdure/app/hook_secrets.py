"""Encrypts the secrets of policy hooks, before configurations with them are stored.

What is stored and shown is the encrypted secret. A client that sends it back keeps the secret; it is of no
use for another URL or another organization.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec import UnsetType

from perdure.app.context import App
from perdure.domain.errors import InvalidInput, Unreadable
from perdure.domain.ids import OrgId
from perdure.domain.messages import JsonObject
from perdure.domain.policy_hooks import (
    INVALID,
    MAX_SECRET,
    POLICY_HOOK,
    SEALED,
    hook_of,
    sealed_bytes,
    sealed_text,
)
from perdure.domain.subagents import SUBAGENTS
from perdure.domain.tools import CapabilityRef
from perdure.domain.webhooks import key_of
from perdure.net.webhook_http import check_target

R = TypeVar("R", tuple[CapabilityRef, ...], tuple[CapabilityRef, ...] | UnsetType)


async def sealed_refs(app: App, org_id: OrgId, refs: R, field: str = "capabilities") -> R:
    """Return the capabilities with the secrets of their policy hooks encrypted.

    Call it outside any transaction, for configurations that match their schemas.

    Raises:
        InvalidInput: a hook's URL or secret cannot be used.
    """
    if isinstance(refs, UnsetType):
        return refs
    found = []
    for index, ref in enumerate(refs):
        capability = app.registry.get(ref.ref)
        where = f"{field}[{index}].config"
        config = ref.config
        if capability is not None and capability.id == POLICY_HOOK:
            config = await sealed_config(app, org_id, config, where)
        elif capability is not None and capability.id == SUBAGENTS and config:
            config = await _with_blueprints(app, org_id, config, where)
        found.append(msgspec.structs.replace(ref, config=config))
    return tuple(found)


async def _with_blueprints(app: App, org_id: OrgId, config: JsonObject, where: str) -> JsonObject:
    blueprints = {}
    for name, blueprint in (config.get("blueprints") or {}).items():
        own = tuple(msgspec.convert(blueprint.get("capabilities") or [], list[CapabilityRef]))
        sealed = await sealed_refs(app, org_id, own, f"{where}.blueprints.{name}.capabilities")
        blueprints[name] = blueprint if sealed == own else {**blueprint, "capabilities": _built(sealed)}
    return {**config, "blueprints": blueprints} if blueprints else config


def _built(refs: tuple[CapabilityRef, ...]) -> object:
    return msgspec.to_builtins(list(refs))


async def sealed_config(app: App, org_id: OrgId, config: JsonObject, where: str) -> JsonObject:
    """Return a hook's configuration with its secret encrypted.

    Args:
        where: the field that holds it, for errors.

    Raises:
        InvalidInput: the URL or the secret cannot be used. The secret is not in the message.
    """
    hook = hook_of(config)
    if len(hook.secret) > MAX_SECRET:
        raise _refused(f"{where}.secret", f"may have at most {MAX_SECRET} characters")
    if hook.secret.startswith(SEALED):
        try:
            sealed = sealed_bytes(hook.secret)
            await app.database.read(lambda tx: app.vault.open(tx, org_id, sealed, hook.binding))
        except (Unreadable, ValueError):
            why = "was not encrypted for this URL in this organization: send the secret itself"
            raise _refused(f"{where}.secret", why) from None
        return config
    try:
        key_of(hook.secret)
        await check_target(hook.url, app.private_addresses)
    except InvalidInput as error:
        name = error.field or "url"
        raise _refused(f"{where}.{name}", error.message.removeprefix(f"`{name}`").lstrip(": ")) from None
    secret = await app.database.read(lambda tx: app.vault.seal(tx, org_id, hook.secret, hook.binding))
    return {**config, "secret": sealed_text(secret)}


def _refused(field: str, why: str) -> InvalidInput:
    return InvalidInput(f"`{field}` {why}", code=INVALID, field=field)
