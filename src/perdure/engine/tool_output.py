"""Truncates long tool output for the model, and spills the whole to a file of the session."""

from __future__ import annotations

import asyncio
import json
from hashlib import blake2b

import msgspec
from msgspec import Struct

from perdure.capabilities.bound_tools import BoundTool
from perdure.capabilities.model_choice import ModelChoice
from perdure.capabilities.resolve import ResolvedAgent
from perdure.domain.calls import CallState
from perdure.domain.errors import Conflict, PerdureError
from perdure.domain.events import FileWrittenData, NewEvent, ToolCompletedData
from perdure.domain.files import content_of
from perdure.domain.ids import TurnId
from perdure.domain.messages import ImagePart, JsonValue, storable, text_of
from perdure.domain.result_sizes import LEAST_SHARE, SLACK, file_of, share_of, text_of_result, where_of
from perdure.domain.spans import turn_context
from perdure.domain.texts import without_middle
from perdure.domain.tokens import text_tokens
from perdure.domain.turn_totals import Turn
from perdure.engine.budget import conversation_budget
from perdure.engine.outages import outlast
from perdure.engine.run import Run
from perdure.engine.site import Site
from perdure.store.blobs import send_ahead
from perdure.store.confidential import reader_of
from perdure.store.database import Tx
from perdure.store.file_changes import FileWrite, write_file
from perdure.store.rows import to_json
from perdure.store.workspaces import hold_session_files

FOLDER = "/.outputs"
"""The folder for whole outputs, among the session's files; a plain `ls` does not list it."""

MIN_KEPT = 200
"""Characters that a truncated text keeps, however long the other fields of the output are."""


class RawOutput(Struct, frozen=True):
    """A tool's output: its value, the value as text, the files that it wrote, tools to load, and images."""

    value: JsonValue
    text: str
    files: tuple[FileWrittenData, ...] = ()
    loads: tuple[str, ...] = ()
    images: tuple[ImagePart, ...] = ()


def json_of(value: object) -> str:
    """A tool's value as JSON that the database can store.

    Raises:
        TypeError: the value cannot be encoded as JSON, which is a bug of the tool.
    """
    try:
        return to_json(value)
    except UnicodeEncodeError:  # the value contains unpaired surrogates
        return to_json(json.loads(storable(json.dumps(value, ensure_ascii=False, default=str))))


class FittedOutput(Struct, frozen=True):
    """The text for the model, and the files written by the tool and for its whole output."""

    text: str
    files: tuple[FileWrittenData, ...] = ()


async def fit_output(
    run: Site,
    agent: ResolvedAgent,
    bound: BoundTool | None,
    turn_id: TurnId,
    call: CallState,
    output: RawOutput,
) -> FittedOutput:
    """Truncate the output if it exceeds the limit, and write the whole to a file.

    There is a file only if the session has a file system and the tool allows it (`spill`). The file has no
    secrets, like everything that can be read back. Its name is derived from the call, so that a repeated call
    overwrites it.
    """
    rules = agent.behaviour
    limit = min(run.engine.policy.tool_output, rules.output_limit or run.engine.policy.tool_output)
    if len(output.text) <= limit:
        return FittedOutput(output.text, output.files)
    # Redact before truncating: a secret that is cut in half would not be recognized.
    plain = isinstance(output.value, str)
    whole = run.redactor.value(output.value if plain else msgspec.json.decode(output.text))
    text = whole if plain else to_json(whole)
    field, body = _longest_text(whole, limit)
    space = max(limit - (len(text) - len(body)), MIN_KEPT) if field else limit
    files: tuple[FileWrittenData, ...] = ()
    where = ""
    if bound is not None and bound.tool.spill and "file_system" in agent.features:
        mark = blake2b(f"{turn_id}/{call.id}".encode(), digest_size=8).hexdigest()
        suffix = "txt" if field or plain else "json"
        files = await _spill(run, f"{FOLDER}/{call.name}-{mark}.{suffix}", body)
        where = where_of(files[0].path) if files else ""
    cut = without_middle(
        body, space, lambda left: f"\n[... {left} characters left out{where} ...]\n", rules.output_head
    )
    if isinstance(whole, dict) and field:
        cut = to_json({**whole, field: cut})
    return FittedOutput(cut, (*output.files, *files))


def _longest_text(whole: JsonValue, limit: int) -> tuple[str, str]:
    """The text to truncate, and the name of the object's field that it is.

    That is the longest text field of an object if the rest of the object is short; else the whole output, and
    an empty name.
    """
    if isinstance(whole, str):
        return "", whole
    if isinstance(whole, dict):
        texts = {name: text for name, text in whole.items() if isinstance(text, str)}
        field = max(texts, key=lambda name: len(texts[name]), default="")
        if field and len(to_json({**whole, field: ""})) <= limit // 2:
            return field, texts[field]
    return "", msgspec.json.format(to_json(whole), indent=1)


async def spill_results(
    run: Run, agent: ResolvedAgent, choice: ModelChoice, turn: Turn
) -> list[NewEvent] | None:
    """Write results that are too long for the model's window to files, where the agent can read them.

    The log keeps the results whole, but the model receives only the beginning and the end.

    Returns:
        The events that record the files; none if nothing is too long, or the session has no file system.
        None if the log had moved, so that the next action has to be decided again.
    """
    conversation = run.conversation
    unlogged = [text for text in _unlogged_texts(run) if len(text) > LEAST_SHARE]
    if "file_system" not in agent.features or not (unlogged or conversation.long_results(LEAST_SHARE)):
        return []
    share = conversation.share or share_of(conversation_budget(run, agent, choice))
    long = any(len(text) > share and text_tokens(text) > share + SLACK for text in unlogged)
    if long and not await run.commit(()):  # the names of the files are derived from the logged results
        return None
    context, events = turn_context(turn), []
    for call, message in conversation.long_results(share):
        bound = agent.bound.get(call.name)
        if bound is None or bound.tool.spill:
            text = run.redactor.text(text_of_result(message))
            now = run.engine.clock.now()
            events += [NewEvent(file, context, now) for file in await _spill(run, file_of(message), text)]
    return events


def _unlogged_texts(run: Run) -> list[str]:
    results = (event.get(ToolCompletedData) for event in run.unlogged)
    return [text_of(data.result) for data in results if data is not None and data.result is not None]


async def _spill(run: Site, path: str, text: str) -> tuple[FileWrittenData, ...]:
    """Write the whole output to a file; returns nothing if that fails, for example on a full workspace."""
    engine, row = run.engine, run.row
    content = await asyncio.to_thread(lambda: content_of(text.encode(errors="replace")))

    async def work(tx: Tx) -> FileWrittenData:
        await send_ahead(tx, row.org_id, content, engine.clock.now())
        _, workspace = await hold_session_files(tx, row.org_id, row.id)
        own = workspace.session_id in (row.id, row.root_session_id or row.id)
        if not own and await reader_of(tx, row.id) is not None:
            raise Conflict("others read the workspace, and not the session")
        written = await write_file(
            tx, workspace, FileWrite(path, content, force=True), engine.policy.file_limits, engine.clock.now()
        )
        return FileWrittenData(path, "write", written.created, written.row.size_bytes)

    try:
        return (await outlast(engine, row.id, lambda: engine.database.write(work)),)
    except PerdureError:
        return ()  # no space or no workspace; the truncated text says how many characters are missing
