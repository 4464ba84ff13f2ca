"""One batch of tool calls.

Side by side, bounded, each ending in a result or in an error that the model is told.
"""

from __future__ import annotations

import asyncio
import difflib
import json
import logging
import traceback
from functools import lru_cache

import jsonschema_rs
import msgspec

from perdure.capabilities.port import ToolContext, ToolOutcome
from perdure.capabilities.resolve import BoundTool, ResolvedAgent
from perdure.domain.errors import PerdureError, Unavailable
from perdure.domain.events import ActCompletedData, NewEvent, ToolCompletedData, ToolStatus
from perdure.domain.ids import ToolCallId
from perdure.domain.messages import JsonObject, JsonValue, TextPart, storable
from perdure.domain.redaction import is_mark
from perdure.domain.spans import act_context, tool_context
from perdure.domain.turn import Calling, CallState, Done, Started
from perdure.engine.live import ToolText
from perdure.engine.run import Run
from perdure.engine.tool_output import Given, shown_output
from perdure.store.bus import Live, LiveKind
from perdure.store.rows import to_json

log = logging.getLogger("perdure.act")

MAX_ERROR = 2_000
"""Characters of an error that the model is told."""

MAX_NAMED = 40
"""Tools that are named to a model that asks for one that is not there."""
MAX_NAME = 100
"""Characters of its name that are compared with theirs."""

REJECTED = "rejected"
"""The code of a call that a person has said no to, once for all."""

UNCERTAIN = "It may or may not have taken effect; look at the present state before you try again."
INTERRUPTED = f"This call was interrupted: the server stopped while it ran. {UNCERTAIN}"


async def run_tools(run: Run, agent: ResolvedAgent, ids: tuple[ToolCallId, ...]) -> list[NewEvent]:
    """Run these calls, which the log has announced; the events that end the first of them.

    Starts those that are not running yet, waits for the first in order, and gives the events of all that are
    done in a row. Results enter the log in the order of the calls. The rest keeps running: the loop asks
    again.
    """
    state = run.phase(Calling)
    calls = tuple(call for call in state.calls if call.id in ids)
    last: dict[str, asyncio.Task[list[NewEvent]]] = {}
    for call in calls:
        bound = agent.bound.get(call.name)
        queue = bound.tool.queue if bound else None
        if call.id not in run.tools:
            run.tools[call.id] = asyncio.create_task(
                _run_call(run, agent, state, call, last.get(queue) if queue else None)
            )
        if queue:
            last[queue] = run.tools[call.id]
    events = list(await asyncio.shield(run.tools[calls[0].id]))
    done = 1
    # Give calls that end at the same time the chance to share the append.
    await asyncio.sleep(0)
    while done < len(calls) and run.tools[calls[done].id].done():
        events += run.tools[calls[done].id].result()
        done += 1
    if done == len(calls):
        events.append(_end_of_batch(run, state, events))
        run.tools.clear()
    return events


def _end_of_batch(run: Run, state: Calling, events: list[NewEvent]) -> NewEvent:
    now, batch = run.engine.clock.now(), state.batch
    outcomes = [event.data.success for event in events if isinstance(event.data, ToolCompletedData)]
    if batch is not None:
        done = ((call.id, call.status) for call in state.calls)
        outcomes += [not how.failed for call, how in done if isinstance(how, Done) and call in batch.calls]
    duration = None if batch is None else (now - batch.started_at) // 1000
    data = ActCompletedData(True, outcomes.count(True), outcomes.count(False), duration)
    return NewEvent(data, act_context(state), now)


