"""What capabilities have to look at the session for before they can say it in its prompt."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from perdure.capabilities.port import READING_OUTPUT, READING_TIMEOUT, PromptContext
from perdure.capabilities.registry import Active
from perdure.domain.errors import PerdureError

log = logging.getLogger("perdure.prompts")

UNREAD = "(What belongs here could not be read just now.)"
"""What the model is told when a capability fails: a turn does not fail for it, and nothing goes missing
unsaid."""


async def read_prompts(active: Iterable[Active], context: PromptContext) -> dict[str, str]:
    """What those of these capabilities say that have to look first, by id.

    Raises:
        PerdureError: a retryable one, when the database is away.
    """
    return {
        each.capability.id: await _read(each, context)
        for each in active
        if each.capability.read_prompt is not None
    }


async def _read(active: Active, context: PromptContext) -> str:
    read = active.capability.read_prompt
    if read is None:
        return ""
    try:
        said = context.redactor.text(
            str(await asyncio.wait_for(read(active.config, context), READING_TIMEOUT) or "")
        )
    except Exception as failure:
        if isinstance(failure, PerdureError) and failure.retryable:
            raise
        log.exception("the capability %s could not read what it says to the model", active.capability.id)
        return UNREAD
    left = len(said) - READING_OUTPUT
    return said if left <= 0 else f"{said[:READING_OUTPUT]}\n[... {left} characters left out ...]"
