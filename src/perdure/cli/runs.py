"""`perdure run`: run an agent once, and print its answer."""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import msgspec
import typer

from perdure.cli.common import CommandFailed
from perdure.cli.failures import FAILED, MODEL_ADVICE, money_advice
from perdure.cli.models import find_model
from perdure.cli.render import model_trouble
from perdure.cli.terminal import Screen, complain
from perdure.domain.ids import is_id

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.client.turns import RunFields
    from perdure.domain.events import WireEvent
    from perdure.domain.messages import InputPart, JsonObject
    from perdure.domain.runs import RunResult
    from perdure.domain.sessions import InitialFile

WAITS = 3
"""The exit status of a run that waits for somebody."""


def read_message(text: str) -> str:
    """Return the message: the text, or standard input for `-`. Raises BadParameter."""
    try:
        message = sys.stdin.read() if text == "-" else text
        message.encode()  # arguments and input that are not UTF-8 may have been decoded in spite of that
    except UnicodeError:
        raise typer.BadParameter("it is not text in UTF-8", param_hint="MESSAGE") from None
    return message


def read_schema(path: Path | None) -> JsonObject | None:
    """Read a JSON Schema from a file. Raises BadParameter."""
    if path is None:
        return None
    try:
        schema = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise typer.BadParameter(f"cannot read {path}: {error.strerror}", param_hint="--schema") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise typer.BadParameter(f"{path} is not valid JSON: {error}", param_hint="--schema") from None
    if not isinstance(schema, dict):
        raise typer.BadParameter(f"{path} is not a JSON Schema: it must be an object", param_hint="--schema")
    return schema


def fields_of(
    agent: str | None, model: str | None, title: str | None, files: Sequence[Path], variables: Sequence[str]
) -> RunFields:
    """Build the fields of a run from the options.

    Args:
        files: each LOCAL or LOCAL:/PATH: a file of this computer, and its path in the session.
        variables: each NAME=VALUE.

    Raises:
        BadParameter: a file cannot be read, or a variable has no name.
    """
    for text in variables:
        if not text.partition("=")[0] or "=" not in text:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--var")
    return {
        "agent": agent,
        "model_id": model,
        "title": title,
        "files": [_read_file(f"{file}") for file in files],
        "variables": {text.partition("=")[0]: text.partition("=")[2] for text in variables},
    }


def _read_file(text: str) -> InitialFile:
    from perdure.domain.sessions import InitialFile

    local, colon, place = text.rpartition(":/")
    path = Path(local if colon else text)
    target = f"/{place}" if colon else f"/{path.name}"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"cannot read {path}: {error.strerror}", param_hint="--file") from None
    try:
        if b"\0" not in content:
            return InitialFile(target, content.decode())
    except UnicodeDecodeError:
        pass
    return InitialFile(target, base64.b64encode(content).decode(), "base64")


async def run_once(
    client: Client,
    content: str | list[InputPart],
    schema: JsonObject | None,
    fields: RunFields,
    *,
    as_json: bool,
) -> int:
    """Run an agent and print its answer, or with a schema the answer's value. Returns the exit status.

    Args:
        as_json: print the whole result, also of a run that fails or waits.
    """
    from perdure.domain.messages import InputMessage

    async with client:
        if model := fields.get("model_id"):
            fields["model_id"] = model if is_id(model, "model") else (await find_model(client, model)).id
        message = content if isinstance(content, str) else InputMessage(tuple(content))
        run = await client.create_run(message, output_schema=schema, **fields)
        notes = Screen(stderr=True)
        if not as_json:
            notes.line(f"session {run.session_id}")
        told: set[str] = set()
        limits = asyncio.create_task(_tell_limits(client, run.session_id, notes, told))
        try:
            result = await client.wait_for_run(run)
        finally:
            limits.cancel()
        paused = [each.budget_id for each in result.waiting_on if each.budget_id is not None]
        if paused:  # that may be known before the event has come
            events = await client.list_events(
                run.session_id, types=("turn.parked",), newest_first=True, limit=1
            )
            _tell_limit(events[0], notes, told)
        asked = await _asked(client, result)
        items = [] if not asked else await _items(client, result.session_id)
    if as_json:
        Screen().json(result)
    elif result.status == "completed":
        _print_answer(result, schema)
    elif result.status == "waiting":
        for call in result.waiting_on:
            if call.budget_id is None:
                notes.line(f"{call.tool_name} waits ({call.kind}) until {call.until}")
        for line in asked:
            notes.line(line)
        if paused:
            complain(f"the run waits for a budget\n{money_advice(paused[0])}")
        else:
            how = "asks" if asked else "shows what to do"
            inbox = f", and `perdure inbox answer {items[0]}` answers" if asked and items else ""
            complain(f"the run waits for somebody: `perdure chat {quote(result.session_id)}` {how}{inbox}")
    else:
        problem = None if result.turn is None else result.turn.error
        why = f"{problem.code}: {problem.message}" if problem is not None else result.status
        advice = f"\n{MODEL_ADVICE}" if problem is not None and problem.code == "model_not_configured" else ""
        raise CommandFailed(f"the run ended without an answer: {why}{advice}")
    return {"completed": 0, "waiting": WAITS}.get(result.status, FAILED)


async def _asked(client: Client, result: RunResult) -> list[str]:
    """Return the agent's questions that the run waits for, as lines."""
    from perdure.cli.question_answers import question_lines

    if not any(call.kind == "question" for call in result.waiting_on):
        return []
    waits = await client.pending(result.session_id)
    return [line for each in (waits.questions if waits else ()) for line in question_lines(each.questions)]


async def _items(client: Client, session_id: str) -> list[str]:
    """The items of the inbox with the questions of a session."""
    found = await client.list_inbox(kind="question", session_id=session_id)
    return [item.id for item in found.data]


async def _tell_limits(client: Client, session_id: str, notes: Screen, told: set[str]) -> None:
    """Say when the run waits for the end of a rate limit, which may take hours.

    Args:
        told: the ids of the events that were shown.
    """
    async with aclosing(client.follow(session_id, types=("turn.parked",))) as events:
        async for event in events:
            _tell_limit(event, notes, told)


def _tell_limit(event: WireEvent, notes: Screen, told: set[str]) -> None:
    if event.id not in told:
        told.add(event.id)
        notes.line(model_trouble(event))


def _print_answer(result: RunResult, schema: JsonObject | None) -> None:
    from perdure.domain.messages import text_of

    if schema is not None:
        Screen().json(result.output)
    elif result.answer is not None:
        Screen().line(text_of(result.answer.content))