async def _run_call(
    run: Run,
    agent: ResolvedAgent,
    state: Calling,
    call: CallState,
    after: asyncio.Task[list[NewEvent]] | None,
) -> list[NewEvent]:
    """The events that end one call, made once another has ended.

    Never raises, except when the run itself is cancelled.
    """
    if after is not None:
        await asyncio.wait((after,))
    bound = agent.bound.get(call.name)
    begun = run.engine.clock.elapsed()
    given: Given | None = None
    status: ToolStatus = "error"
    error = ""
    try:
        given = await _attempt(run, agent, bound, state, call)
        status = "success"
    except TimeoutError:
        seconds = bound.tool.timeout if bound else 0
        status, error = "timeout", f"The tool did not finish within {seconds:g} seconds."
    except _Interrupted:
        status, error = "interrupted", INTERRUPTED
    except PerdureError as refused:
        status, error = "rejected" if refused.code == REJECTED else "error", _words(run, refused.message)
        if isinstance(refused, Unavailable) and refused.retryable:
            # The database went away, perhaps with the answer only.
            status, error = "interrupted", f"{error}. {UNCERTAIN}"
    except Exception as failure:  # noqa: BLE001 (whatever it is: the call has failed, and the model is told)
        trace = run.redactor.text(traceback.format_exc())
        # `log.exception` would print what was just blanked.
        log.error("tool %s failed\n%s", call.name, trace)  # noqa: TRY400
        error = f"The tool failed: {type(failure).__name__}."
    duration = round((run.engine.clock.elapsed() - begun) * 1000)
    now = run.engine.clock.now()
    context = tool_context(state, call.id)
    shown = None if given is None else await shown_output(run, agent, bound, state.turn.id, call, given)
    result = None if shown is None else (TextPart(shown.text),)
    data = ToolCompletedData(
        tool_call_id=call.id,
        tool_name=call.name,
        success=given is not None,
        status=status,
        result=result,
        error=error or None,
        duration_ms=duration,
        display_name=bound.tool.display_name if bound else None,
        capability_id=bound.capability_id if bound else None,
        capability_name=bound.capability_name if bound else None,
    )
    files = [] if shown is None else [NewEvent(each, context, now) for each in shown.files]
    return [*files, NewEvent(data, context, now)]


def _words(run: Run, message: str) -> str:
    """What an error says, without secrets; only then cut: half a secret would not be found any more."""
    text = run.redactor.text(storable(message))
    return text if len(text) <= MAX_ERROR else f"{text[:MAX_ERROR]} ..."


class _Interrupted(Exception):
    """A runner that died had begun the call, and it must not be made twice (promise P5)."""


async def _attempt(
    run: Run, agent: ResolvedAgent, bound: BoundTool | None, state: Calling, call: CallState
) -> Given:
    if call.status == Started(replayable=False) and call.id not in run.fresh:
        raise _Interrupted  # before all else: whatever is wrong with it now, it may have run
    if bound is None:
        raise PerdureError(_unknown(call.name, agent), code="unknown_tool")
    arguments = check_arguments(bound.tool.parameters, run.withheld.get(call.id, call.arguments))
    _check_withheld(run, bound, call)
    if bound.rejected:
        raise PerdureError("The user does not allow calls of this tool in this session.", code=REJECTED)
    repeats = state.turn.repeats
    if 0 < agent.rules.loop_limit <= repeats:
        raise PerdureError(
            f"You have made exactly these calls {repeats + 1} times in a row, so this one was not made. "
            "Use the results you have, or try something else.",
            code="repeated_call",
        )
    shown = _live_output(run, state, call)
    context = _context(run, agent, state, call, shown)
    try:
        return _given(await asyncio.wait_for(bound.tool.run(context, arguments), bound.tool.timeout))
    finally:
        shown.finish()


def _unknown(name: str, agent: ResolvedAgent) -> str:
    """What to say of a tool that is not there: which are much like it, or else which there are."""
    known = [spec.name for spec in agent.specs]
    close = difflib.get_close_matches(name[:MAX_NAME], known, n=3)
    others = close or (known if len(known) <= MAX_NAMED else [*known[:MAX_NAMED], "..."])
    hint = f" {'Did you mean' if close else 'There are'}: {', '.join(others)}" if others else ""
    return f"There is no tool {name!r}.{hint}"


def _given(outcome: ToolOutcome) -> Given:
    """The outcome with its value as text that the log can hold.

    What cannot be written as JSON is the tool's failure.
    """
    value = outcome.value
    if isinstance(value, str):
        value = storable(value)
        return Given(value, value, outcome.files)
    try:
        return Given(value, to_json(value), outcome.files)
    except UnicodeEncodeError:  # halves of surrogate pairs somewhere inside
        value = json.loads(storable(json.dumps(value, ensure_ascii=False, default=str)))
        return Given(value, to_json(value), outcome.files)


