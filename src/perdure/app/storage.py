"""A session's key-value pairs and secrets, for HTTP and for its own tools."""

from __future__ import annotations

from collections.abc import AsyncIterator

from perdure.app.context import Scope, Services
from perdure.app.own_session import check_session
from perdure.domain.errors import InvalidInput, ToolError
from perdure.domain.events import NewEvent
from perdure.domain.ids import SessionId
from perdure.domain.redaction import Redactor, redact_events
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
    open_secret,
    open_secrets,
    secret_sizes,
    set_secret,
    set_value,
)


async def redactor_of(app: Services, tx: Tx, row: SessionRow) -> Redactor:
    """What redacts the session's secrets."""
    return redactor_with(app, row, await open_secrets(tx, app.vault, row.org_id, row.id))


def redactor_with(app: Services, row: SessionRow, secrets: dict[str, str]) -> Redactor:
    """What redacts the session's secrets, which were read in this transaction."""
    redactor = Redactor(secrets)
    if redactor:
        app.known.needs_lock(row.id)
    return redactor


async def without_secrets(app: Services, tx: Tx, row: SessionRow, events: list[NewEvent]) -> list[NewEvent]:
    """Redact the session's secrets in the events."""
    return redact_events(events, await redactor_of(app, tx, row))


# --- key-values -------------------------------------------------------------


async def all_values(app: Services, scope: Scope, session_id: SessionId) -> AsyncIterator[list[KeyValue]]:
    """List the session's key-value pairs, sorted by key, batch by batch."""
    last, more = "", True
    while more:

        async def work(tx: Tx, after: str = last) -> tuple[list[KeyValue], bool]:
            await check_session(tx, scope, session_id)
            values, more = await list_values(tx, session_id, after)
            pairs = [
                KeyValue(key, value, to_rfc3339(created), to_rfc3339(updated))
                for key, value, created, updated in values
            ]
            return pairs, more

        pairs, more = await app.database.read(work)
        if pairs:
            last = pairs[-1].key
            yield pairs


async def read_value(app: Services, scope: Scope, session_id: SessionId, key: str) -> str | None:
    """Read the value of a key; None if the key does not exist."""

    async def work(tx: Tx) -> str | None:
        await check_session(tx, scope, session_id)
        return await get_value(tx, session_id, key)

    return await app.database.read(work)


async def put_value(app: Services, scope: Scope, session_id: SessionId, key: str, value: str) -> None:
    """Store a value under a key, replacing any previous one. Raises InvalidInput: over a limit."""
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
    """Delete a key; returns whether it existed."""

    async def work(tx: Tx) -> bool:
        row = await get_session(tx, scope.organization_id, session_id)
        return await delete_value(tx, row.id, key)

    return await app.database.write(work)


# --- secrets ----------------------------------------------------------------


async def all_secrets(app: Services, scope: Scope, session_id: SessionId) -> list[SecretInfo]:
    """List the names of the session's secrets."""

    async def work(tx: Tx) -> list[SecretInfo]:
        await check_session(tx, scope, session_id)
        return [
            SecretInfo(name, to_rfc3339(created), to_rfc3339(updated))
            for name, created, updated in await list_secrets(tx, session_id)
        ]

    return await app.database.read(work)


async def read_secret(app: Services, scope: Scope, session_id: SessionId, name: str) -> str:
    """Read a secret's value, for the session's own tools; no route of the API returns it.

    Raises:
        ToolError: the session has no secret of this name.
    """
    check_key(name, "name")

    async def work(tx: Tx) -> str | None:
        await check_session(tx, scope, session_id)
        return await open_secret(tx, app.vault, scope.organization_id, session_id, name)

    value = await app.database.read(work)
    if value is None:
        raise ToolError(f"the session has no secret {name!r}: it has to be stored before the call")
    return value


async def put_secrets(app: Services, scope: Scope, session_id: SessionId, body: SetSecrets) -> SecretsSet:
    """Store secrets, all or none; other secrets stay. Raises InvalidInput: over a limit."""
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
    """Delete a secret; returns whether it existed."""

    async def work(tx: Tx) -> bool:
        row = await get_session(tx, scope.organization_id, session_id)
        return await delete_secret(tx, row.id, name)

    return await app.database.write(work)
