"""The events that begin and end the steps of a turn."""

from __future__ import annotations

from msgspec.json import encode
from msgspec.structs import replace

from perdure.capabilities.guards import source_of_client
from perdure.capabilities.model_choice import ModelChoice
from perdure.capabilities.resolve import ResolvedAgent
from perdure.domain.actions import (
    AskApproval,
    AwaitClient,
    ExpireCalls,
    Fail,
    RunTools,
    StartTurn,
    TurnRules,
)
from perdure.domain.calls import CallState, Parked, as_tool_call, key_of
from perdure.domain.data_flow import AskReason, External
from perdure.domain.decisions import ANYBODY
from perdure.domain.effects import UNCERTAIN
from perdure.domain.events import (
    ActStartedData,
    ModelMetadata,
    NewEvent,
    OutputMessageCompletedData,
    OutputMessageStartedData,
    ReasonStartedData,
    SessionActivatedData,
    SessionIdledData,
    ToolCall,
    ToolCallRequestedData,
    ToolCallSummary,
    ToolCompletedData,
    ToolStartedData,
    ToolStatus,
    TurnCompletedData,
    TurnFailedData,
    TurnStartedData,
)
from perdure.domain.ids import ToolCallId
from perdure.domain.messages import JsonObject, Message, TextPart
from perdure.domain.parked import CONSENT
from perdure.domain.pending import first_of, steering
from perdure.domain.policy_hooks import BLOCKED, UNAVAILABLE
from perdure.domain.spans import act_context, reason_context, tool_context, turn_context
from perdure.domain.steps import Started
from perdure.domain.times import Micros, to_rfc3339
from perdure.domain.tools import APPROVE, question_id
from perdure.domain.turn import Answered, Calling
from perdure.domain.turn_totals import Turn
from perdure.engine.background import begins_task
from perdure.engine.deferred import continued, is_callback, wait_ended
from perdure.engine.patience import diverted
from perdure.engine.run import Run

ADVICE = {
    "discovery_failed": (
        "I stopped: the tools that I need for this could not be found. Please try again later, or check the "
        "capability that provides them."
    ),
    "model_not_configured": (
        "No model is set up for this session yet. Register a provider and a model, or choose one with "
        "`model_id`."
    ),
    "model_price_unknown": (
        "A budget does not permit this model, because its price is not known. Choose another model, or have "
        "an admin set a price for such models (`unpriced`) in the budget."
    ),
    "provider_auth": "The model provider refused the credentials. Check the provider's API key.",
    "provider_misconfigured": (
        "The model provider's settings are not valid. An admin of the organization has to correct them."
    ),
    "provider_rate_limited": (
        "The model provider is limiting requests. Retries did not succeed in time. Please try again later."
    ),
    "quota_exceeded": "The model provider's quota is used up.",
    "provider_unavailable": "The model provider could not be reached. Please try again later.",
    "provider_timeout": "The model took too long to answer. Please try again.",
    "context_length_exceeded": (
        "The conversation is too long for this model, even after leaving out its oldest part."
    ),
    "content_filtered": "The model provider's content filter stopped this. Please rephrase the message.",
    "empty_answer": "The model gave no answer, although it was asked twice. Please try again.",
    "answer_truncated": (
        "I stopped: my answers kept reaching the model's output limit in the middle of a tool call. Ask for "
        "smaller steps, or choose a model with a higher limit."
    ),
    "max_iterations": "I stopped: this turn reached its limit of model calls. Send a message to continue.",
    "output_invalid": (
        "I stopped: my answers did not match the schema that was set for them, although I was told what was "
        "wrong. Please try again, or use a simpler schema or another model."
    ),
    "loop_detected": "I kept repeating the same step without getting any further, so I stopped.",
    "no_progress": (
        "I stopped: again and again, the server was interrupted while it ran this turn's tools. One of them "
        "may be the cause. Send a message to continue without it."
    ),
    BLOCKED: "I stopped: a policy does not allow me to go on with this.",
    UNAVAILABLE: "I stopped: the policy that decides about this cannot be asked now. Please try again later.",
    "agent_archived": "This session's agent has been archived, so it cannot continue.",
}
"""By error code: the message for people when a turn fails."""

STEERED = "cancelled: the user sent a new message"
SUPERSEDED = "cancelled: a scheduled message arrived"
OVERTAKEN = "cancelled: the result of an earlier call arrived"
NO_CALLBACK = "No result arrived in time."
CHANGED = " Its description or schema has changed since it was approved."
UNANSWERED = "The client did not answer this call in time."
NOT_SIGNED_IN = "Nobody signed in at the tool's server in time, so this call was not made."
NO_INPUT = "Nobody answered the question of the tool's server in time, so this call was not completed."