def _check_withheld(run: Run, bound: BoundTool, call: CallState) -> None:
    """A call whose secret arguments went with the runner that had them cannot be made.

    Only their names are in the log.
    """
    if call.id in run.withheld or not isinstance(call.arguments, dict):
        return
    if any(is_mark(call.arguments.get(name)) for name in bound.tool.secret_arguments):
        raise PerdureError(
            "The call was interrupted, and its secret arguments were not kept. Make the call again.",
            code="interrupted",
        )


def check_arguments(parameters: JsonObject, arguments: JsonValue) -> JsonObject:
    """The arguments, when they fit the tool's schema, `parameters`.

    Raises:
        PerdureError: says what is wrong in words that a model can act on.
    """
    if isinstance(arguments, str):
        raise PerdureError("The arguments are not valid JSON.", code="invalid_arguments")
    validator = _validator(to_json(parameters))
    try:
        problems = [
            f"{_path(error)}: {error.message}"
            for error, _ in zip(validator.iter_errors(arguments), range(5), strict=False)
        ]
    except ValueError:  # a few hundred levels
        raise PerdureError("Invalid arguments. They are nested too deep.", code="invalid_arguments") from None
    if problems:
        raise PerdureError("Invalid arguments. " + "; ".join(problems), code="invalid_arguments")
    if not isinstance(arguments, dict):
        raise PerdureError("The arguments must be a JSON object.", code="invalid_arguments")
    return arguments


def refuse_misfits(
    run: Run, agent: ResolvedAgent, state: Calling, calls: tuple[CallState, ...]
) -> list[NewEvent]:
    """The events that end those of a client's calls that do not fit their tool.

    The model is told, the client is not asked.
    """
    now = run.engine.clock.now()
    events = []
    for call in calls:
        tool = agent.client[call.name]
        try:
            _validator(to_json(tool.parameters))
        except ValueError:  # not a schema: nothing can be said against the call, and the client decides
            continue
        try:
            check_arguments(tool.parameters, call.arguments)
        except PerdureError as refused:
            data = ToolCompletedData(
                call.id,
                call.name,
                False,
                "error",
                error=_words(run, refused.message),
                display_name=tool.display_name,
            )
            events.append(NewEvent(data, tool_context(state, call.id), now))
    return events


@lru_cache(maxsize=512)
def _validator(schema: str) -> jsonschema_rs.Validator:
    # Messages name the place and not the value, which may be a secret; and what a schema refers to is not
    # fetched.
    return jsonschema_rs.validator_for(msgspec.json.decode(schema), mask="the value", offline=True)


def _path(error: jsonschema_rs.ValidationError) -> str:
    return "/".join(str(step) for step in error.instance_path) or "arguments"


def _live_output(run: Run, state: Calling, call: CallState) -> ToolText:
    session_id, turn_id, bus = run.row.id, state.turn.id, run.engine.bus
    context = to_json(tool_context(state, call.id))

    def publish(kind: LiveKind, offset: int, text: str) -> None:
        bus.publish(
            Live(
                session_id,
                turn_id,
                call.id,
                kind,
                state.head,
                offset,
                text,
                text,
                name=call.name,
                context=context,
            )
        )

    return ToolText(run.redactor, publish)


def _context(run: Run, agent: ResolvedAgent, state: Calling, call: CallState, shown: ToolText) -> ToolContext:
    engine, row = run.engine, run.row
    return ToolContext(
        org_id=row.org_id,
        session_id=row.id,
        workspace_id=row.workspace(),
        turn_id=state.turn.id,
        tool_call_id=call.id,
        now=engine.clock.now,
        progress=shown.progress,
        output=shown.output,
        redactor=run.redactor,
        locale=row.locale,
        network=msgspec.structs.replace(agent.network, private=engine.policy.private_addresses),
    )
