"""`tool_call_repair`: small slips in a model's tool calls are mended instead of being sent back."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from perdure.capabilities.port import Behaviour, Capability


def _behave(config: Any, behaviour: Behaviour) -> Behaviour:
    return replace(behaviour, repair_tool_calls=True)


TOOL_CALL_REPAIR = Capability(
    id="tool_call_repair",
    name="Tool call repair",
    description=(
        "Mends tool calls whose arguments are not quite JSON, or are in quotes or null where they should "
        "not be, or whose tool is "
        "named in another spelling."
    ),
    category="behaviour",
    behave=_behave,
)
