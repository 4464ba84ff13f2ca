"""Configurations of guardrails to start from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from perdure.domain.guardrail_checks import GuardrailsConfig, type_of
from perdure.domain.guardrail_trials import GuardrailExample, GuardrailExamples
from perdure.domain.messages import JsonObject

_EVERYWHERE = ["output", "tool_use", "tool_output"]

_EXAMPLES: Mapping[str, tuple[str, str, tuple[str, ...], list[JsonObject]]] = {
    "card_numbers": (
        "Card and account numbers",
        "Blocks answers that have the number of a payment card or an IBAN whose check digits are right.",
        ("privacy", "finance"),
        [{"type": "pii", "id": "card_numbers", "kinds": ["credit_card", "iban"]}],
    ),
    "mask_personal_data": (
        "Mask personal data",
        "Replaces personal data in answers and in what tools return, before the model reads it.",
        ("privacy",),
        [
            {
                "type": "pii",
                "id": "personal_data",
                "stage": ["output", "tool_output"],
                "action": "replace",
                "replacement": "[personal data]",
            }
        ],
    ),
    "national_ids": (
        "National identification numbers",
        "Blocks the numbers of some countries everywhere, among them those that are found only if named.",
        ("privacy", "government"),
        [
            {
                "type": "pii",
                "id": "national_ids",
                "stage": _EVERYWHERE,
                "kinds": ["national_id"],
                "countries": ["us", "ca", "gb", "nl"],
            }
        ],
    ),
    "api_keys": (
        "Keys and tokens",
        "Replaces keys of well-known services and private keys in answers and tool calls.",
        ("security", "secrets"),
        [
            {
                "type": "regex",
                "id": "api_keys",
                "stage": _EVERYWHERE,
                "action": "replace",
                "replacement": "[key]",
                "pattern": (
                    r"\b(?:sk-[A-Za-z0-9_-]{20,100}|AKIA[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{36,100}"
                    r"|xox[abprs]-[A-Za-z0-9-]{10,100}|AIza[A-Za-z0-9_-]{35})"
                ),
            },
            {
                "type": "regex",
                "id": "private_keys",
                "stage": _EVERYWHERE,
                "pattern": r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----",
            },
        ],
    ),
    "profanity": (
        "Words that must not be said",
        "Replaces the words of a list in answers, whatever their case. Put your own words in.",
        ("tone",),
        [
            {
                "type": "blocklist",
                "id": "words",
                "action": "replace",
                "replacement": "***",
                "words": ["damn", "bloody hell"],
            }
        ],
    ),
    "competitors": (
        "Names of competitors",
        "Notes answers that name a competitor, and changes nothing.",
        ("brand",),
        [{"type": "blocklist", "id": "competitors", "action": "log", "words": ["Example Rival", "Acme"]}],
    ),
    "own_links_only": (
        "Links to own sites only",
        "Removes links and images of other hosts from answers, so that none can carry data away.",
        ("security", "exfiltration"),
        [
            {
                "type": "url_allowlist",
                "id": "own_links",
                "action": "replace",
                "replacement": "[link]",
                "hosts": ["example.com", "*.example.com"],
            }
        ],
    ),
    "destructive_commands": (
        "Destructive shell commands",
        "Asks a person before a command that deletes much or rewrites what others share.",
        ("security", "approval"),
        [
            {
                "type": "tool_pattern",
                "id": "destructive_commands",
                "stage": "tool_use",
                "action": "ask",
                "tool": "bash",
                "pattern": r"\brm\s+-[a-z]*[rf]|\bgit\s+push\s+.*--force|\bmkfs\b|\bdd\s+if=",
            }
        ],
    ),
    "read_only_sql": (
        "No changes by SQL",
        "Blocks statements that change a database, in every tool whose name begins with `sql`.",
        ("security", "data"),
        [
            {
                "type": "tool_pattern",
                "id": "read_only_sql",
                "stage": "tool_use",
                "tool": "sql*",
                "pattern": r"\b(?:insert|update|delete|drop|alter|truncate|create)\b",
                "ignore_case": True,
            }
        ],
    ),
    "no_outside_tools": (
        "Tools that must not be called",
        "Blocks all tools of one MCP server, whatever their arguments.",
        ("security",),
        [{"type": "tool_pattern", "id": "no_payments", "stage": "tool_use", "tool": "mcp_payments__*"}],
    ),
    "prompt_injection": (
        "Instructions in tool results",
        "Notes results of tools that talk to the model, and withholds those that give it orders.",
        ("security", "prompt-injection"),
        [
            {
                "type": "regex",
                "id": "orders",
                "stage": "tool_output",
                "ignore_case": True,
                "replacement": "[A result that gives orders was withheld.]",
                "pattern": (
                    r"(?:ignore|disregard|forget)\s{1,4}(?:all\s{1,4}|any\s{1,4})?(?:previous|prior|above)"
                    r"\s{1,4}(?:instructions|prompts|rules)"
                ),
            },
            {
                "type": "blocklist",
                "id": "talk",
                "stage": "tool_output",
                "action": "log",
                "words": ["system prompt", "you are now", "as an AI"],
            },
        ],
    ),
    "system_prompt_leak": (
        "The system prompt",
        "Blocks answers that quote a secret mark which you put into the system prompt.",
        ("security",),
        [{"type": "blocklist", "id": "canary", "words": ["canary-7f3a91"], "whole_words": False}],
    ),
    "moderation": (
        "Moderation",
        "Has each answer checked by a moderation service before anybody sees it.",
        ("safety",),
        [
            {
                "type": "moderation",
                "id": "moderation",
                "url": "https://moderation.example.com/v1/moderations",
                "model": "omni-moderation-latest",
                "replacement": "I cannot help with that.",
            }
        ],
    ),
    "no_advice": (
        "A judge: no medical or legal advice",
        "Has a model judge each answer by a policy in words.",
        ("safety", "compliance"),
        [
            {
                "type": "judge",
                "id": "no_advice",
                "policy": (
                    "The answer must not diagnose an illness, recommend a treatment or a dose, or say what "
                    "somebody should do in a lawsuit. General knowledge is fine."
                ),
                "replacement": "Please ask a professional about this.",
            }
        ],
    ),
}


def guardrail_examples() -> GuardrailExamples:
    """All examples."""
    return GuardrailExamples(
        tuple(
            _example(name, title, about, tags, {"checks": checks})
            for name, (title, about, tags, checks) in _EXAMPLES.items()
        )
    )


def _example(
    name: str, title: str, about: str, tags: tuple[str, ...], config: JsonObject
) -> GuardrailExample:
    checks = msgspec.convert(config, GuardrailsConfig).checks
    types = tuple(dict.fromkeys(map(type_of, checks)))
    stages = tuple(dict.fromkeys(stage for check in checks for stage in check.stages))
    egress: Literal["none", "model", "service"] = "none"
    if "moderation" in types:
        egress = "service"
    elif "judge" in types:
        egress = "model"
    return GuardrailExample(name, title, about, tags, types, stages, egress, config)
