"""Runs one batch of tool calls concurrently.

Each call has a timeout, and ends with a result or with an error that the model receives.
"""

from __future__ import annotations

import asyncio
from functools import partial

from msgspec.structs import replace

from perdure.capabilities.arguments import INVALID_SCHEMA
from perdure.capabilities.bound_tools import BoundTool
from perdure.capabilities.containment import contain
from perdure.capabilities.guarding import Guard
from perdure.capabilities.port import Later, ToolContext, ToolOutcome
from perdure.capabilities.resolve import ResolvedAgent
from perdure.domain.calls import CallState, Parked, key_of
from perdure.domain.data_flow import MAX_SOURCE, External
from perdure.domain.errors import PerdureError
from perdure.domain.events import (
    FileWrittenData,
    NewEvent,
    ToolCompletedData,
    ToolsLoadedData,
)
from perdure.domain.ids import ModelId, ToolCallId
from perdure.domain.input_requests import ActedAs
from perdure.domain.messages import ImagePart, TextPart
from perdure.domain.redaction import is_mark
from perdure.domain.spans import tool_context
from perdure.domain.steps import Started
from perdure.domain.tools import ClientSideTool
from perdure.domain.trace_context import tracing
from perdure.domain.turn import Calling
from perdure.domain.turn_queries import agent_ahead, next_controls
from perdure.engine.background import begin_task, begins_task
from perdure.engine.batches import act_completed
from perdure.engine.data_flow import external_of, note_written
from perdure.engine.deferred import Callbacks, parked_call, promised
from perdure.engine.guarded import guard_of
from perdure.engine.guarded_results import check_edited, check_result, masked_event, progress_line
from perdure.engine.handoffs import check_agent, log_for
from perdure.engine.hooks import Reviewed, asked_call, review, reviews
from perdure.engine.interrupted import INTERRUPTED, Interrupted, look_up, settle
from perdure.engine.joined_appends import status_of
from perdure.engine.live import ToolText
from perdure.engine.loading import loaded_by
from perdure.engine.run import Run
from perdure.engine.steps import Steps
from perdure.engine.tool_outcomes import REFUSED, REJECTED, Failure, as_raw_output, error_text, failure_of
from perdure.engine.tool_output import RawOutput, fit_output
from perdure.engine.tracing import call_trace
from perdure.store.bus import Live, LiveKind
from perdure.store.rows import to_json

MAX_NAMED = 40
"""The number of tools to list for a model that called an unknown one."""
MAX_FAULTS = 5
"""Capabilities without their tools to name then."""
MAX_NAME = 100
"""Characters of an unknown tool's name to compare with the known names."""

_LASTING = FileWrittenData | ToolsLoadedData
"""What a call changed, whatever its result is."""


class _Acting:
    """Whose sign-in a call used, the capability that it is of (its id and name), and whom it has heard from.

    `ran`: whether its tool has run, so that its result, or its error, is the tool's.
    """

    def __init__(self, bound: BoundTool | None) -> None:
        self.identity: ActedAs | None = None
        self.heard: str | None = None
        self.ran = False
        self.capability = (bound.capability_id, bound.capability_name) if bound else (None, None)

    def note(self, identity: ActedAs) -> None:
        self.identity = identity

    def heard_from(self, source: str) -> None:
        self.heard = source[:MAX_SOURCE]

    def provided_by(self, capability_id: str, capability_name: str) -> None:
        self.capability = (capability_id, capability_name)


async def run_tools(run: Run, agent: ResolvedAgent, ids: tuple[ToolCallId, ...]) -> list[NewEvent]:
    """Run these calls, whose start is in the log.

    Starts the calls that are not running yet, and waits for the first one. Calls that are still running
    continue, and the loop calls this function again.

    Returns:
        The events that complete or park the first call and all done calls that follow it without a gap, so
        that results enter the log in the order of the calls. A parked call does not hold up the others.
        Nothing for calls that got their results from outside while the run looked whether it still holds the
        session: they must not run again.
    """
    state, wanted = run.phase(Calling), set(ids)
    calls = tuple(call for call in state.calls if call.id in wanted and isinstance(call.status, Started))
    if not calls:
        return []
    last: dict[str, asyncio.Task[list[NewEvent]]] = {}
    for call in calls:
        bound = agent.bound.get(call.name)
        queue = bound.tool.queue if bound else None
        if call.id not in run.tools:
            run.tools[call.id] = asyncio.create_task(
                run_call(run, agent, state, call, last.get(queue) if queue else None)
            )
        if queue:
            last[queue] = run.tools[call.id]
    events = list(await asyncio.shield(run.tools[calls[0].id]))
    done = 1
    # Let calls that end at the same time share one append.
    await asyncio.sleep(0)
    while done < len(calls) and (run.tools[calls[done].id].done() or _is_parked(run, calls[done])):
        events += await asyncio.shield(run.tools[calls[done].id])
        done += 1
    for call in calls[:done]:
        run.tools.pop(call.id, None)
    # Calls that began tasks are done or parked in the log already.
    return events if done < len(calls) else await end_batch(run, run.phase(Calling), events)


