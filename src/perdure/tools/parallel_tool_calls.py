"""`parallel_tool_calls`: whether the model may call several tools in one answer."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from perdure.capabilities.behaviour import Behaviour
from perdure.capabilities.port import Capability, schema

MODES = {"auto": None, "prefer": True, "never": False}
"""What each mode asks of the model; `auto` leaves it to the vendor."""


def _behave(config: Any, behaviour: Behaviour) -> Behaviour:
    settings = config or {}
    mode = "prefer" if settings.get("enabled", True) else "never"
    return replace(behaviour, parallel_tool_calls=MODES[settings.get("mode", mode)])


PARALLEL_TOOL_CALLS = Capability(
    id="parallel_tool_calls",
    name="Parallel tool calls",
    description=(
        "Lets the model call several tools at once, or limits it to one at a time. The session's or "
        "agent's own setting takes precedence."
    ),
    category="behaviour",
    config_schema=schema(
        {
            "enabled": {"type": "boolean", "default": True},
            "mode": {
                "enum": list(MODES),
                "description": (
                    "`prefer`: several calls at once; `never`: one at a time; `auto`: the vendor's default. "
                    "It takes precedence over `enabled`."
                ),
            },
        }
    ),
    behave=_behave,
)
