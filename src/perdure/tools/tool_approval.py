"""`tool_approval`: some tool calls wait until a person allows them.

The gate is in the loop, before the tool, not in the prompt.
"""

from __future__ import annotations

from typing import Any

from perdure.capabilities.port import Capability, Tool, schema

_MODES = ("off", "normal", "protective")


def _gate(config: Any, tool: Tool) -> bool:
    """Whether a call of this tool has to be allowed first.

    `normal` holds back what may destroy, or change things outside of the session. `protective` lets through
    only what reads inside of it: what is asked of others, such as an address, tells them something.
    """
    mode = (config or {}).get("mode", "normal")
    hints = tool.hints
    if mode == "off":
        return False
    if mode == "protective":
        return not hints.readonly or bool(hints.open_world)
    return bool(hints.destructive or (hints.open_world and not hints.readonly))


TOOL_APPROVAL = Capability(
    id="tool_approval",
    name="Tool approval",
    description=(
        "Holds tool calls back until a person allows them: those that may destroy, or all that do more "
        "than read in the session."
    ),
    category="safety",
    config_schema=schema(
        {
            "mode": {
                "type": "string",
                "enum": list(_MODES),
                "default": "normal",
                "description": (
                    "off: nothing is held back; normal: what may destroy, or change things outside; "
                    "protective: all but reading "
                    "in the session."
                ),
            }
        }
    ),
    gate=_gate,
)
