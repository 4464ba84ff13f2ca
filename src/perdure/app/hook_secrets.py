"""Encrypts the secrets of policy hooks, before configurations with them are stored.

What is stored and shown is the encrypted secret. A client that sends it back keeps the secret; it is of no
use for another URL or another organization.
"""

from __future__ import annotations

from perdure.app.context import App
from perdure.domain.errors import InvalidInput, Unreadable
from perdure.domain.ids import OrgId
from perdure.domain.messages import JsonObject
from perdure.domain.policy_hooks import (
    INVALID,
    MAX_SECRET,
    SEALED,
    hook_of,
    sealed_bytes,
    sealed_text,
)
from perdure.domain.webhooks import key_of
from perdure.net.webhook_http import check_target


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
