"""`loop_detection`: an agent that makes the same calls again and again is told so, and then stopped."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from perdure.capabilities.port import Behaviour, Capability, schema

LIMIT = 3
"""Repetitions before the agent is told, unless the configuration says otherwise; after twice as many the turn
fails."""


def _behave(config: Any, behaviour: Behaviour) -> Behaviour:
    return replace(behaviour, loop_limit=int((config or {}).get("limit", LIMIT)))


LOOP_DETECTION = Capability(
    id="loop_detection",
    name="Loop detection",
    description=(
        "Notices when the agent repeats the very same tool calls, tells it to try something else, and at "
        "last stops the turn."
    ),
    category="behaviour",
    config_schema=schema(
        {
            "limit": {
                "type": "integer",
                "minimum": 1,
                "maximum": 50,
                "default": LIMIT,
                "description": "Repetitions before it is told.",
            }
        }
    ),
    behave=_behave,
)
