"""`bashkit_shell`: bash over the session's files, in a sandbox without a host."""

from __future__ import annotations

import asyncio

from perdure.capabilities.base import ONCE, Capability, Tool, ToolContext, ToolOutcome, schema
from perdure.capabilities.file_reading import MOUNT
from perdure.capabilities.shell_engine import Planted, Ran, look, plant, run_command
from perdure.capabilities.shell_files import Changes, Held, Saved, load, save
from perdure.domain.files import Content, content_of
from perdure.domain.messages import JsonObject
from perdure.store.database import Tx
from perdure.store.shell_states import read_shell_state, write_shell_state

DEFAULT_TIMEOUT = 30
MAX_TIMEOUT = 120
"""Seconds that a command may run."""

MAX_COMMAND = 100_000
"""Characters of one command."""


MAX_NOTES = 20
"""Things that could not be done which the model is told one by one."""


async def _bash(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    seconds = float(arguments.get("timeout") or DEFAULT_TIMEOUT)
    held, state = await context.database.read(lambda tx: _before(tx, context), long=True)
    planted = await asyncio.to_thread(plant, held.files, held.folders)
    ran = await run_command(arguments["command"], planted.tree, state, context.network, seconds, context.output)
    changes = await asyncio.to_thread(_changes, planted, held)
    saved = Saved()
    fresh = ran.state if ran.state is not None and ran.state != state else None
    if changes or fresh is not None:
        saved = await context.database.write(lambda tx: _after(tx, context, held, changes, fresh))
    return ToolOutcome(_answer(ran, saved, planted.unseen), saved.events)


async def _before(tx: Tx, context: ToolContext) -> tuple[Held, str | None]:
    return await load(tx, context), await read_shell_state(tx, context.org_id, context.session_id)


async def _after(tx: Tx, context: ToolContext, held: Held, changes: Changes, state: str | None) -> Saved:
    """Files and state in one transaction: a command has left all its traces, or none."""
    if state is not None:
        await write_shell_state(tx, context.org_id, context.session_id, state, context.now())
    return await save(tx, context, held, changes) if changes else Saved()


def _changes(planted: Planted, held: Held) -> Changes:
    """What is otherwise in the tree than it was in the session's files.

    Contents are compared, not sizes and times: a command may set a file's time as it likes.
    """
    files, folders = look(planted.tree)
    written: dict[str, Content] = {}
    for path in files:
        content = planted.tree.read_file(path)
        if content != held.files.get(path):
            written[path] = content_of(content)
    there = set(files)
    removed = tuple(path for path in held.files if path not in there and path not in planted.unseen)
    gone = tuple(folder for folder in held.folders if folder not in folders and folder not in planted.unseen)
    full = {path.rpartition("/")[0] for path in (*files, *folders)}
    known = set(held.folders)
    made = tuple(sorted(folder for folder in folders if folder not in known and folder not in full))
    return Changes(written, removed, gone, made, planted.unseen)


def _answer(ran: Ran, saved: Saved, unseen: frozenset[str]) -> JsonObject:
    answer: JsonObject = {"exit_code": ran.exit_code}
    if ran.stderr:
        answer["stderr"] = ran.stderr
    notes = [*saved.notes, *(f"{MOUNT}{path} is more than the shell can hold: it cannot see it" for path in sorted(unseen))]
    if len(notes) > MAX_NOTES:
        notes[MAX_NOTES:] = [f"... and the same, or the like, of {len(notes) - MAX_NOTES} more"]
    if ran.truncated:
        notes.append("the output was longer than what is kept of it")
    if ran.state is None:
        notes.append("variables, functions and the folder are as before this command: they are too much to be kept")
    if notes:
        answer["notes"] = notes
    return answer | {"stdout": ran.stdout}


BASH = Tool(
    name="bash",
    display_name="Shell",
    description=(
        f"Run a bash command. The session's files are in {MOUNT}: /notes.md of the file tools is {MOUNT}/notes.md here. Changes there, "
        "the folder, variables and functions last until the next command; all else, /tmp too, goes when the command ends. The usual "
        "text tools are there (grep, sed, awk, jq, sort, find, tar ...), but no other programs, and nothing goes on in the background."
    ),
    parameters=schema(
        {
            "command": {"type": "string", "minLength": 1, "maxLength": MAX_COMMAND, "description": "What to run; may be a script."},
            "timeout": {
                "type": "integer",
                "minimum": 1,
                "maximum": MAX_TIMEOUT,
                "description": f"Seconds it may take; {DEFAULT_TIMEOUT} if left out.",
            },
        },
        "command",
    ),
    run=_bash,
    hints=ONCE,
    timeout=MAX_TIMEOUT + 20.0,
)

BASHKIT_SHELL = Capability(
    id="bashkit_shell",
    name="Shell",
    description="Gives the agent bash over the session's files, in a sandbox that has no access to the host.",
    category="files",
    features=("file_system",),
    dependencies=("session_file_system",),
    aliases=("virtual_bash",),
    tools=lambda config: (BASH,),
)
