"""`prompt_caching`: whether prompts carry cache marks for the vendor's prompt cache.

Without this capability, marks are sent to the vendors that charge less for marked prompts.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from perdure.capabilities.behaviour import Behaviour
from perdure.capabilities.port import Capability, schema


def _behave(config: Any, behaviour: Behaviour) -> Behaviour:
    return replace(behaviour, prompt_caching=bool((config or {}).get("enabled", True)))


PROMPT_CACHING = Capability(
    id="prompt_caching",
    name="Prompt caching",
    description="Marks the constant part of the prompt for the vendor's prompt cache, or turns marks off.",
    category="behaviour",
    config_schema=schema({"enabled": {"type": "boolean", "default": True}}),
    behave=_behave,
)
