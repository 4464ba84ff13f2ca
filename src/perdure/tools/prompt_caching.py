"""`prompt_caching`: whether prompts are marked for the vendor's cache.

Without it, vendors that charge less for marks get them.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from perdure.capabilities.port import Behaviour, Capability, schema


def _behave(config: Any, behaviour: Behaviour) -> Behaviour:
    return replace(behaviour, prompt_caching=bool((config or {}).get("enabled", True)))


PROMPT_CACHING = Capability(
    id="prompt_caching",
    name="Prompt caching",
    description="Marks the unchanging part of the prompt for the vendor's cache, or keeps it unmarked.",
    category="behaviour",
    config_schema=schema({"enabled": {"type": "boolean", "default": True}}),
    behave=_behave,
)
