"""What a tool gave, as the model is shown it.

Whole, or its beginning and its end, with the whole in a file of the session.
"""

from __future__ import annotations

import asyncio
from hashlib import blake2b

import msgspec
from msgspec import Struct

from perdure.capabilities.resolve import BoundTool, ResolvedAgent
from perdure.domain.errors import PerdureError
from perdure.domain.events import FileWrittenData
from perdure.domain.files import content_of
from perdure.domain.ids import TurnId
from perdure.domain.messages import JsonValue
from perdure.domain.texts import without_middle
from perdure.domain.turn import CallState
from perdure.engine.run import Run
from perdure.store.blobs import send_ahead
from perdure.store.database import Tx
from perdure.store.file_changes import FileWrite, write_file
from perdure.store.rows import to_json
from perdure.store.workspaces import hold_session_files

FOLDER = "/.outputs"
"""Where whole outputs are kept: beside the session's own files, out of the way of a plain `ls`."""

LEAST_SHOWN = 200
"""Characters of a text that are shown, whatever else the answer holds."""


class Given(Struct, frozen=True):
    """What a tool gave: a value, the same as text, and the files that it wrote."""

    value: JsonValue
    text: str
    files: tuple[FileWrittenData, ...] = ()


class Shown(Struct, frozen=True):
    """What the model is shown, and the files that were written: by the tool, and for its output."""

    text: str
    files: tuple[FileWrittenData, ...] = ()


async def shown_output(
    run: Run, agent: ResolvedAgent, bound: BoundTool | None, turn_id: TurnId, call: CallState, given: Given
) -> Shown:
    """The value as text.

    When it is over the limit, the whole goes to a file, if the session has files and the tool reads none.

    The file's name comes from the call, so that a call that is made again writes the same file again. It
    holds no secrets, like everything else that can be read back.
    """
    rules = agent.behaviour
    limit = min(run.engine.policy.tool_output, rules.output_limit or run.engine.policy.tool_output)
    if len(given.text) <= limit:
        return Shown(given.text, given.files)
    # Before it is cut: half a secret would not be found any more.
    plain = isinstance(given.value, str)
    whole = run.redactor.value(given.value if plain else msgspec.json.decode(given.text))
    text = whole if plain else to_json(whole)
    field, body = _longest(whole, limit)
    room = max(limit - (len(text) - len(body)), LEAST_SHOWN) if field else limit
    files: tuple[FileWrittenData, ...] = ()
    where = ""
    if bound is not None and bound.tool.spill and "file_system" in agent.features:
        files = await _kept(run, turn_id, call, body, "txt" if field or plain else "json")
        where = (
            f"; all of it is in {files[0].path}, for read_file with `offset` and `limit`, or grep_files"
            if files
            else ""
        )
    cut = without_middle(
        body, room, lambda left: f"\n[... {left} characters left out{where} ...]\n", rules.output_head
    )
    if isinstance(whole, dict) and field:
        cut = to_json({**whole, field: cut})
    return Shown(cut, (*given.files, *files))


def _longest(whole: JsonValue, limit: int) -> tuple[str, str]:
    """The text that makes it long: a field of an object and its text, when all the rest is short.

    Else the whole as text.
    """
    if isinstance(whole, str):
        return "", whole
    if isinstance(whole, dict):
        texts = {name: each for name, each in whole.items() if isinstance(each, str)}
        field = max(texts, key=lambda name: len(texts[name]), default="")
        if field and len(to_json({**whole, field: ""})) <= limit // 2:
            return field, texts[field]
    return "", msgspec.json.format(to_json(whole), indent=1)


async def _kept(
    run: Run, turn_id: TurnId, call: CallState, text: str, suffix: str
) -> tuple[FileWrittenData, ...]:
    """Write the whole output to its file; nothing when there is no room for it."""
    engine, row = run.engine, run.row
    mark = blake2b(f"{turn_id}/{call.id}".encode(), digest_size=8).hexdigest()
    path = f"{FOLDER}/{call.name}-{mark}.{suffix}"
    content = await asyncio.to_thread(lambda: content_of(text.encode(errors="replace")))

    async def work(tx: Tx) -> FileWrittenData:
        await send_ahead(tx, row.org_id, content, engine.clock.now())
        _, space = await hold_session_files(tx, row.org_id, row.id)
        written = await write_file(
            tx, space, FileWrite(path, content, force=True), engine.policy.file_limits, engine.clock.now()
        )
        return FileWrittenData(path, "write", written.created, written.row.size_bytes)

    try:
        return (await engine.database.write(work),)
    except PerdureError:
        return ()  # there is no room, or no workspace to write to: what is shown says how much is missing
