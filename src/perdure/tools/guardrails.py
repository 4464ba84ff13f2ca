"""`guardrails`: checks of the model's answers, its tool calls and the results of tools."""

from __future__ import annotations

from typing import Any

from perdure.capabilities.port import Capability, schema
from perdure.domain.guardrail_checks import GUARDRAILS
from perdure.domain.guardrail_config import read_config, stored_checks
from perdure.domain.guardrail_schema import checks_schema
from perdure.domain.messages import JsonObject


def _both(before: Any, after: Any) -> JsonObject:
    """All checks of both, each once."""
    checks = [*(before or {}).get("checks", ()), *(after or {}).get("checks", ())]
    return {"checks": [each for index, each in enumerate(checks) if each not in checks[:index]]}


GUARDRAILS_CAPABILITY = Capability(
    id=GUARDRAILS,
    name="Guardrails",
    description=(
        "Checks what the model answers, the tools that it calls and what they return: patterns, block lists, "
        "personal data, URLs, moderation, or a model as a judge. What a check blocks is neither stored nor "
        "shown."
    ),
    category="safety",
    config_schema=schema({"checks": checks_schema()}),
    read=read_config,
    checks=stored_checks,
    merge=_both,
)
