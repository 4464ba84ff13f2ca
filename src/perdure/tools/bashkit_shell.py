"""`bashkit_shell`: bash on the session's files, in a sandbox without access to the host."""

from __future__ import annotations

import asyncio
from functools import partial

from perdure.app.context import Services
from perdure.app.shell_changes import Changes, Saved
from perdure.app.shell_files import after_command, before_command, files_size
from perdure.capabilities.port import Capability, Tool, ToolContext, ToolOutcome, schema
from perdure.domain.data_flow import Flow
from perdure.domain.files import content_of
from perdure.domain.messages import JsonObject
from perdure.domain.paths import MOUNT
from perdure.domain.redaction import Redactor
from perdure.domain.tools import ToolHints
from perdure.net.addresses import SystemResolver
from perdure.sandbox.shell import CommandResult, Differences, ShellDone, ShellJob
from perdure.tools.command_answers import answer_of, few
from perdure.tools.shell_network import network_for

DEFAULT_TIMEOUT = 30
MAX_TIMEOUT = 120
"""Seconds that a command may run."""

MAX_COMMAND = 100_000
"""Characters of one command."""


def bashkit_shell(services: Services) -> Capability:
    """Create the capability, with its tool bound to the services."""
    tool = _bash_tool(services)
    return Capability(
        id="bashkit_shell",
        name="Shell",
        description=(
            "Gives the agent bash over the session's files, in a sandbox that has no access to the host."
        ),
        category="files",
        features=("file_system",),
        dependencies=("session_file_system",),
        aliases=("virtual_bash",),
        tools=lambda config: (tool,),
    )


async def _bash(services: Services, context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    seconds, session_id = float(arguments.get("timeout") or DEFAULT_TIMEOUT), context.session_id
    network, notes = await network_for(context.network, arguments["command"], SystemResolver())
    size = await files_size(services, context, session_id)
    owners = (context.org_id, session_id)
    async with services.sandbox.slot(owners, size, background=context.in_background):
        held, state = await before_command(services, context, session_id)
        job = ShellJob(arguments["command"], held.files, held.folders, state, network, seconds)
        done = await services.sandbox.run(job, ShellDone, seconds, context.output)
        changes, result = await asyncio.to_thread(_changes, done.differences), done.result
        saved = Saved()
        # The next command goes on where the last one of the turn has left off, not where this one does.
        kept = None if context.in_background else result.state
        fresh = kept if kept != state else None
        if changes or fresh is not None:
            saved = await after_command(services, context, session_id, held, changes, fresh, context.guarded)
    answer = _answer(result, [*notes, *held.notes(), *saved.notes], done.differences, context.redactor)
    return ToolOutcome(answer, saved.events)


def _changes(changed: Differences) -> Changes:
    written = {path: content_of(content) for path, content in changed.written.items()}
    return Changes(
        written,
        changed.removed,
        changed.removed_folders,
        changed.made_folders,
    )


def _answer(
    result: CommandResult, remarks: list[str], changed: Differences, redactor: Redactor
) -> JsonObject:
    links = [
        f"{MOUNT}{path} is a link, and links are not kept after a command: copy the file, or use its own path"
        for path in changed.links
    ]
    notes = few(remarks, links)
    if result.truncated:
        notes.append("the output was too long and was truncated")
    if result.state is None:
        notes.append(
            "the command's changes to variables, functions and the current folder could not be kept: they "
            "are as before it"
        )
    return answer_of(result, notes, redactor)


def _bash_tool(services: Services) -> Tool:
    return Tool(
        name="bash",
        display_name="Shell",
        description=(
            f"Run a bash command. The session's files are in {MOUNT}: /notes.md of the file tools is "
            f"{MOUNT}/notes.md here. Changes there, the current folder, variables and functions are kept for "
            "the next command; everything else, including /tmp, is lost when the command ends. The usual "
            "text tools are available (grep, sed, awk, jq, sort, find, tar ...), but no other programs, and "
            "nothing keeps running in the background."
        ),
        parameters=schema(
            {
                "command": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": MAX_COMMAND,
                    "description": "The command to run; may be a script.",
                },
                "timeout": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": MAX_TIMEOUT,
                    "description": f"Seconds the command may take; {DEFAULT_TIMEOUT} if left out.",
                },
            },
            "command",
        ),
        run=partial(_bash, services),
        hints=ToolHints(readonly=False, destructive=True, idempotent=False, open_world=True),
        timeout=MAX_TIMEOUT + 20.0,
        background=True,
        flow=Flow(where="named_hosts"),
        reads_files=True,
    )
