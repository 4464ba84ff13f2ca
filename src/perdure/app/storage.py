"""A session's key-values and secrets over HTTP."""

from __future__ import annotations

from perdure.app.context import App
from perdure.domain.accounts import Caller
from perdure.domain.events import NewEvent
from perdure.domain.ids import SessionId
from perdure.domain.redaction import Redactor, redact_event
from perdure.domain.storage import KeyValue, SecretInfo, SecretsSet, SetSecrets, check_room
from perdure.domain.times import to_rfc3339
from perdure.store.database import Tx
from perdure.store.sessions import SessionRow, get_session
from perdure.store.storage import list_secrets, list_values, open_secrets, secret_sizes, set_secret


async def without_secrets(app: App, tx: Tx, row: SessionRow, events: list[NewEvent]) -> list[NewEvent]:
    """The events without the session's secrets, should somebody have written one into them."""
    redactor = Redactor(await open_secrets(tx, app.vault, row.org_id, row.id))
    return [redact_event(event, redactor) for event in events] if redactor else events


async def all_values(app: App, caller: Caller, session_id: SessionId) -> list[KeyValue]:
    """The session's key-values, by key."""

    async def work(tx: Tx) -> list[KeyValue]:
        row = await get_session(tx, caller.organization_id, session_id)
        found = await list_values(tx, row.id)
        return [
            KeyValue(key, value, to_rfc3339(made), to_rfc3339(changed)) for key, value, made, changed in found
        ]

    return await app.database.read(work)


async def all_secrets(app: App, caller: Caller, session_id: SessionId) -> list[SecretInfo]:
    """The names of the session's secrets."""

    async def work(tx: Tx) -> list[SecretInfo]:
        row = await get_session(tx, caller.organization_id, session_id)
        return [
            SecretInfo(name, to_rfc3339(made), to_rfc3339(changed))
            for name, made, changed in await list_secrets(tx, row.id)
        ]

    return await app.database.read(work)


async def put_secrets(app: App, caller: Caller, session_id: SessionId, body: SetSecrets) -> SecretsSet:
    """Write secrets, all or none; those that are not named stay."""
    now = app.now()

    async def work(tx: Tx) -> SecretsSet:
        row = await get_session(tx, caller.organization_id, session_id, lock=True)
        check_room(await secret_sizes(tx, row.id), body.secrets)
        for name, value in body.secrets.items():
            await set_secret(tx, app.vault, row.org_id, row.id, name, value, now)
        return SecretsSet(len(body.secrets))

    return await app.database.write(work)