def begin_turn(run: Run, action: StartTurn, queued: Message | None) -> tuple[Turn, list[NewEvent]]:
    """Begin a turn; returns it with its first events. `queued`: its message, if that waited for it."""
    now = run.engine.clock.now()
    run.mark(now)
    turn_id = action.turn_id or run.engine.new_id("turn")
    first = first_of(run.state.pending)
    turn = Turn(
        *(turn_id, action.message_id, action.input_content or None, now),
        speaker=first.addressed,
        trace=first.trace,
    )
    activated = SessionActivatedData(turn.id, turn.message_id)
    started = TurnStartedData(turn.id, turn.message_id, turn.input_content, queued, turn.speaker)
    context = turn_context(turn)
    return turn, [NewEvent(activated, context, now), NewEvent(started, context, now)]


def begin_model_call(run: Run, turn: Turn, agent: ResolvedAgent, choice: ModelChoice) -> list[NewEvent]:
    """The events that start a model call.

    They fix the id of the message that the call writes, so that another runner can complete it after a crash.
    """
    now = run.engine.clock.now()
    context = reason_context(turn, run.engine.new_id("exec"))
    metadata = ModelMetadata(choice.model.model_id, choice.model.id, choice.provider.id)
    iteration = turn.iterations + 1
    found = agent.found_tools
    started = ReasonStartedData(
        run.row.harness_id, run.voice.agent_id, metadata, iteration, None if found is None else found.digest
    )
    message_id = run.engine.new_id("message")
    output = OutputMessageStartedData(turn.id, message_id, choice.model.model_id, iteration)
    events = [NewEvent(started, context, now), NewEvent(output, context, now)]
    return [*diverted(run.engine, turn, choice, now), *events]


def begin_tools(run: Run, agent: ResolvedAgent, action: RunTools) -> list[NewEvent]:
    """The events that must be in the log before these tools run (promise P5).

    Calls that a previous runner started have theirs already.
    """
    now, state = run.engine.clock.now(), action.state
    fresh = [call for call in action.calls if not isinstance(call.status, Started)]
    if not fresh:
        return []
    events: list[NewEvent] = []
    run.mark(now)
    if state.batch is None:
        started = ActStartedData(tuple(_summary(agent, call) for call in fresh))
        events.append(NewEvent(started, act_context(state), now))
    for call in fresh:
        bound = agent.bound.get(call.name)
        hints = bound.tool.hints if bound else None
        # A call that only begins a task does so once, however often it runs.
        replayable = bool(hints and (hints.readonly or hints.idempotent)) or begins_task(
            bound, run.arguments_of(call)
        )
        data = ToolStartedData(
            as_tool_call(call),
            _display_name(agent, call.name),
            replayable,
            effect_key=key_of(run.row.id, call),
            resumable=bool(bound and bound.tool.resumable),
        )
        events.append(NewEvent(data, tool_context(state, call.id), now))
    return events


def _summary(agent: ResolvedAgent, call: CallState) -> ToolCallSummary:
    return ToolCallSummary(call.id, call.name, _display_name(agent, call.name))


def _display_name(agent: ResolvedAgent, name: str) -> str | None:
    bound = agent.bound.get(name)
    if bound is not None:
        return bound.tool.display_name
    client = agent.client.get(name)
    return client.display_name if client is not None else None


def request_results(run: Run, agent: ResolvedAgent, action: AwaitClient) -> list[NewEvent]:
    """Ask the client to run its tools, and park the session."""
    calls = tuple(replace(as_tool_call(call), effect_key=key_of(run.row.id, call)) for call in action.calls)
    summaries = tuple(
        replace(_summary(agent, call), external=_external(agent, call.name)) for call in action.calls
    )
    data = ToolCallRequestedData(calls, summaries, round(run.engine.policy.client_timeout * 1000))
    return [NewEvent(data, act_context(action.state), run.engine.clock.now())]


def _external(agent: ResolvedAgent, name: str) -> External | None:
    source = source_of_client(agent.client[name])
    return None if source is None else External(source, name)


def request_approvals(
    run: Run, agent: ResolvedAgent, action: AskApproval, rules: TurnRules
) -> list[NewEvent]:
    """Ask for approval of these calls, and park the session; `rules`: those that the action follows from."""
    questions = tuple(
        ToolCall(
            question_id(call.id),
            APPROVE,
            {"tool_call_id": call.id, "tool_name": call.name, "arguments": call.arguments},
        )
        for call in action.calls
    )
    summaries = tuple(
        _asking(agent, question, call, tuple(rules.reasons(call)))
        for question, call in zip(questions, action.calls, strict=True)
    )
    timeout_ms = round(run.engine.policy.approval_timeout * 1000)
    approvers = None if agent.approvers == ANYBODY else agent.approvers
    data = ToolCallRequestedData(questions, summaries, timeout_ms, approvers)
    return [NewEvent(data, act_context(action.state), run.engine.clock.now())]


def _asking(
    agent: ResolvedAgent, question: ToolCall, call: CallState, reasons: tuple[AskReason, ...]
) -> ToolCallSummary:
    bound = agent.bound.get(call.name)
    changed = bound is not None and bound.tool.changed
    said = " ".join(
        (f"May {call.name} run?{CHANGED if changed else ''}", *(each.message for each in reasons))
    )
    return ToolCallSummary(question.id, APPROVE, _display_name(agent, call.name), said, reasons)


