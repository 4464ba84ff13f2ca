"""`loop_detection`: warns an agent that repeats the same tool calls, then fails the turn."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from perdure.capabilities.behaviour import Behaviour
from perdure.capabilities.port import Capability, schema

LIMIT = 3
"""Default number of repetitions before the agent is warned; after twice as many, the turn fails."""


def _behave(config: Any, behaviour: Behaviour) -> Behaviour:
    return replace(behaviour, loop_limit=int((config or {}).get("limit", LIMIT)))


LOOP_DETECTION = Capability(
    id="loop_detection",
    name="Loop detection",
    description=(
        "Detects when the agent repeats identical tool calls, tells it to try something else, and finally "
        "stops the turn."
    ),
    category="behaviour",
    config_schema=schema(
        {
            "limit": {
                "type": "integer",
                "minimum": 1,
                "maximum": 50,
                "default": LIMIT,
                "description": "Repetitions before the agent is warned.",
            }
        }
    ),
    behave=_behave,
)
