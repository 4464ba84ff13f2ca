"""`output_truncation`: limits how much of a tool's output the model sees.

The full output is kept in a file of the session.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from perdure.capabilities.behaviour import Behaviour
from perdure.capabilities.port import TOOL_OUTPUT, Capability, schema

SHOWN = 16_000
"""Characters shown by default: about 4,000 tokens."""
HEAD = 0.5
"""Share of the shown characters that comes from the beginning of the output."""


def _behave(config: Any, behaviour: Behaviour) -> Behaviour:
    settings = config or {}
    return replace(
        behaviour,
        output_limit=int(settings.get("max_characters", SHOWN)),
        output_head=float(settings.get("head", HEAD)),
    )


OUTPUT_TRUNCATION = Capability(
    id="output_truncation",
    name="Output truncation",
    description=(
        "Shows the model only the beginning and end of a long tool output. The full output goes to a file of "
        "the session, which the agent can read and search."
    ),
    category="behaviour",
    features=("file_system",),
    dependencies=("session_file_system",),
    config_schema=schema(
        {
            "max_characters": {
                "type": "integer",
                "minimum": 1_000,
                "maximum": TOOL_OUTPUT,
                "default": SHOWN,
                "description": "Characters shown of an output.",
            },
            "head": {
                "type": "number",
                "minimum": 0,
                "maximum": 1,
                "default": HEAD,
                "description": "Share of these characters from the beginning; the rest is from the end.",
            },
        }
    ),
    behave=_behave,
)
