"""`code_interpreter`: Python on the session's files, in a place that the operator has configured."""

from __future__ import annotations

import asyncio
from functools import partial

from msgspec.structs import replace

from perdure.app.context import Services
from perdure.app.shell_changes import Changes, Saved
from perdure.app.shell_files import after_command, before_command, files_size
from perdure.capabilities.port import Capability, Tool, ToolContext, ToolOutcome, ToolRun, schema
from perdure.domain.code import CodeJob, CodeLimits, CodeResult
from perdure.domain.data_flow import Flow
from perdure.domain.errors import InvalidInput, ToolError
from perdure.domain.files import content_of
from perdure.domain.messages import JsonObject
from perdure.domain.paths import MOUNT, clean_path
from perdure.domain.tools import ToolHints
from perdure.sandbox.pool import Sandbox
from perdure.tools.command_answers import answer_of, few

DEFAULT_TIMEOUT = 30
"""Seconds that code may run if the call does not say."""

MAX_CODE = 200_000
"""Characters of one program."""

AT_ONCE, SHARES = 4, (3, 2)
"""Programs that run at the same time: in total, of one organization, and of one session."""

WAIT = 60.0
"""Seconds of a call beyond the program's own: to wait for a turn, to start, and to keep its files."""

OFF = (
    "Code execution is turned off on this server: its operator has to set PERDURE_CODE_INTERPRETER. Do not "
    "try again; do without running code, and tell the user."
)
_STOPPED = {
    "time": "the code was stopped: it did not end within {seconds} seconds",
    "memory": "the code was stopped: it used more than {megabytes} MB of memory",
    "files": "the code was stopped: it left more than {entries} files. No file was changed",
}


def code_interpreter(services: Services | None) -> Capability:
    """Create the capability, with its tool bound to the services; None is for documentation only."""
    place = None if services is None else services.code
    off = services is not None and place is None
    limits = CodeLimits() if place is None else place.limits
    tool = _tool(
        partial(_run_python, services, Sandbox(AT_ONCE, None if services is None else services.metrics)),
        limits,
    )
    if place is not None and place.has_network:
        tool = replace(tool, flow=Flow(where="any_host"))
    description = (
        "Lets the agent run Python on the session's files, isolated from the server and from the network."
    )
    if off:
        description += (
            " Turned off on this server: its operator has to set PERDURE_CODE_INTERPRETER, and until then "
            "every call fails."
        )
    return Capability(
        id="code_interpreter",
        name="Code interpreter",
        description=description,
        category="files",
        features=("file_system",),
        dependencies=("session_file_system",),
        tools=lambda config: (tool,),
    )


async def _run_python(
    services: Services | None, turns: Sandbox, context: ToolContext, arguments: JsonObject
) -> ToolOutcome:
    place, session_id = None if services is None else services.code, context.session_id
    if services is None or place is None:
        raise ToolError(OFF)
    limits, notes = place.limits, list[str]()
    seconds = min(int(arguments.get("timeout") or DEFAULT_TIMEOUT), limits.seconds)
    restricted = bool(context.network.allowed or context.network.blocked)
    if place.has_network and restricted:
        notes.append("the code had no network: this session may not reach every host")
    size = await files_size(services, context, session_id)
    owners = (context.org_id, session_id)
    async with turns.slot(owners, size, SHARES, background=context.in_background):
        held, _ = await before_command(services, context, session_id)
        job = CodeJob(
            arguments["code"],
            held.files,
            held.folders,
            seconds,
            context.effect_key,
            place.has_network and not restricted,
        )
        result = await place.run(job, context.output)
        result, invalid = _without_invalid(result)
        changes, saved = await asyncio.to_thread(_changes, result), Saved()
        if changes:
            saved = await after_command(services, context, session_id, held, changes, None, context.guarded)
    notes = few(notes, held.notes(), invalid, saved.notes, *_notes(result, limits, seconds))
    return ToolOutcome(answer_of(result, notes, context.redactor), saved.events)


def _without_invalid(result: CodeResult) -> tuple[CodeResult, list[str]]:
    """Leave out what no workspace can hold, which not every database can look up; the notes say what."""
    notes = [
        f"{path} was not written: its path is not valid in a workspace"
        for path in (*result.written, *result.made_folders)
        if not _is_clean(path)
    ]
    kept = replace(
        result,
        written={path: content for path, content in result.written.items() if _is_clean(path)},
        removed=tuple(filter(_is_clean, result.removed)),
        removed_folders=tuple(filter(_is_clean, result.removed_folders)),
        made_folders=tuple(filter(_is_clean, result.made_folders)),
    )
    return kept, notes


def _is_clean(path: str) -> bool:
    try:
        return clean_path(path) == path
    except InvalidInput:
        return False


def _changes(result: CodeResult) -> Changes:
    return Changes(
        {path: content_of(content) for path, content in result.written.items()},
        result.removed,
        result.removed_folders,
        result.made_folders,
    )


def _notes(result: CodeResult, limits: CodeLimits, seconds: int) -> tuple[list[str], ...]:
    ended = []
    if result.stopped in _STOPPED:
        ended.append(
            _STOPPED[result.stopped].format(
                seconds=seconds, megabytes=limits.memory_bytes >> 20, entries=limits.entries
            )
        )
    elif not result.complete:
        ended.append(f"only the first {limits.entries} files that the code left were looked at")
    links = [
        f"{MOUNT}{path} is a link, and links are not kept: copy the file, or use its own path"
        for path in result.links
    ]
    odd = [
        f"{MOUNT}{path} was not kept: it is too large, no regular file, or its name is not supported"
        for path in result.odd
    ]
    cut = [f"the output was longer than {limits.output_bytes} bytes and was truncated"]
    return ended, links, odd, cut if result.truncated else []


def _tool(run: ToolRun, limits: CodeLimits) -> Tool:
    longest = limits.seconds
    return Tool(
        name="run_python",
        display_name="Run Python",
        description=(
            f"Run a Python program and get what it prints. The session's files are in {MOUNT}, its current "
            f"folder: /notes.md of the file tools is {MOUNT}/notes.md here. Files that it writes there are "
            "kept; variables and everything else, including /tmp, are lost when it ends. Print what you want "
            "to see. It has the standard library, and other packages only if the operator has installed "
            "them; by default it has no network."
        ),
        parameters=schema(
            {
                "code": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": MAX_CODE,
                    "description": "The program.",
                },
                "timeout": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": longest,
                    "description": f"Seconds it may take; {min(DEFAULT_TIMEOUT, longest)} if left out.",
                },
            },
            "code",
        ),
        run=run,
        hints=ToolHints(readonly=False, destructive=True, idempotent=False, open_world=False),
        timeout=longest + WAIT,
        background=True,
        reads_files=True,
    )