def expire_calls(
    run: Run,
    action: ExpireCalls,
    ended: dict[ToolCallId, str],
    unanswered: dict[ToolCallId, JsonObject],
) -> list[NewEvent]:
    """The results of calls without an answer, and an answer to each unanswered request for approval.

    Args:
        ended: what has ended of what calls wait for.
        unanswered: the results of questions whose time is over.
    """
    now, state = run.engine.clock.now(), action.state
    withdrawn = _why_withdrawn(state) if action.withdrawn else None
    events: list[NewEvent] = []
    for call in action.calls:
        if call.id in unanswered:
            ends = [_unanswered_questions(call, unanswered[call.id])]
        else:
            ends = [_expired_call(call, withdrawn, ended.get(call.id))]
        if _is_approval(call):
            ends.insert(0, _expired_approval(call, withdrawn))
        events += [NewEvent(data, tool_context(state, call.id), now) for data in ends]
    if withdrawn is None and any(map(_is_approval, action.calls)):
        data = SessionActivatedData(state.turn.id, state.turn.message_id)
        events.append(NewEvent(data, turn_context(state.turn), now))
    return events


def _is_approval(call: CallState) -> bool:
    return isinstance(call.status, Parked) and call.status.kind == "approval"


def _why_withdrawn(state: Calling) -> str:
    """Why the messages that arrived withdraw the open calls."""
    messages = steering(state.pending)
    if any(not (message.scheduled or message.late) for message in messages):
        return STEERED
    return SUPERSEDED if any(message.scheduled for message in messages) else OVERTAKEN


def _expired_call(call: CallState, withdrawn: str | None, ended: str | None) -> ToolCompletedData:
    approval = _is_approval(call)
    kind = call.status.kind if isinstance(call.status, Parked) else None
    if kind == "child":
        why = "The time to wait is over." if withdrawn is None else "A message arrived."
        return wait_ended(call, why, ended)
    # What waits for a person has had no effect.
    sent = kind in ("client", "callback")
    if withdrawn is not None:
        if is_callback(call):
            return continued(call)
        # A client that was asked may have run the call.
        return ToolCompletedData(
            call.id, call.name, False, "cancelled", error=withdrawn, outcome_unknown=sent
        )
    if approval:
        error = "This call was not approved in time, so it was rejected."
        return ToolCompletedData(call.id, call.name, False, "rejected", error=error)
    if kind in CONSENT:
        error = NOT_SIGNED_IN if kind == "sign_in" else NO_INPUT
        return ToolCompletedData(call.id, call.name, False, "timeout", error=error)
    error = f"{NO_CALLBACK if is_callback(call) else UNANSWERED} {UNCERTAIN}"
    return ToolCompletedData(call.id, call.name, False, "timeout", error=error, outcome_unknown=sent)


def _unanswered_questions(call: CallState, result: JsonObject) -> ToolCompletedData:
    return ToolCompletedData(call.id, call.name, True, "timeout", (TextPart(encode(result).decode()),))


def _expired_approval(call: CallState, withdrawn: str | None) -> ToolCompletedData:
    status: ToolStatus = "timeout" if withdrawn is None else "cancelled"
    return ToolCompletedData(question_id(call.id), APPROVE, False, status, error=withdrawn or UNANSWERED)


def finish_turn(run: Run, state: Answered) -> list[NewEvent]:
    """Complete the turn; the session becomes idle unless a message waits for its own turn."""
    now, turn = run.engine.clock.now(), state.turn
    data = TurnCompletedData(
        turn_id=turn.id,
        iterations=turn.iterations,
        status="completed",
        duration_ms=run.milliseconds_since(turn.started_at),
        usage=turn.usage,
        llm_call_count=turn.llm_calls,
        tool_call_count=turn.tool_calls,
        time_to_first_token_ms=turn.time_to_first_token_ms,
        final_message_id=state.message_id,
        final_answer_preview=state.preview or None,
        input_content=turn.input_content or None,
        output=state.output,
    )
    completed = NewEvent(data, turn_context(turn), now)
    return [completed] if state.pending else [completed, _session_idled(turn, now)]


def _session_idled(turn: Turn, now: Micros) -> NewEvent:
    return NewEvent(SessionIdledData(turn.id, turn.iterations, turn.usage), turn_context(turn), now)


def fail_turn(run: Run, action: Fail) -> list[NewEvent]:
    """Fail the turn, with a message for people; the session becomes idle unless a message is pending."""
    now, turn, code = run.engine.clock.now(), action.state.turn, action.code
    context = turn_context(turn)
    advice = ADVICE.get(code, "Something went wrong while I worked on this. Please try again.")
    message = Message(
        run.engine.new_id("message"),
        "agent",
        (TextPart(advice),),
        to_rfc3339(now),
        "final_answer",
        metadata={"error": True},
    )
    events = [
        NewEvent(OutputMessageCompletedData(message, error_code=code), context, now),
        NewEvent(TurnFailedData(turn.id, action.message, code, usage=turn.usage), context, now),
    ]
    return events if action.state.pending else [*events, _session_idled(turn, now)]