def _is_parked(run: Run, call: CallState) -> bool:
    """Whether a call has parked itself, so that its tool has nothing left to do."""
    return isinstance(status_of(run.state, call.id), Parked)


async def end_batch(run: Run, state: Calling, events: list[NewEvent]) -> list[NewEvent]:
    """The events of the batch's last outcomes, and its end.

    Args:
        state: the state before `events`, with what the log has of other calls.

    A tool may still be running although its call is done, because its result came from outside: the batch
    ends after it.
    """
    for task in run.tools.values():
        events += [event for event in await asyncio.shield(task) if isinstance(event.data, _LASTING)]
    run.tools.clear()
    batch = state.batch
    if batch is None:
        return events  # it ended when its last calls parked themselves
    duration = run.milliseconds_since(batch.started_at)
    return [*events, act_completed(state, batch, events, duration, run.engine.clock.now())]


_NOTHING: tuple[RawOutput | None, Failure | None] = (None, None)


async def run_call(
    run: Run,
    agent: ResolvedAgent,
    state: Calling,
    call: CallState,
    after: asyncio.Task[list[NewEvent]] | None,
) -> list[NewEvent]:
    """Run one call, after another one of the same queue; returns the events that complete or park it.

    Raises only if the run itself is cancelled.
    """
    if after is not None:
        await asyncio.wait((after,))
    bound = agent.bound.get(call.name)
    begun, acting = run.engine.clock.elapsed(), _Acting(bound)
    output, failure = _NOTHING
    try:
        outcome = await _attempt_or_wait(run, agent, bound, state, call, acting)
        if isinstance(outcome, Later):
            said = parked_call(run, bound, state, call, outcome)
            parked = await masked_event(guard_of(run, agent), call, said)
            return [*_loads(run, agent, state, call, None), parked]
        if outcome is None:
            return _loads(run, agent, state, call, None)
        output = outcome
    except Exception as error:  # noqa: BLE001 (a bug in a tool fails the call, not the turn)
        failure = failure_of(run.redactor, bound, call.name, error)
        acting.ran = acting.ran and not isinstance(error, Interrupted)
        if failure.unknown and not isinstance(error, Interrupted):
            output = await _looked_up(run, agent, bound, state, call)
    written = () if output is None else output.files
    came = Reviewed(output, failure)
    reviewed = await _review(run, agent, bound, state, call, came) if acting.ran else came
    output, failure = reviewed.output, reviewed.failure
    duration = round((run.engine.clock.elapsed() - begun) * 1000)
    checked = await check_result(guard_of(run, agent), call, output, failure)
    output, failure = checked.output, checked.failure
    now, context = run.engine.clock.now(), tool_context(state, call.id)
    fitted = None if output is None else await fit_output(run, agent, bound, state.turn.id, call, output)
    wrote = fitted is not None and bool(fitted.files)
    external = await _external(run, agent, bound, call, acting, wrote=wrote) if acting.ran else None
    result = None if fitted is None or output is None else _parts(fitted.text, output.images)
    data = ToolCompletedData(
        tool_call_id=call.id,
        tool_name=call.name,
        success=output is not None,
        status="success" if failure is None or output is not None else failure.status,
        result=result,
        error=f"{failure.error}{_offer(agent, call)}" if failure is not None and output is None else None,
        duration_ms=duration,
        display_name=bound.tool.display_name if bound else None,
        capability_id=acting.capability[0],
        capability_name=acting.capability[1],
        outcome_unknown=failure is not None and output is None and failure.unknown,
        acted_as=acting.identity,
        external=external,
    )
    also = [*(written if fitted is None else fitted.files), *reviewed.records]
    events = [*(NewEvent(each, context, now) for each in also), *_loads(run, agent, state, call, output)]
    return [*events, *checked.events(context, now), NewEvent(data, context, now)]


async def _review(
    run: Run, agent: ResolvedAgent, bound: BoundTool | None, state: Calling, call: CallState, came: Reviewed
) -> Reviewed:
    """What policy hooks leave of what came of a call."""
    asked = asked_call(run, bound, state, call)
    return await review(run, agent, guard_of(run, agent), asked, came.output, came.failure)


async def _external(
    run: Run, agent: ResolvedAgent, bound: BoundTool | None, call: CallState, acting: _Acting, *, wrote: bool
) -> External | None:
    """Where the result comes from, if that is outside; the files that the call has written may have it."""
    external = await external_of(run, bound, agent.network, call.arguments, acting.heard)
    await note_written(run, external, wrote=wrote)
    return external


