"""`session_storage`: key-values and secrets that last as long as the session."""

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
    """The capability, with its tools bound to the services."""
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


def _needed(arguments: JsonObject, name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str):
        raise ToolError(f"{arguments['operation']} needs `{name}`")
    return value


async def _kv_store(services: Services, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    operation, session_id = arguments["operation"], context.session_id
    if operation == "list":
        found = await all_values(services, context, session_id)
        return ToolOutcome({"keys": [each.key for each in found]})
    key = _needed(arguments, "key")
    if operation == "get":
        value = await read_value(services, context, session_id, key)
        return ToolOutcome({"key": key, "found": value is not None, "value": value})
    if operation == "delete":
        return ToolOutcome({"key": key, "deleted": await remove_value(services, context, session_id, key)})
    await put_value(services, context, session_id, key, _needed(arguments, "value"))
    return ToolOutcome({"key": key, "stored": True})


async def _secret_store(services: Services, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    operation, session_id = arguments["operation"], context.session_id
    if operation == "list":
        found = await all_secrets(services, context, session_id)
        return ToolOutcome({"names": [each.name for each in found]})
    name = _needed(arguments, "key")
    if operation == "get":
        # The model learns that the secret is there, and its name; the value stays with the tools that use it.
        there = any(each.name == name for each in await all_secrets(services, context, session_id))
        return ToolOutcome({"key": name, "found": there, "value": mark_of(name) if there else None})
    if operation == "delete":
        return ToolOutcome({"key": name, "deleted": await remove_secret(services, context, session_id, name)})
    await put_secrets(services, context, session_id, SetSecrets({name: _needed(arguments, "value")}))
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
        description="Keep small texts under keys for the length of the session: set, get, delete, list.",
        parameters=_parameters(MAX_VALUE),
        run=partial(_kv_store, services),
        hints=REPEATABLE,
    )


def _secret_tool(services: Services) -> Tool:
    return Tool(
        name="secret_store",
        display_name="Secret store",
        description=(
            "Keep secrets under names: set, get (whether there is one), delete, list. A stored value is "
            "never shown again; "
            "wherever it would appear stands [secret NAME]."
        ),
        parameters=_parameters(MAX_SECRET),
        run=partial(_secret_store, services),
        hints=REPEATABLE,
        secret_arguments=("value",),
    )
