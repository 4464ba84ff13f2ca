"""A session's key-values and secrets, for HTTP and for its own tools."""

from __future__ import annotations

from perdure.app.context import Scope, Services
from perdure.domain.errors import InvalidInput
from perdure.domain.events import NewEvent
from perdure.domain.ids import SessionId
from perdure.domain.redaction import Redactor, redact_event
from perdure.domain.storage import (
    MAX_KEYS,
    KeyValue,
    SecretInfo,
    SecretsSet,
    SetSecrets,
    check_key,
    check_room,
    check_secrets,
    check_value,
)
from perdure.domain.times import to_rfc3339
from perdure.store.database import Tx
from perdure.store.sessions import SessionRow, get_session
from perdure.store.storage import (
    count_values,
    delete_secret,
    delete_value,
    get_value,
    list_secrets,
    list_values,
    open_secrets,
    secret_sizes,
    set_secret,
    set_value,
)


async def without_secrets(app: Services, tx: Tx, row: SessionRow, events: list[NewEvent]) -> list[NewEvent]:
    """The events without the session's secrets, should somebody have written one into them."""
    redactor = Redactor(await open_secrets(tx, app.vault, row.org_id, row.id))
    return [redact_event(event, redactor) for event in events] if redactor else events


# --- key-values -------------------------------------------------------------


async def all_values(app: Services, scope: Scope, session_id: SessionId) -> list[KeyValue]:
    """The session's key-values, by key."""

    async def work(tx: Tx) -> list[KeyValue]:
        row = await get_session(tx, scope.organization_id, session_id)
        found = await list_values(tx, row.id)
        return [
            KeyValue(key, value, to_rfc3339(made), to_rfc3339(changed)) for key, value, made, changed in found
        ]

    return await app.database.read(work)


async def read_value(app: Services, scope: Scope, session_id: SessionId, key: str) -> str | None:
    """The value under a key; None when there is none."""

    async def work(tx: Tx) -> str | None:
        row = await get_session(tx, scope.organization_id, session_id)
        return await get_value(tx, row.id, key)

    return await app.database.read(work)


async def put_value(app: Services, scope: Scope, session_id: SessionId, key: str, value: str) -> None:
    """Keep a value under a key, instead of the one before. Raises InvalidInput: there is no room for it."""
    check_key(key)
    check_value(value)
    now = app.now()

    async def work(tx: Tx) -> None:
        row = await get_session(tx, scope.organization_id, session_id, lock=True)
        if await get_value(tx, row.id, key) is None and await count_values(tx, row.id) >= MAX_KEYS:
            raise InvalidInput(f"a session holds at most {MAX_KEYS} keys: delete one first", field="key")
        await set_value(tx, row.org_id, row.id, key, value, now)

    await app.database.write(work)


async def remove_value(app: Services, scope: Scope, session_id: SessionId, key: str) -> bool:
    """Delete the value under a key; whether there was one."""

    async def work(tx: Tx) -> bool:
        row = await get_session(tx, scope.organization_id, session_id)
        return await delete_value(tx, row.id, key)

    return await app.database.write(work)


# --- secrets ----------------------------------------------------------------


async def all_secrets(app: Services, scope: Scope, session_id: SessionId) -> list[SecretInfo]:
    """The names of the session's secrets."""

    async def work(tx: Tx) -> list[SecretInfo]:
        row = await get_session(tx, scope.organization_id, session_id)
        return [
            SecretInfo(name, to_rfc3339(made), to_rfc3339(changed))
            for name, made, changed in await list_secrets(tx, row.id)
        ]

    return await app.database.read(work)


async def put_secrets(app: Services, scope: Scope, session_id: SessionId, body: SetSecrets) -> SecretsSet:
    """Write secrets, all or none; those that are not named stay. Raises InvalidInput: there is no room."""
    check_secrets(body.secrets)
    now = app.now()

    async def work(tx: Tx) -> SecretsSet:
        row = await get_session(tx, scope.organization_id, session_id, lock=True)
        check_room(await secret_sizes(tx, row.id), body.secrets)
        for name, value in body.secrets.items():
            await set_secret(tx, app.vault, row.org_id, row.id, name, value, now)
        return SecretsSet(len(body.secrets))

    return await app.database.write(work)


async def remove_secret(app: Services, scope: Scope, session_id: SessionId, name: str) -> bool:
    """Delete a secret; whether there was one."""

    async def work(tx: Tx) -> bool:
        row = await get_session(tx, scope.organization_id, session_id)
        return await delete_secret(tx, row.id, name)

    return await app.database.write(work)
