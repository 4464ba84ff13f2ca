"""A tool call in the background: it is prepared and made outside of the session's turn.

After a crash it is treated like a call of a turn (promise P5): it runs again if its tool is read-only or
idempotent, always with the same effect key; otherwise its tool is asked whether it took effect, and if nobody
knows, the model is told so. Steps are not recorded here, so they do not help.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from perdure.capabilities.bound_tools import BoundTool
from perdure.capabilities.containment import contain
from perdure.capabilities.guard_services import Asker
from perdure.capabilities.guarding import Guard
from perdure.capabilities.layers import SessionLayers, load_layers
from perdure.capabilities.model_choice import find_model
from perdure.capabilities.port import Later, ToolContext, ToolOutcome
from perdure.capabilities.resolve import ResolvedAgent, resolve_session
from perdure.domain.background import LATER, ToolTask, read_spec
from perdure.domain.calls import CallState
from perdure.domain.data_flow import External
from perdure.domain.effects import Verified, effects_under, part_key
from perdure.domain.errors import PerdureError, ToolError, Unavailable, UnreadableEvent
from perdure.domain.event_data import EventData
from perdure.domain.events import Event, FileWrittenData, ToolStartedData
from perdure.domain.files import Content
from perdure.domain.messages import JsonValue
from perdure.domain.policy_hooks import BLOCKED
from perdure.domain.redaction import Redactor
from perdure.domain.tasks import TaskError
from perdure.domain.times import Micros
from perdure.engine.context import Engine
from perdure.engine.data_flow import external_of, note_written
from perdure.engine.guarded_results import check_result, progress_line
from perdure.engine.hook_questions import AskedCall
from perdure.engine.hooks import review, reviews
from perdure.engine.interrupted import INTERRUPTED, Interrupted, ask_until_late
from perdure.engine.outages import outlast
from perdure.engine.tool_outcomes import REFUSED, REJECTED, Failure, as_raw_output, error_text, failure_of
from perdure.engine.tool_output import RawOutput, fit_output, json_of
from perdure.store.database import Tx
from perdure.store.events import events_within
from perdure.store.sessions import SessionRow, look_session
from perdure.store.storage import open_secrets
from perdure.store.tasks import TaskRow
from perdure.store.tool_lists import read_tool_list

log = logging.getLogger("perdure.act")

_KINDS = {"timeout": "time_limit", "interrupted": "interrupted", "rejected": REJECTED}
"""The kinds of a task's error, by how the call failed; `tool_failed` for others."""


class CallEnd(Struct, frozen=True):
    """How a call ended, without the session's secrets: with a text, a value or an error.

    Attributes:
        files: the files that it wrote.
        result_path: the file with the whole result, if the text is cut.
        found: what policy hooks have decided about the outcome, and what guardrails have found in it.
        external: where it comes from, if that is outside.
    """

    text: str = ""
    value: JsonValue = None
    error: TaskError | None = None
    files: tuple[FileWrittenData, ...] = ()
    result_path: str | None = None
    found: tuple[EventData, ...] = ()
    external: tuple[External, ...] = ()


class BackgroundCall(Struct, frozen=True):
    """A call that can be made; a `Site`.

    Attributes:
        bound: the tool as it is now.
        arguments: as the log has them.
        guard: checks the output.
    """

    engine: Engine
    row: SessionRow
    redactor: Redactor
    task: TaskRow
    spec: ToolTask
    agent: ResolvedAgent
    bound: BoundTool
    arguments: JsonValue
    guard: Guard | None = None

    @property
    def repeatable(self) -> bool:
        """Whether the call may run again although it may have taken effect."""
        hints = self.bound.tool.hints
        return bool(hints.readonly or hints.idempotent)

    @property
    def verifiable(self) -> bool:
        """Whether its tool can find out whether it took effect."""
        return self.bound.tool.verify is not None

    @property
    def made(self) -> CallState:
        """The call as a turn has it."""
        return CallState(self.spec.tool_call_id, self.spec.tool, self.arguments)

    @property
    def patience(self) -> float:
        """The seconds that an attempt may take, with the time in which an old request may still arrive."""
        waits = self.task.attempt > 0 and not self.repeatable
        return self.spec.time_limit * (2 if waits else 1)


