"""What capabilities have to look at the session for before they can say it in its prompt."""

from __future__ import annotations

import asyncio
import logging

from msgspec.structs import replace

from perdure.capabilities.assembly import system_prompt
from perdure.capabilities.base import READING_OUTPUT, READING_TIMEOUT, PromptContext
from perdure.capabilities.registry import Active
from perdure.domain.errors import PerdureError
from perdure.engine.assemble import Assembly
from perdure.engine.run import Run

log = logging.getLogger("perdure.prompts")

UNREAD = "(What belongs here could not be read just now.)"
"""What the model is told when a capability fails: a turn does not fail for it, and nothing goes missing unsaid."""


async def read_prompts(run: Run, assembly: Assembly) -> Assembly:
    """The assembly with the system prompt as it is now; the same one, at no cost, when no capability has to look.

    Raises:
        PerdureError: a retryable one, when the database is away.
    """
    readers = [each for each in assembly.active if each.capability.read_prompt is not None]
    if not readers:
        return assembly
    context = _context(run)
    said = {each.capability.id: await _read(each, context) for each in readers}
    return replace(assembly, system=system_prompt(assembly.sections, said))


async def _read(active: Active, context: PromptContext) -> str:
    read = active.capability.read_prompt
    if read is None:
        return ""
    try:
        said = context.redact(str(await asyncio.wait_for(read(active.config, context), READING_TIMEOUT) or ""))
    except Exception as failure:
        if isinstance(failure, PerdureError) and failure.retryable:
            raise
        log.exception("the capability %s could not read what it says to the model", active.capability.id)
        return UNREAD
    left = len(said) - READING_OUTPUT
    return said if left <= 0 else f"{said[:READING_OUTPUT]}\n[... {left} characters left out ...]"


def _context(run: Run) -> PromptContext:
    engine, row = run.engine, run.row
    return PromptContext(
        org_id=row.org_id,
        session_id=row.id,
        workspace_id=row.workspace(),
        database=engine.database,
        now=engine.clock.now,
        redact=run.redactor.text,
        locale=row.locale,
    )
