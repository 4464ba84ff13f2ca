"""`session_storage`: key-values and secrets that last as long as the session."""

from __future__ import annotations

from perdure.capabilities.port import REPEATABLE, Capability, Tool, ToolContext, ToolOutcome, schema
from perdure.domain.errors import ToolError
from perdure.domain.messages import JsonObject
from perdure.domain.redaction import mark_of
from perdure.domain.storage import MAX_KEY, MAX_KEYS, MAX_SECRET, MAX_VALUE, check_room
from perdure.store.database import Tx
from perdure.store.storage import (
    count_values,
    delete_secret,
    delete_value,
    get_secret,
    get_value,
    list_secrets,
    list_values,
    secret_sizes,
    set_secret,
    set_value,
)

_OPERATIONS = ["set", "get", "delete", "list"]


def _needed(arguments: JsonObject, name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str) or (name == "key" and (not value or any(ch < " " for ch in value))):
        raise ToolError(f"{arguments['operation']} needs `{name}`")
    return value


async def _kv_store(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    operation, session_id = arguments["operation"], context.session_id
    if operation == "list":
        found = await context.database.read(lambda tx: list_values(tx, session_id))
        return ToolOutcome({"keys": [key for key, _, _, _ in found]})
    key = _needed(arguments, "key")
    if operation == "get":
        value = await context.database.read(lambda tx: get_value(tx, session_id, key))
        return ToolOutcome({"key": key, "found": value is not None, "value": value})
    if operation == "delete":
        return ToolOutcome(
            {
                "key": key,
                "deleted": await context.database.write(lambda tx: delete_value(tx, session_id, key)),
            }
        )
    text = _needed(arguments, "value")

    async def body(tx: Tx) -> None:
        if await get_value(tx, session_id, key) is None and await count_values(tx, session_id) >= MAX_KEYS:
            raise ToolError(f"a session holds at most {MAX_KEYS} keys: delete one first")
        await set_value(tx, context.org_id, session_id, key, text, context.now())

    await context.database.write(body)
    return ToolOutcome({"key": key, "stored": True})


async def _secret_store(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    operation, session_id, vault = arguments["operation"], context.session_id, context.vault
    if operation == "list":
        found = await context.database.read(lambda tx: list_secrets(tx, session_id))
        return ToolOutcome({"names": [name for name, _, _ in found]})
    name = _needed(arguments, "key")
    if operation == "get":
        value = await context.database.read(
            lambda tx: get_secret(tx, vault, context.org_id, session_id, name)
        )
        # The model learns that the secret is there, and its name; the value stays with the tools that use it.
        return ToolOutcome(
            {"key": name, "found": value is not None, "value": None if value is None else mark_of(name)}
        )
    if operation == "delete":
        return ToolOutcome(
            {
                "key": name,
                "deleted": await context.database.write(lambda tx: delete_secret(tx, session_id, name)),
            }
        )
    text = _needed(arguments, "value")

    async def body(tx: Tx) -> None:
        check_room(await secret_sizes(tx, session_id), {name: text})
        await set_secret(tx, vault, context.org_id, session_id, name, text, context.now())

    await context.database.write(body)
    return ToolOutcome({"key": name, "stored": True})


def _parameters(longest: int) -> JsonObject:
    return schema(
        {
            "operation": {"type": "string", "enum": _OPERATIONS},
            "key": {
                "type": "string",
                "minLength": 1,
                "maxLength": MAX_KEY,
                "description": "For set, get and delete.",
            },
            "value": {"type": "string", "maxLength": longest, "description": "For set."},
        },
        "operation",
    )


KV_STORE = Tool(
    name="kv_store",
    display_name="Key-value store",
    description="Keep small texts under keys for the length of the session: set, get, delete, list.",
    parameters=_parameters(MAX_VALUE),
    run=_kv_store,
    hints=REPEATABLE,
)

SECRET_STORE = Tool(
    name="secret_store",
    display_name="Secret store",
    description=(
        "Keep secrets under names: set, get (whether there is one), delete, list. A stored value is never shown again; "
        "wherever it would appear stands [secret NAME]."
    ),
    parameters=_parameters(MAX_SECRET),
    run=_secret_store,
    hints=REPEATABLE,
    secret_arguments=("value",),
)

SESSION_STORAGE = Capability(
    id="session_storage",
    name="Storage",
    description="Gives the session a key-value store and a store for secrets, which are encrypted and never shown.",
    category="storage",
    features=("secrets", "key_value"),
    tools=lambda config: (KV_STORE, SECRET_STORE),
)