def _loads(
    run: Run, agent: ResolvedAgent, state: Calling, call: CallState, output: RawOutput | None
) -> list[NewEvent]:
    """The event that says which deferred tools the call loads, if it loads any."""
    loaded = loaded_by(agent, call, output)
    if loaded is None:
        return []
    return [NewEvent(loaded, tool_context(state, call.id), run.engine.clock.now())]


def _offer(agent: ResolvedAgent, call: CallState) -> str:
    """What an error adds if the model called a tool without knowing its definition."""
    return " You are shown this tool with its parameters from now on." if call.name in agent.hidden else ""


async def _looked_up(
    run: Run, agent: ResolvedAgent, bound: BoundTool | None, state: Calling, call: CallState
) -> RawOutput | None:
    """The result of a call that broke in the middle, if its tool finds that it is done in spite of that."""
    found = await look_up(run, bound.tool if bound else None, call, _tool_context(run, agent, state, call))
    return as_raw_output(ToolOutcome(found.value)) if found.outcome == "done" else None


async def _after_crash(
    run: Run, agent: ResolvedAgent, bound: BoundTool | None, state: Calling, call: CallState
) -> RawOutput | None:
    """What is known of a call that a runner that died had started; None if it may run.

    Raises:
        Interrupted: it must not run, because nobody knows whether it took effect.
    """
    found = await settle(run, bound.tool if bound else None, call, _tool_context(run, agent, state, call))
    return None if found is None else as_raw_output(ToolOutcome(found.value))


async def _attempt_or_wait(
    run: Run, agent: ResolvedAgent, bound: BoundTool | None, state: Calling, call: CallState, acting: _Acting
) -> RawOutput | Later | None:
    """As `_attempt`. If it was interrupted, it waits for its open callback, whose URL somebody may have."""
    try:
        with tracing(call_trace(run.engine, state.turn, tool_context(state, call.id))):
            return await _attempt(run, agent, bound, state, call, acting)
    except Interrupted:
        later = await promised(run, state, call)
        if later is None:
            raise
        return later


async def _attempt(
    run: Run, agent: ResolvedAgent, bound: BoundTool | None, state: Calling, call: CallState, acting: _Acting
) -> RawOutput | Later | None:
    """Check the call and run its tool, within the tool's timeout; None if the log has what came of it."""
    if isinstance(call.status, Started) and not call.status.replayable and call.id not in run.announced:
        # Before all other checks, because the call may have run.
        known = await _after_crash(run, agent, bound, state, call)
        if known is not None:
            acting.ran = True
            return known
    if bound is None:
        raise PerdureError(_unknown_tool(call.name, agent), code="unknown_tool")
    written = run.arguments_of(call)
    arguments = await run.engine.arguments.check(_owners(run), bound.tool.parameters, written)
    _check_secret_arguments(run, bound, call)
    if bound.rejected:
        raise PerdureError(REFUSED, code=REJECTED)
    if call.edited:
        await check_edited(guard_of(run, agent), call)
    repeats = state.turn.repeats
    if 0 < agent.rules.loop_limit <= repeats:
        raise PerdureError(
            f"You have made exactly these calls {repeats + 1} times in a row, so this one was not made. "
            "Use the results you have, or try something else.",
            code="repeated_call",
        )
    if begins_task(bound, arguments):
        await begin_task(run, agent, bound, state, call, arguments)
        return None
    guard = guard_of(run, agent)
    live, callbacks = _tool_text(run, guard, state, call), Callbacks(run, state, call)
    steps = Steps(run, call, bound.tool.timeout, guard)
    context = replace(
        _tool_context(run, agent, state, call),
        **({} if reviews(agent, call.name) else {"progress": live.progress, "output": live.output}),
        callback=callbacks.open,
        step=steps,
        act_as=acting.note,
        provided_by=acting.provided_by,
        heard_from=acting.heard_from,
        log=partial(log_for, run, bound, state, call, loads=bool(_loads(run, agent, state, call, None))),
        check_agent=partial(check_agent, run),
    )
    tool, acting.ran = bound.tool, True
    try:
        outcome = await contain(
            partial(tool.run, context, arguments),
            tool.timeout,
            f"the tool {tool.name}",
            limited=steps.limited,
        )
        if not isinstance(outcome, Later):
            return as_raw_output(outcome)
        return None if _is_parked(run, call) else await callbacks.checked(outcome)
    finally:
        steps.over = callbacks.over = True
        live.finish()


