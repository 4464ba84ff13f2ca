"""`parallel_tool_calls`: whether the model may call several tools in one answer."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from perdure.capabilities.port import Behaviour, Capability, schema


def _behave(config: Any, behaviour: Behaviour) -> Behaviour:
    return replace(behaviour, parallel_tool_calls=bool((config or {}).get("enabled", True)))


PARALLEL_TOOL_CALLS = Capability(
    id="parallel_tool_calls",
    name="Parallel tool calls",
    description=(
        "Lets the model call several tools at once, or limits it to one at a time. The session's or "
        "agent's own setting takes precedence."
    ),
    category="behaviour",
    config_schema=schema({"enabled": {"type": "boolean", "default": True}}),
    behave=_behave,
)
