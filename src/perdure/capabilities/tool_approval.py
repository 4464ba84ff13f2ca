"""`tool_approval`: some tool calls wait until a person allows them. The gate is in the loop, before the tool, not in the prompt."""

from __future__ import annotations

from typing import Any

from perdure.capabilities.base import Capability, Tool, schema

_MODES = ("off", "normal", "protective")


def _gate(config: Any, tool: Tool) -> bool:
    """Whether a call of this tool has to be allowed first.

    `normal` holds back what destroys or reaches outside; `protective` whatever is not read-only.
    """
    mode = (config or {}).get("mode", "normal")
    hints = tool.hints
    if mode == "off" or hints.readonly:
        return False
    return mode == "protective" or bool(hints.destructive or hints.open_world)


TOOL_APPROVAL = Capability(
    id="tool_approval",
    name="Tool approval",
    description="Holds tool calls back until a person allows them: those that destroy or reach outside, or all that change something.",
    category="safety",
    config_schema=schema(
        {
            "mode": {
                "type": "string",
                "enum": list(_MODES),
                "default": "normal",
                "description": "off: nothing is held back; normal: what destroys or reaches outside; protective: all but reading.",
            }
        }
    ),
    gate=_gate,
)