async def prepare(engine: Engine, task: TaskRow) -> BackgroundCall | CallEnd | None:
    """Resolve the session's tools for a call, as a turn does.

    Returns:
        How the call ends if it cannot be made; None if the session is deleted.

    Raises:
        Unavailable: the database is unavailable.
    """
    spec, redactor = read_spec(task.struct().spec), Redactor({})
    try:
        found = await engine.database.read(lambda tx: _read(engine, tx, task, spec))
        if found is None:
            return None
        layers, secrets, offered, arguments = found
        redactor.learn(secrets)
        agent = await resolve_session(
            layers,
            engine.registry,
            now=engine.clock.now,
            redactor=redactor,
            model=None,
            max_iterations=engine.policy.max_iterations,
            cache=engine.agents,
            offered=offered,
            secrets=secrets,
            private=engine.policy.private_addresses,
        )
    except PerdureError as error:
        if isinstance(error, Unavailable) and error.retryable:
            raise
        return CallEnd(error=TaskError(error.code, error_text(redactor, error.message)))
    bound = None if layers.stopped_agent(begun=True) else agent.bound.get(spec.tool)
    if bound is None:
        kind, said = ("interrupted", f"{INTERRUPTED} ") if task.attempt else ("unknown_tool", "")
        return CallEnd(error=TaskError(kind, f"{said}The tool {spec.tool!r} is no longer available."))
    redactor.known = agent.names
    if bound.rejected:
        return CallEnd(error=TaskError(REJECTED, REFUSED))
    if arguments is None:
        return CallEnd(error=TaskError("unreadable", "The call's arguments cannot be read."))
    guard = _guard_of(engine, layers, agent, redactor)
    return BackgroundCall(engine, layers.session, redactor, task, spec, agent, bound, arguments, guard)


def _guard_of(
    engine: Engine, layers: SessionLayers, agent: ResolvedAgent, redactor: Redactor
) -> Guard | None:
    if not agent.guardrails.has("tool_output"):
        return None
    own = partial(find_model, org_id=layers.session.org_id, layers=layers.layers)
    asker = Asker(own, layers.session.agent_id)  # nobody pays: it happens outside of a run
    return Guard(agent.guardrails, engine.guard, layers.session.org_id, asker, redactor)


async def _read(
    engine: Engine, tx: Tx, task: TaskRow, spec: ToolTask
) -> tuple[SessionLayers, dict[str, str], Content | None, JsonValue] | None:
    row = await look_session(tx, task.session_id)
    if row is None or row.deleted_at is not None:
        return None
    # Another agent, with other tools and policies, may work in the session by now, or be its own.
    layers = await load_layers(tx, row if spec.made_by is None else row.under(spec.made_by))
    secrets = await open_secrets(tx, engine.vault, row.org_id, row.id)
    offered = None
    if spec.tool_list is not None:
        offered = await read_tool_list(tx, row.org_id, row.id, spec.tool_list)
    return layers, secrets, offered, await _arguments(tx, row, spec)


async def _arguments(tx: Tx, row: SessionRow, spec: ToolTask) -> JsonValue:
    """The call's arguments, as its start in the log has them; None if they cannot be read."""
    after, more = spec.announced_at, True
    while more:
        events, more = await events_within(tx, row.id, after, until=row.head, kinds=(ToolStartedData.kind,))
        for event in events:
            after, data = event.sequence, _started(event)
            if data is not None and data.effect_key == spec.effect_key:
                return data.tool_call.arguments
        more = more and bool(events)
    return None


def _started(event: Event) -> ToolStartedData | None:
    try:
        data = event.decoded()
    except UnreadableEvent:
        return None
    return data if isinstance(data, ToolStartedData) else None


async def make_call(
    call: BackgroundCall, began_at: Micros | None, progress: Callable[[str], None]
) -> CallEnd:
    """Make the call, within its time limit.

    Args:
        began_at: when the last attempt began, if there was one.
        progress: receives lines that the tool says about its progress, without secrets.

    Raises:
        CancelledError: nothing else; whatever the tool raises is how the call ends.
    """
    context = _context(call, progress)
    output: RawOutput | None = None
    failure: Failure | None = None
    kind = ""
    try:
        output = await _output(call, context, began_at)
    except Exception as error:  # noqa: BLE001 (a bug in a tool fails the call, not the worker)
        await _learn_secrets(call)
        failure = failure_of(call.redactor, call.bound, call.spec.tool, error, call.spec.time_limit)
        kind = _kind_of(failure, error)
        if isinstance(error, Interrupted):  # its tool did not run in this attempt
            return CallEnd(error=TaskError(kind, failure.error))
        found = await _verified(call, context, began_at=None) if failure.unknown else None
        if found is not None and found.outcome == "done":
            output = as_raw_output(ToolOutcome(found.value))
    await _learn_secrets(call)
    end = await _reviewed(call, output, failure, kind)
    return replace(end, external=await _external(call, end.files))


async def _reviewed(
    call: BackgroundCall, output: RawOutput | None, failure: Failure | None, kind: str
) -> CallEnd:
    """How the call ends, once policy hooks have decided about its outcome."""
    asked = AskedCall(
        call.task.turn_id,
        call.spec.tool_call_id,
        call.spec.tool,
        call.arguments,
        call.arguments,
        call.task.effect_key,
        call.bound,
        call.spec.made_by or call.row.own_agent(),
        in_background=True,
    )
    reviewed = await review(call, call.agent, call.guard, asked, output, failure)
    if reviewed.output is not None:
        end = await _fitted(call, reviewed.output)
        return replace(end, found=(*reviewed.records, *end.found))
    withheld = bool(reviewed.records) and reviewed.records[-1].decision == "block"
    checked = await check_result(call.guard, call.made, None, reviewed.failure)
    said = "" if checked.failure is None else checked.failure.error
    files = () if output is None else output.files
    error = TaskError(BLOCKED if withheld else kind, said)
    return CallEnd(error=error, files=files, found=(*reviewed.records, *checked.found))


