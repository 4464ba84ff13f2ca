"""`tool_call_repair`: repairs small mistakes in a model's tool calls instead of rejecting the calls."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from perdure.capabilities.behaviour import Behaviour
from perdure.capabilities.port import Capability


def _behave(config: Any, behaviour: Behaviour) -> Behaviour:
    return replace(behaviour, repair_tool_calls=True)


TOOL_CALL_REPAIR = Capability(
    id="tool_call_repair",
    name="Tool call repair",
    description=(
        "Repairs tool calls whose arguments are not quite valid JSON, are quoted or null where they should "
        "not be, or whose tool name is spelled differently."
    ),
    category="behaviour",
    behave=_behave,
)