def _unknown_tool(name: str, agent: ResolvedAgent) -> str:
    """The error for an unknown tool: names similar tools, or else the existing ones."""
    import difflib  # few models call unknown tools

    known = [spec.name for spec in agent.specs]
    close = difflib.get_close_matches(name[:MAX_NAME], [*known, *sorted(agent.hidden)], n=3)
    others = close or (known if len(known) <= MAX_NAMED else [*known[:MAX_NAMED], "..."])
    hint = f" {'Did you mean' if close else 'There are'}: {', '.join(others)}" if others else ""
    more = "" if agent.deferred is None else f". Search others with {agent.deferred.search.name}"
    told = f"There is no tool {name!r}.{hint}{more}"
    if not agent.faults:
        return told
    some = "; ".join(fault.rstrip(".") for fault in agent.faults[:MAX_FAULTS])
    rest = len(agent.faults) - MAX_FAULTS
    also = f"; and {rest} more" if rest > 0 else ""
    return f"{told.rstrip('.')}. Their tools are unavailable now: {some}{also}. Continue without them."


def _parts(text: str, images: tuple[ImagePart, ...]) -> tuple[TextPart | ImagePart, ...]:
    """A result for the model: the text, unless images stand for it, and the images."""
    return images if images and not text.strip() else (TextPart(text), *images)


def _check_secret_arguments(run: Run, bound: BoundTool, call: CallState) -> None:
    """Raise if the call's secret arguments were lost with an earlier runner: the log has them redacted."""
    if call.id in run.secret_arguments or not isinstance(call.arguments, dict):
        return
    if any(is_mark(call.arguments.get(name)) for name in bound.tool.secret_arguments):
        if isinstance(call.status, Started) and call.status.steps:
            raise Interrupted(f"{INTERRUPTED} Its secret arguments were not stored, so it cannot continue.")
        raise PerdureError(
            "The call was interrupted, and its secret arguments were not stored. Make the call again.",
            code="interrupted",
        )


async def refuse_invalid_calls(
    run: Run, agent: ResolvedAgent, state: Calling, calls: tuple[CallState, ...]
) -> list[NewEvent]:
    """The events that fail those client calls whose arguments are invalid.

    The model receives the errors, and the client is not asked to run these calls. If a tool's schema is not
    valid, the client has to check the arguments.
    """
    problems = await asyncio.gather(
        *(_problem_of(run, agent, agent.client[call.name], call) for call in calls)
    )
    now = run.engine.clock.now()
    events = []
    for call, problem in zip(calls, problems, strict=True):
        if problem is None:
            continue
        data = ToolCompletedData(
            call.id,
            call.name,
            False,
            "rejected" if problem.code == REJECTED else "error",
            error=error_text(run.redactor, problem.message),
            display_name=agent.client[call.name].display_name,
        )
        events.append(NewEvent(data, tool_context(state, call.id), now))
    return events


async def _problem_of(
    run: Run, agent: ResolvedAgent, tool: ClientSideTool, call: CallState
) -> PerdureError | None:
    if tool.name in agent.rules.rejected:
        return PerdureError(REFUSED, code=REJECTED)
    try:
        await run.engine.arguments.check(_owners(run), tool.parameters, call.arguments)
    except PerdureError as problem:
        return None if problem.code == INVALID_SCHEMA else problem
    return None


def _owners(run: Run) -> tuple[str, ...]:
    """Whose share of the sandbox the run's checks take."""
    return run.row.org_id, run.row.id


def _tool_text(run: Run, guard: Guard | None, state: Calling, call: CallState) -> ToolText:
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

    if guard is None or not guard.has("tool_output"):
        return ToolText(run.redactor, publish)
    hold = guard.holds("tool_output", call.name)
    return ToolText(run.redactor, publish, hold, partial(progress_line, guard, call.name))


def _tool_context(run: Run, agent: ResolvedAgent, state: Calling, call: CallState) -> ToolContext:
    """The context of a call that does not run: it shows nothing to followers, and takes no steps."""
    engine, row = run.engine, run.row
    return ToolContext(
        org_id=row.org_id,
        session_id=row.id,
        workspace_id=row.workspace(),
        turn_id=state.turn.id,
        tool_call_id=call.id,
        now=engine.clock.now,
        progress=lambda line: None,
        output=lambda stream, text: None,
        redactor=run.redactor,
        locale=row.locale,
        network=replace(agent.network, private=engine.policy.private_addresses),
        effect_key=key_of(row.id, call),
        exec_id=state.exec_id,
        tool_name=call.name,
        controls=next_controls(state),
        agent=agent_ahead(state, row.own_agent()),
        guarded=agent.rules.guarded_files,
        memories=agent.memories,
        owner_id=row.owner_id,
        model_id=_first_model(run, state),
        session_row=row if call.id in run.announced else None,
    )


def _first_model(run: Run, state: Calling) -> ModelId | None:
    """The model that the session's settings choose; None if another one stands in for it."""
    if run.prepared is None or state.turn.fallback is not None:
        return None
    choice = run.prepared[1]
    return choice.model.id if choice.instead_of is None and not choice.unfit else None
