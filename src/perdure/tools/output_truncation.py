"""`output_truncation`: how much of a tool's output the model is shown.

The whole is kept in a file of the session.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from perdure.capabilities.port import TOOL_OUTPUT, Behaviour, Capability, schema

SHOWN = 16_000
"""Characters that are shown, unless the configuration says otherwise: some 4,000 tokens."""
HEAD = 0.5
"""Share of them that comes from the beginning."""


def _behave(config: Any, behaviour: Behaviour) -> Behaviour:
    given = config or {}
    return replace(
        behaviour,
        output_limit=int(given.get("max_characters", SHOWN)),
        output_head=float(given.get("head", HEAD)),
    )


OUTPUT_TRUNCATION = Capability(
    id="output_truncation",
    name="Output truncation",
    description=(
        "Shows the model less of long outputs of tools: their beginning and end. The whole goes to a file "
        "of the session, which the "
        "agent can read and search."
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
                "description": "Characters of an output that are shown.",
            },
            "head": {
                "type": "number",
                "minimum": 0,
                "maximum": 1,
                "default": HEAD,
                "description": "Share of them that comes from the beginning; the rest comes from the end.",
            },
        }
    ),
    behave=_behave,
)
