"""The events that open and close the steps of a turn."""

from __future__ import annotations

from typing import Literal

from msgspec.structs import replace

from perdure.capabilities.resolve import ModelChoice, ResolvedAgent
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
    TurnCompletedData,
    TurnFailedData,
    TurnSealedData,
    TurnStartedData,
)
from perdure.domain.messages import Message, TextPart
from perdure.domain.spans import act_context, reason_context, tool_context, turn_context
from perdure.domain.times import to_rfc3339
from perdure.domain.tools import APPROVAL_PREFIX, APPROVE
from perdure.domain.turn import (
    AskApproval,
    AwaitClient,
    CallState,
    ExpireCalls,
    StartTurn,
    TurnState,
    as_tool_call,
)
from perdure.engine.run import Run

ADVICE = {
    "model_not_configured": "No model is set up for this session yet. Register a provider and a model, or choose one with `model_id`.",
    "provider_auth": "The model provider refused the credentials. Check the provider's API key.",
    "provider_misconfigured": "The model provider's settings cannot be used. Somebody who manages it has to look at them.",
    "provider_rate_limited": "The model provider is limiting requests and did not recover in time. Please try again later.",
    "quota_exceeded": "The model provider's quota is used up.",
    "provider_unavailable": "The model provider could not be reached. Please try again later.",
    "provider_timeout": "The model took too long to answer. Please try again.",
    "context_length_exceeded": "The conversation is too long for this model, even after leaving out its oldest part.",
    "max_iterations": "I stopped here: this turn reached its limit of model calls. Send a message to go on.",
    "loop_detected": "I kept repeating the same step without getting any further, so I stopped.",
    "agent_archived": "This session's agent has been archived, so it cannot go on.",
}
"""What a person reads when a turn fails, by error code."""


def begin_turn(run: Run, state: TurnState, action: StartTurn) -> tuple[TurnState, list[NewEvent]]:
    """The state and the events of a turn that begins."""
    turn_id = action.turn_id or run.engine.new_id("turn")
    now = run.engine.clock.now()
    begun = TurnState(
        turn_id=turn_id,
        input_message_id=action.message_id,
        started=True,
        started_at=now,
        pending=state.pending,
    )
    context = turn_context(begun)
    return begun, [
        NewEvent("session.activated", SessionActivatedData(turn_id, action.message_id), context, now),
        NewEvent(
            "turn.started",
            TurnStartedData(turn_id, action.message_id, action.input_content or None),
            context,
            now,
        ),
    ]


def begin_reason(run: Run, state: TurnState, choice: ModelChoice) -> list[NewEvent]:
    """The events that announce a model call.

    Its message has its id from here on, whatever runner completes it.
    """
    now = run.engine.clock.now()
    context = reason_context(replace(state, exec_id=run.engine.new_id("exec")))
    metadata = ModelMetadata(choice.model.model_id, choice.model.id, choice.provider.id)
    iteration = state.iteration + 1
    started = ReasonStartedData(run.row.harness_id, run.row.agent_id, metadata, iteration)
    output = OutputMessageStartedData(
        state.turn_id or "", run.engine.new_id("message"), choice.model.model_id, iteration
    )
    return [
        NewEvent("reason.started", started, context, now),
        NewEvent("output.message.started", output, context, now),
    ]


def begin_act(
    run: Run, state: TurnState, agent: ResolvedAgent, calls: tuple[CallState, ...]
) -> list[NewEvent]:
    """The events that must be in the log before a tool runs (promise P5).

    None for calls that were begun before.
    """
    now = run.engine.clock.now()
    fresh = [call for call in calls if not call.started]
    if not fresh:
        return []
    summaries = tuple(ToolCallSummary(call.id, call.name, _display_name(agent, call.name)) for call in fresh)
    events: list[NewEvent] = []
    if not state.acting:
        events.append(NewEvent("act.started", ActStartedData(summaries), act_context(state), now))
    for call in fresh:
        bound = agent.bound.get(call.name)
        hints = bound.tool.hints if bound else None
        replayable = bool(hints and (hints.readonly or hints.idempotent))
        data = ToolStartedData(as_tool_call(call), _display_name(agent, call.name), replayable)
        events.append(NewEvent("tool.started", data, tool_context(state, call.id), now))
    return events


def _display_name(agent: ResolvedAgent, name: str) -> str | None:
    bound = agent.bound.get(name)
    if bound is not None:
        return bound.tool.display_name
    client = agent.client.get(name)
    return client.display_name if client is not None else None


