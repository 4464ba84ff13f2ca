"""Trials of guardrails, without a session."""

from __future__ import annotations

import asyncio
import time

import msgspec

from perdure.domain.guardrail_checks import type_of
from perdure.domain.guardrail_config import check_config
from perdure.domain.guardrail_text import texts_in
from perdure.domain.guardrail_trials import (
    DryRunGuardrails,
    GuardrailNotRun,
    GuardrailsDryRun,
    GuardrailsDryRunHit,
)
from perdure.domain.guardrails import Guardrails, Hit, arguments_text
from perdure.domain.messages import JsonValue

SECONDS = 5.0
"""How long the checks of a dry run may take. What is not searched by then counts as a hit, as in sessions."""

MAX_TEXTS = 1_000
"""Texts in a JSON value that are searched one by one. More are searched as one text."""


async def dry_run(body: DryRunGuardrails) -> GuardrailsDryRun:
    """Check a text with the local checks of a configuration. Stores nothing, and calls no service.

    Raises:
        InvalidInput: the configuration is not valid.
    """
    return await asyncio.to_thread(_dry_run, body)


def _dry_run(body: DryRunGuardrails) -> GuardrailsDryRun:
    rules = Guardrails(check_config(body.config, "config").checks)
    hits = _hits(rules, body)
    return GuardrailsDryRun(
        tuple(_shown(hit) for hit in hits),
        any(hit.action == "block" for hit in hits),
        tuple(GuardrailNotRun(each.index, each.id, type_of(each.check)) for each in rules.remote(body.stage)),
    )


def _hits(rules: Guardrails, body: DryRunGuardrails) -> list[Hit]:
    """What a session would find: in JSON, each text is searched as it is, and all of it as it is written."""
    end = time.monotonic() + SECONDS

    def scan(text: str) -> tuple[Hit, ...]:
        return rules.scan(body.stage, text, body.tool_name, expired=lambda: time.monotonic() > end)

    value = None if body.stage == "output" else _json_of(body.text)
    if value is None:
        return list(scan(body.text))
    texts = list(texts_in(value))
    found = [hit for text in (texts if len(texts) <= MAX_TEXTS else ["\n".join(texts)]) for hit in scan(text)]
    known = {hit.check_index for hit in found}
    found += [hit for hit in scan(arguments_text(value)) if hit.check_index not in known]
    # A check that looks at no text has one hit, however many texts there are.
    once = {hit.check_index: hit for hit in reversed(found) if hit.matched is None}
    found = [hit for hit in found if once.get(hit.check_index, hit) is hit]
    return sorted(found, key=lambda hit: hit.check_index)


def _json_of(text: str) -> JsonValue:
    """The object or the list that a text means; None for any other text."""
    try:
        value: JsonValue = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None


def _shown(hit: Hit) -> GuardrailsDryRunHit:
    return GuardrailsDryRunHit(
        hit.check_index,
        hit.check_id,
        hit.stage,
        hit.rule_type,
        hit.action,
        hit.reason_code,
        hit.matched,
        hit.replacement,
    )
