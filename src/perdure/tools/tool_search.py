"""`tool_search`: decides which tools the model has to search for, because their definitions fill the prompt.

The search itself is active without this capability: `capabilities/deferred_tools.py`.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from perdure.capabilities.behaviour import Behaviour, ToolSearchRules
from perdure.capabilities.deferred_tools import IDENTIFIER, LABEL
from perdure.capabilities.port import Capability, schema

DEFAULTS = ToolSearchRules()
MAX_ALWAYS = 100
"""Tools that a configuration can name."""


def _behave(config: Any, behaviour: Behaviour) -> Behaviour:
    rules = msgspec.convert(config or {}, ToolSearchRules)
    always = (*behaviour.tool_search.always, *rules.always)
    return replace(behaviour, tool_search=replace(rules, always=always))


TOOL_SEARCH = Capability(
    id=IDENTIFIER,
    name=LABEL,
    description=(
        "Decides which tools the model finds with a search instead of being offered them all. Without this "
        f"capability, the search is active for tools that are `deferred`, and for agents that have more than "
        f"{DEFAULTS.threshold} discovered tools."
    ),
    category="behaviour",
    config_schema=schema(
        {
            "mode": {
                "enum": ["auto", "always", "never"],
                "default": DEFAULTS.mode,
                "description": (
                    "`auto`: tools that are `deferred`, and all discovered ones above the threshold, have to "
                    "be searched. `always`: all discovered tools. `never`: the model is offered all tools."
                ),
            },
            "threshold": {
                "type": "integer",
                "minimum": 0,
                "maximum": 10_000,
                "default": DEFAULTS.threshold,
                "description": "The most discovered tools that the model is offered in the mode `auto`.",
            },
            "always": {
                "type": "array",
                "items": {"type": "string", "minLength": 1, "maxLength": 64},
                "maxItems": MAX_ALWAYS,
                "default": [],
                "description": "The names of tools that the model is offered in any case.",
            },
        }
    ),
    behave=_behave,
)