def request_client(run: Run, state: TurnState, agent: ResolvedAgent, action: AwaitClient) -> list[NewEvent]:
    """Ask the caller to run its tools; the session parks with this."""
    now = run.engine.clock.now()
    calls = tuple(as_tool_call(call) for call in action.calls)
    summaries = tuple(
        ToolCallSummary(call.id, call.name, _display_name(agent, call.name)) for call in action.calls
    )
    data = ToolCallRequestedData(calls, summaries, round(run.engine.policy.client_timeout * 1000))
    return [NewEvent("tool.call_requested", data, act_context(state), now)]


def ask_approval(run: Run, state: TurnState, agent: ResolvedAgent, action: AskApproval) -> list[NewEvent]:
    """Ask whether calls may run; the session parks with this."""
    now = run.engine.clock.now()
    questions = tuple(
        ToolCall(
            f"{APPROVAL_PREFIX}{call.id}",
            APPROVE,
            {"tool_call_id": call.id, "tool_name": call.name, "arguments": call.arguments},
        )
        for call in action.calls
    )
    summaries = tuple(
        ToolCallSummary(question.id, APPROVE, _display_name(agent, call.name), f"May {call.name} run?")
        for question, call in zip(questions, action.calls, strict=True)
    )
    data = ToolCallRequestedData(questions, summaries, round(run.engine.policy.approval_timeout * 1000))
    return [NewEvent("tool.call_requested", data, act_context(state), now)]


def expire(run: Run, state: TurnState, action: ExpireCalls) -> list[NewEvent]:
    """Error results for calls that were left open, and an answer to each question about one."""
    now = run.engine.clock.now()
    waited: Literal["timeout", "cancelled"] = "cancelled" if state.pending else "timeout"
    events: list[NewEvent] = []
    for call in action.calls:
        context = tool_context(state, call.id)
        error = (
            "cancelled: the user sent a new message"
            if state.pending
            else "The client did not answer this call in time."
        )
        if call.approval == "requested":
            question = ToolCompletedData(f"{APPROVAL_PREFIX}{call.id}", APPROVE, False, waited, error=error)
            events.append(NewEvent("tool.completed", question, context, now))
            error = error if state.pending else "Nobody allowed this call in time, so it was rejected."
        status = waited if call.approval != "requested" or state.pending else "rejected"
        events.append(
            NewEvent(
                "tool.completed",
                ToolCompletedData(call.id, call.name, False, status, error=error),
                context,
                now,
            )
        )
    if not state.pending and any(call.approval == "requested" for call in action.calls):
        data = SessionActivatedData(state.turn_id or "", state.input_message_id or "")
        events.append(NewEvent("session.activated", data, turn_context(state), now))
    return events


def finish(run: Run, state: TurnState) -> list[NewEvent]:
    """The turn is complete, and the session idle."""
    now = run.engine.clock.now()
    turn_id, context = state.turn_id or "", turn_context(state)
    data = TurnCompletedData(
        turn_id=turn_id,
        iterations=state.iteration,
        status="completed",
        duration_ms=(now - state.started_at) // 1000,
        usage=state.usage,
        llm_call_count=state.llm_calls,
        tool_call_count=state.tool_calls,
        time_to_first_token_ms=state.time_to_first_token_ms,
        final_message_id=state.final_message_id,
        final_answer_preview=state.final_preview or None,
        input_content=state.input_content or None,
    )
    return [NewEvent("turn.completed", data, context, now), _idle(state, run, now)]


def _idle(state: TurnState, run: Run, now: int) -> NewEvent:
    data = SessionIdledData(state.turn_id or "", state.iteration, state.usage)
    return NewEvent("session.idled", data, turn_context(state), now)


def fail(run: Run, state: TurnState, code: str, message: str) -> list[NewEvent]:
    """The turn failed.

    A message that a person can read, the failure, and rest, unless somebody already asked for more.
    """
    now = run.engine.clock.now()
    turn_id, context = state.turn_id or "", turn_context(state)
    words = ADVICE.get(code, "Something went wrong while I worked on this. Please try again.")
    said = Message(
        run.engine.new_id("message"),
        "agent",
        (TextPart(words),),
        to_rfc3339(now),
        "final_answer",
        metadata={"error": True},
    )
    events = [
        NewEvent("output.message.completed", OutputMessageCompletedData(said, error_code=code), context, now),
        NewEvent("turn.failed", TurnFailedData(turn_id, message, code, usage=state.usage), context, now),
    ]
    return events if state.pending else [*events, _idle(state, run, now)]


def seal(run: Run, state: TurnState) -> list[NewEvent]:
    """The turn was taken up again and again without getting anywhere: no more."""
    now = run.engine.clock.now()
    detail = f"The turn was recovered {run.row.recoveries - 1} times without progress."
    data = TurnSealedData(state.turn_id or "", "no_progress", detail, state.iteration, state.usage)
    events = [NewEvent("turn.sealed", data, turn_context(state), now)]
    return events if state.pending else [*events, _idle(state, run, now)]
