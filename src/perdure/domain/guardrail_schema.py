"""The JSON Schema of the checks of guardrails, for clients.

It is flat: one object with the fields of all types. So forms can be made of it, and an error of a validator
names the field that is wrong, instead of saying that a check is none of seven kinds.
"""

from __future__ import annotations

from typing import Any, get_args

import msgspec

from perdure.domain.guardrail_checks import MAX_CHECKS, GuardrailsConfig, GuardrailStage
from perdure.domain.messages import JsonObject


def checks_schema() -> JsonObject:
    """The schema of `checks`."""
    _, components = msgspec.json.schema_components([GuardrailsConfig], ref_template="{name}")
    items = components["GuardrailsConfig"]["properties"]["checks"]["items"]
    kinds: dict[str, Any] = items["discriminator"]["mapping"]
    found: dict[str, JsonObject] = {}
    users: dict[str, list[str]] = {}
    for kind, name in kinds.items():
        for field, own in components[name]["properties"].items():
            found.setdefault(field, own)
            users.setdefault(field, []).append(kind)
    for field, kinds_of in users.items():
        if len(kinds_of) < len(kinds):
            text = found[field].get("description", "")
            found[field] = {**found[field], "description": f"{text} (Only of {', '.join(kinds_of)}.)".strip()}
    stages = sorted(get_args(GuardrailStage))
    found["stage"] = {
        **{key: value for key, value in found["stage"].items() if key != "anyOf"},
        "type": ["string", "array"],
        "pattern": f"^({'|'.join(stages)})$",
        "items": {"enum": stages},
        "minItems": 1,
        "maxItems": len(stages),
    }
    found["type"] = {"type": "string", "enum": sorted(kinds), "description": "What kind of check it is."}
    return {
        "type": "array",
        "description": "The checks. Those of all layers apply; no layer takes away another's.",
        "maxItems": MAX_CHECKS,
        "items": {"type": "object", "properties": found, "required": ["type"], "additionalProperties": False},
    }
