"""The system prompt of a turn, with what capabilities have to look up for it."""

from __future__ import annotations

from msgspec.structs import replace

from perdure.capabilities.assembly import system_prompt
from perdure.capabilities.port import PromptContext
from perdure.capabilities.prompts import read_prompts
from perdure.engine.assemble import Assembly
from perdure.engine.run import Run


async def with_read_prompts(run: Run, assembly: Assembly) -> Assembly:
    """The assembly with the system prompt as it is now.

    The same one, at no cost, when no capability has to look.

    Raises:
        PerdureError: a retryable one, when the database is away.
    """
    if not any(section.reads for section in assembly.sections):
        return assembly
    engine, row = run.engine, run.row
    context = PromptContext(
        org_id=row.org_id,
        session_id=row.id,
        workspace_id=row.workspace(),
        database=engine.database,
        now=engine.clock.now,
        redactor=run.redactor,
        locale=row.locale,
    )
    return replace(
        assembly, system=system_prompt(assembly.sections, await read_prompts(assembly.active, context))
    )
