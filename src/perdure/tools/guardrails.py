"""`guardrails`: checks of the model's answers, its tool calls and the results of tools."""

from __future__ import annotations

from typing import Any

import msgspec

from perdure.capabilities.port import Capability, schema
from perdure.domain.errors import InvalidInput
from perdure.domain.guardrail_checks import GUARDRAILS, AnyCheck, GuardrailsConfig
from perdure.domain.guardrail_schema import checks_schema
from perdure.domain.messages import JsonObject


def _checks(config: Any) -> tuple[AnyCheck, ...]:
    """The checks of a configuration. Raises InvalidInput: a release with other checks has stored it."""
    try:
        return msgspec.convert(config or {}, GuardrailsConfig).checks
    except msgspec.ValidationError as error:
        raise InvalidInput(
            f"the configuration of `{GUARDRAILS}` is not valid: {error}; change it",
            code="invalid_capability_config",
        ) from None


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
    checks=_checks,
    merge=_both,
)
