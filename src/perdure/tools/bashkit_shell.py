"""`bashkit_shell`: bash over the session's files, in a sandbox without a host."""

from __future__ import annotations

import asyncio
from functools import partial

from perdure.app.context import Services
from perdure.app.shell_files import Changes, Saved, after_command, before_command, files_size
from perdure.capabilities.port import Capability, Tool, ToolContext, ToolOutcome, schema
from perdure.domain.files import content_of
from perdure.domain.messages import JsonObject
from perdure.domain.network import NetworkRules
from perdure.domain.paths import MOUNT
from perdure.domain.redaction import Redactor
from perdure.domain.tools import ToolHints
from perdure.net.addresses import is_refused_host, plain_address
from perdure.sandbox.shell import Differences, Network, Ran, ShellDone, ShellJob

DEFAULT_TIMEOUT = 30
MAX_TIMEOUT = 120
"""Seconds that a command may run."""

MAX_COMMAND = 100_000
"""Characters of one command."""


MAX_NOTES = 20
"""Things that could not be done which the model is told one by one."""


def bashkit_shell(services: Services) -> Capability:
    """The capability, with its tool bound to the services."""
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
    size = await files_size(services, context, session_id)
    async with services.sandbox.place((context.org_id, session_id), size):
        held, state = await before_command(services, context, session_id)
        job = ShellJob(
            arguments["command"], held.files, held.folders, state, network_for(context.network), seconds
        )
        done = await services.sandbox.run(job, ShellDone, seconds, context.output)
        changes, ran = await asyncio.to_thread(_changes, done.differences), done.ran
        saved = Saved()
        fresh = ran.state if ran.state is not None and ran.state != state else None
        if changes or fresh is not None:
            saved = await after_command(services, context, session_id, held, changes, fresh)
    return ToolOutcome(_answer(ran, saved, done.differences, context.redactor), saved.events)


def _changes(found: Differences) -> Changes:
    written = {path: content_of(content) for path, content in found.written.items()}
    return Changes(written, found.removed, found.removed_folders, found.made_folders, frozenset(found.unseen))


def network_for(rules: NetworkRules) -> Network | None:
    """What the sandbox is told of the network: nothing, unless hosts are allowed by name.

    It knows no patterns.
    """
    names = [
        name
        for name in rules.named()
        if not is_refused_host(name) and (rules.private or plain_address(name) is None)
    ]
    if not names:
        return None
    hosts = [f"[{name}]" if ":" in name else name for name in names]
    return Network(
        [f"{scheme}://{host}" for host in hosts for scheme in ("https", "http")],
        block_private_ips=not rules.private,
    )


def _answer(ran: Ran, saved: Saved, found: Differences, redactor: Redactor) -> JsonObject:
    stdout, stderr = ran.stdout, ran.stderr
    if ran.truncated:
        stdout, stderr = redactor.text(stdout, cut=True), redactor.text(stderr, cut=True)
    answer: JsonObject = {"exit_code": ran.exit_code}
    if stderr:
        answer["stderr"] = stderr
    notes = [
        *saved.notes,
        *(
            f"{MOUNT}{path} is more than the shell can hold, or has a name that it does not take: it "
            "cannot see it"
            for path in found.unseen
        ),
    ]
    notes += [
        f"{MOUNT}{path} is a link, and gone with this command: make a copy, or go by the file's own path"
        for path in found.links
    ]
    if len(notes) > MAX_NOTES:
        notes[MAX_NOTES:] = [f"... and the same, or the like, of {len(notes) - MAX_NOTES} more"]
    if ran.truncated:
        notes.append("the output was longer than what is kept of it")
    if ran.state is None:
        notes.append(
            "variables, functions and the folder are as before this command: what it left of them cannot "
            "be kept"
        )
    if notes:
        answer["notes"] = notes
    return answer | {"stdout": stdout}


def _bash_tool(services: Services) -> Tool:
    return Tool(
        name="bash",
        display_name="Shell",
        description=(
            f"Run a bash command. The session's files are in {MOUNT}: /notes.md of the file tools is "
            f"{MOUNT}/notes.md here. Changes there, "
            "the folder, variables and functions last until the next command; all else, /tmp too, goes "
            "when the command ends. The usual "
            "text tools are there (grep, sed, awk, jq, sort, find, tar ...), but no other programs, and "
            "nothing goes on in the background."
        ),
        parameters=schema(
            {
                "command": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": MAX_COMMAND,
                    "description": "What to run; may be a script.",
                },
                "timeout": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": MAX_TIMEOUT,
                    "description": f"Seconds it may take; {DEFAULT_TIMEOUT} if left out.",
                },
            },
            "command",
        ),
        run=partial(_bash, services),
        hints=ToolHints(readonly=False, destructive=True, idempotent=False, open_world=True),
        timeout=MAX_TIMEOUT + 20.0,
    )
