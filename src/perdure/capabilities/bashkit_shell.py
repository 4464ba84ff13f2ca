"""`bashkit_shell`: bash over the session's files, in a sandbox without a host."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from perdure.capabilities.base import ONCE, Capability, Tool, ToolContext, ToolOutcome, schema
from perdure.capabilities.shell_engine import HOME, Ran, Stamp, look, plant, run_command
from perdure.capabilities.shell_files import Changes, Held, Saved, hash_content, load, save
from perdure.domain.messages import JsonObject
from perdure.store.database import Tx
from perdure.store.shell_states import read_shell_state, write_shell_state

if TYPE_CHECKING:
    import bashkit

DEFAULT_TIMEOUT = 30
MAX_TIMEOUT = 120
"""Seconds that a command may run."""

MAX_COMMAND = 100_000
"""Characters of one command."""


async def _bash(context: ToolContext, arguments: JsonObject) -> ToolOutcome:
    seconds = float(arguments.get("timeout") or DEFAULT_TIMEOUT)
    held, state = await context.database.read(lambda tx: _before(tx, context))
    tree, left_out, planted = await asyncio.to_thread(_planted, held)
    ran = await run_command(arguments["command"], tree, state, context.network, seconds, context.output)
    changes = await asyncio.to_thread(_changes, tree, held, planted, frozenset(left_out))
    saved = Saved()
    fresh = ran.state if ran.state is not None and ran.state != state else None
    if changes or fresh is not None:
        saved = await context.database.write(lambda tx: _after(tx, context, held, changes, fresh))
    return ToolOutcome(_answer(ran, saved, left_out), saved.events)


async def _before(tx: Tx, context: ToolContext) -> tuple[Held, str | None]:
    return await load(tx, context), await read_shell_state(tx, context.org_id, context.session_id)


async def _after(tx: Tx, context: ToolContext, held: Held, changes: Changes, state: str | None) -> Saved:
    """Files and state in one transaction: a command has left all its traces, or none."""
    saved = await save(tx, context, held, changes) if changes else Saved()
    if state is not None:
        await write_shell_state(tx, context.org_id, context.session_id, state, context.now())
    return saved


def _planted(held: Held) -> tuple[bashkit.FileSystem, list[str], dict[str, Stamp]]:
    tree, left_out = plant(held.files, list(held.folders))
    files, _ = look(tree)
    return tree, left_out, files


def _changes(tree: bashkit.FileSystem, held: Held, planted: dict[str, Stamp], left_out: frozenset[str]) -> Changes:
    """What is otherwise in the tree than it was in the session's files."""
    files, folders = look(tree)
    written: dict[str, bytes] = {}
    for path, stamp in files.items():
        if planted.get(path) == stamp:
            continue
        content = tree.read_file(path)
        if held.hashes.get(path) != hash_content(content):
            written[path] = content
    removed = tuple(path for path in held.files if path not in files and path not in left_out)
    gone = tuple(folder for folder in held.folders if folder not in folders)
    full = {path.rpartition("/")[0] for path in (*files, *folders)}
    made = tuple(sorted(folder for folder in folders if folder not in held.folders and folder not in full))
    return Changes(written, removed, gone, made)


def _answer(ran: Ran, saved: Saved, left_out: list[str]) -> JsonObject:
    answer: JsonObject = {"exit_code": ran.exit_code}
    if ran.stderr:
        answer["stderr"] = ran.stderr
    notes = [*saved.notes, *(f"{HOME}{path} is too large for the shell, which cannot see it" for path in left_out)]
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
        f"Run a bash command. The session's files are in {HOME}: /notes.md of the file tools is {HOME}/notes.md here. Changes there, "
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
