"""`session_storage`: key-value pairs and secrets that last as long as the session."""

from __future__ import annotations

from functools import partial

from perdure.app.context import Services
from perdure.app.storage import (
    all_secrets,
    all_values,
    put_secrets,
    put_value,
    read_value,
    remove_secret,
    remove_value,
)
from perdure.capabilities.port import REPEATABLE, Capability, Tool, ToolContext, ToolOutcome, schema
from perdure.domain.errors import ToolError
from perdure.domain.messages import JsonObject
from perdure.domain.redaction import mark_of
from perdure.domain.storage import MAX_KEY, MAX_SECRET, MAX_VALUE, SetSecrets

_OPERATIONS = ["set", "get", "delete", "list"]


def session_storage(services: Services) -> Capability:
    """Create the capability, with its tools bound to the services."""
    tools = (_kv_tool(services), _secret_tool(services))
    return Capability(
        id="session_storage",
        name="Storage",
        description=(
            "Gives the session a key-value store and a store for secrets, which are encrypted and never "
            "shown."
        ),
        category="storage",
        features=("secrets", "key_value"),
        tools=lambda config: tools,
    )


def _required(arguments: JsonObject, name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str):
        raise ToolError(f"the operation {arguments['operation']} needs `{name}`")
    return value


async def _kv_store(services: Services, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    operation, session_id = arguments["operation"], context.session_id
    if operation == "list":
        batches = all_values(services, context, session_id)
        return ToolOutcome({"keys": [pair.key async for batch in batches for pair in batch]})
    key = _required(arguments, "key")
    if operation == "get":
        value = await read_value(services, context, session_id, key)
        return ToolOutcome({"key": key, "found": value is not None, "value": value})
    if operation == "delete":
        return ToolOutcome({"key": key, "deleted": await remove_value(services, context, session_id, key)})
    await put_value(services, context, session_id, key, _required(arguments, "value"))
    return ToolOutcome({"key": key, "stored": True})


async def _secret_store(services: Services, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    operation, session_id = arguments["operation"], context.session_id
    if operation == "list":
        secrets = await all_secrets(services, context, session_id)
        return ToolOutcome({"names": [secret.name for secret in secrets]})
    name = _required(arguments, "key")
    if operation == "get":
        # The model learns only whether the secret exists; the value goes to the tools that use it.
        exists = any(secret.name == name for secret in await all_secrets(services, context, session_id))
        return ToolOutcome({"key": name, "found": exists, "value": mark_of(name) if exists else None})
    if operation == "delete":
        return ToolOutcome({"key": name, "deleted": await remove_secret(services, context, session_id, name)})
    await put_secrets(services, context, session_id, SetSecrets({name: _required(arguments, "value")}))
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


def _kv_tool(services: Services) -> Tool:
    return Tool(
        name="kv_store",
        display_name="Key-value store",
        description="Store small texts under keys while the session exists: set, get, delete, list.",
        parameters=_parameters(MAX_VALUE),
        run=partial(_kv_store, services),
        hints=REPEATABLE,
    )


def _secret_tool(services: Services) -> Tool:
    return Tool(
        name="secret_store",
        display_name="Secret store",
        description=(
            "Store secrets under names: set, get (tells only whether it exists), delete, list. A stored "
            "value is never shown again; wherever it would appear, you see [secret NAME] instead."
        ),
        parameters=_parameters(MAX_SECRET),
        run=partial(_secret_store, services),
        hints=REPEATABLE,
        secret_arguments=("value",),
    )