async def _external(call: BackgroundCall, files: tuple[FileWrittenData, ...]) -> tuple[External, ...]:
    """Where the result comes from, if that is outside; the files that the call has written may have it."""
    source = await external_of(call, call.bound, call.agent.network, call.arguments)
    await note_written(call, source, wrote=bool(files))
    return () if source is None else (source,)


async def _output(call: BackgroundCall, context: ToolContext, began_at: Micros | None) -> RawOutput:
    """The tool's output: of this attempt, or of an earlier one that its tool has found."""
    tool, owners = call.bound.tool, (call.row.org_id, call.row.id)
    if began_at is not None and not call.repeatable:
        found = await _verified(call, context, began_at)
        if found is None or found.outcome == "unknown":
            raise Interrupted(INTERRUPTED)
        if found.outcome == "done":
            return as_raw_output(ToolOutcome(found.value))
    arguments = await call.engine.arguments.check(owners, tool.parameters, call.arguments)
    outcome = await contain(
        partial(tool.run, context, arguments),
        call.spec.time_limit,
        f"the tool {tool.name} in the background",
    )
    if isinstance(outcome, Later):
        raise ToolError(LATER)
    return as_raw_output(outcome)


async def _verified(call: BackgroundCall, context: ToolContext, began_at: Micros | None) -> Verified | None:
    """What the tool says of the call's outcome; None if it cannot say anything.

    Args:
        began_at: when the request was sent that may still arrive; None not to wait for one.
    """
    verify, arguments = call.bound.tool.verify, call.arguments
    if verify is None or not isinstance(arguments, dict):
        return None
    seconds = 0.0 if began_at is None else call.spec.time_limit
    return await ask_until_late(
        call, call.spec.tool, lambda: verify(context, arguments), began_at or 0, seconds
    )


def _kind_of(failure: Failure, error: Exception) -> str:
    known = error.code if isinstance(error, PerdureError) else "tool_failed"
    return _KINDS.get(failure.status, known)


def _context(call: BackgroundCall, progress: Callable[[str], None]) -> ToolContext:
    engine, row, task = call.engine, call.row, call.task
    silent = reviews(call.agent, call.spec.tool)
    return ToolContext(
        org_id=row.org_id,
        session_id=row.id,
        workspace_id=row.workspace(),
        turn_id=task.turn_id,
        tool_call_id=call.spec.tool_call_id,
        now=engine.clock.now,
        progress=lambda line: None if silent else progress(_line_of(call, line)),
        output=lambda stream, text: None,
        redactor=call.redactor,
        locale=row.locale,
        network=replace(call.agent.network, private=engine.policy.private_addresses),
        effect_key=task.effect_key,
        step=partial(_step, task.effect_key),
        exec_id=call.spec.exec_id,
        tool_name=call.spec.tool,
        agent=call.spec.made_by,
        guarded=call.agent.rules.guarded_files,
        memories=call.agent.memories,
        owner_id=row.owner_id,
        in_background=True,
    )


def _line_of(call: BackgroundCall, line: str) -> str:
    return call.redactor.text(line if call.guard is None else progress_line(call.guard, call.spec.tool, line))


async def _step(
    key: str,
    name: str,
    work: Callable[[], Awaitable[object]],
    *,
    idempotent: bool = False,
    verify: Callable[[], Awaitable[Verified]] | None = None,
) -> JsonValue:
    """Run a step without recording it: it has the same key and the same kind of result as in a turn."""
    with effects_under(part_key(key, name)):
        result = await work()
    value: JsonValue = msgspec.json.decode(json_of(result))
    return value


async def _learn_secrets(call: BackgroundCall) -> None:
    """Reload the secrets: the tool may have written a new one."""
    engine, row = call.engine, call.row
    read = partial(engine.database.read, lambda tx: open_secrets(tx, engine.vault, row.org_id, row.id))
    call.redactor.learn(await outlast(engine, row.id, read))


async def _fitted(call: BackgroundCall, output: RawOutput) -> CallEnd:
    """The output as the task keeps it: as long as that of a call in a turn, with the whole in a file."""
    turn_id = call.task.turn_id
    if output.images:
        note = "[The images of the result are left out: they are shown only in the turn.]"
        text = "\n".join(filter(None, (output.text.strip(), note)))
        output = RawOutput(text, text, output.files)
    checked = await check_result(call.guard, call.made, output, None)
    output = checked.output or output
    fitted = await fit_output(call, call.agent, call.bound, turn_id, call.made, output)
    spilled = fitted.files[len(output.files) :]
    path = spilled[0].path if spilled else None
    if fitted.text is output.text and not isinstance(output.value, str):
        value: JsonValue = call.redactor.value(msgspec.json.decode(output.text))
        if isinstance(value, dict | list):
            return CallEnd(value=value, files=fitted.files, found=checked.found)
    text = await asyncio.to_thread(call.redactor.text, fitted.text)
    return CallEnd(text, files=fitted.files, result_path=path, found=checked.found)
