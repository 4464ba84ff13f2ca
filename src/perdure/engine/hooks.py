"""Policy hooks at work: they decide before model calls, and before and after tool calls (decision 58).

Before a call, the decision is made before the call's start is logged. What is not simply allowed is in the
log then, so that another runner does not ask again; what was allowed and has not started is asked again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial

import msgspec
from msgspec import Struct

from perdure.capabilities.arguments import INVALID_SCHEMA
from perdure.capabilities.bound_tools import BoundTool
from perdure.capabilities.guarding import About, Guard, withheld
from perdure.capabilities.model_choice import ModelChoice
from perdure.capabilities.port import ToolOutcome
from perdure.capabilities.resolve import ResolvedAgent
from perdure.domain.actions import Fail
from perdure.domain.calls import Allowed, Announced, CallState, key_of
from perdure.domain.errors import PerdureError
from perdure.domain.events import ChangedText, HookDecidedData, NewEvent, ToolCompletedData
from perdure.domain.ids import TurnId
from perdure.domain.messages import JsonObject, JsonValue, storable
from perdure.domain.policy_hooks import (
    BLOCKED,
    UNAVAILABLE,
    Answer,
    Hook,
    HookEvent,
    NoDecision,
    for_event,
    restored,
)
from perdure.domain.spans import tool_context, turn_context
from perdure.domain.turn import Calling, Idle
from perdure.domain.turn_queries import agent_ahead
from perdure.engine.guarded import guard_of
from perdure.engine.hook_questions import (
    AskedCall,
    about,
    ask,
    call_question,
    message_summaries,
    result_question,
)
from perdure.engine.outages import outlast
from perdure.engine.run import Run
from perdure.engine.site import Site
from perdure.engine.tool_outcomes import Failure, as_raw_output, error_text
from perdure.engine.tool_output import RawOutput
from perdure.engine.turn_events import fail_turn
from perdure.store.storage import open_secrets

log = logging.getLogger("perdure.hooks")

MAX_TEXT = 100_000
"""Characters of a text by which a hook may replace a message."""


def _failed(
    hook: Hook, event: HookEvent, turn_id: TurnId, why: NoDecision, call: AskedCall | None = None
) -> HookDecidedData:
    """What the log says of a hook that gave no decision."""
    log.warning("the policy hook %s gave no decision (%s): %s", hook.label, event, why)
    data = _record(hook, event, turn_id, "block" if hook.is_closed(event) else "none", call)
    return msgspec.structs.replace(data, failure=storable(str(why)))


def _record(
    hook: Hook, event: HookEvent, turn_id: TurnId, decision: str, call: AskedCall | None = None
) -> HookDecidedData:
    return HookDecidedData(
        turn_id,
        hook.label,
        event,
        "modify" if decision == "modify" else "block" if decision == "block" else "none",
        tool_call_id=None if call is None else call.id,
        tool_name=None if call is None else call.name,
    )


def _answered(
    hook: Hook, event: HookEvent, turn_id: TurnId, answer: Answer, call: AskedCall | None = None
) -> HookDecidedData:
    data = _record(hook, event, turn_id, answer.decision, call)
    return msgspec.structs.replace(data, reason=answer.reason and storable(answer.reason))


def why_blocked(last: HookDecidedData) -> str:
    """Why something is blocked, in words for people and models."""
    if last.failure is not None:
        return "the policy that decides about this gave no decision, so it is not allowed. Try again later."
    return last.reason or "no reason was given."


class _Vetted(Struct, frozen=True):
    """What hooks have decided about a call that has not started.

    Attributes:
        arguments: with the secrets, if they were modified.
        found: what guardrails have found in modified arguments.
    """

    call: CallState
    records: tuple[HookDecidedData, ...] = ()
    blocked: bool = False
    modified: bool = False
    arguments: JsonValue = None
    found: tuple[NewEvent, ...] = ()


async def vet_calls(run: Run, agent: ResolvedAgent, calls: Sequence[CallState]) -> bool:
    """Ask the hooks about those of the calls that they have not decided about, all at the same time.

    Returns:
        Whether the calls may go on as they are. If not, the log has what was decided, or has moved, and the
        next action has to be decided again.
    """
    if not agent.hooks or not any(_is_open(run, agent, call) for call in calls):
        return True
    # The model's answer is in the log before anybody else hears of it.
    if run.unlogged and not await run.commit(()):
        return False
    state, wanted = run.state, {call.id for call in calls}
    if not isinstance(state, Calling):
        return False
    asked = [call for call in state.calls if call.id in wanted and _is_open(run, agent, call)]
    vetted = await asyncio.gather(*(_vet(run, agent, state, call) for call in asked))
    now = run.engine.clock.now()
    events = []
    for each in vetted:
        if not each.records:  # allowed: that is known in this run, also if the log has moved meanwhile
            run.vetted[key_of(run.row.id, each.call)] = each.call.arguments
        context = tool_context(state, each.call.id)
        events += [*(NewEvent(data, context, now) for data in each.records), *each.found]
        if each.blocked:
            events.append(NewEvent(_refusal(run, agent, each), context, now))
    if events and not await run.commit(events):
        return False
    for each in vetted:
        if each.modified:
            run.secret_arguments[each.call.id] = each.arguments
        elif not each.blocked:
            run.vetted[key_of(run.row.id, each.call)] = each.call.arguments
    return not events


def _is_open(run: Run, agent: ResolvedAgent, call: CallState) -> bool:
    """Whether a call that may start has to be decided about.

    A call that a person approved was decided about before, unless the person changed its arguments.
    """
    match call.status:
        case Announced():
            waits = not call.vetted
        case Allowed():
            waits = call.edited and not call.vetted
        case _:
            return False
    if not waits or not for_event(agent.hooks, "before_tool", call.name):
        return False
    bound = agent.bound.get(call.name)
    if (bound is None and call.name not in agent.client) or (bound is not None and bound.rejected):
        return False  # it does not run
    key = key_of(run.row.id, call)
    return key not in run.vetted or run.vetted[key] != call.arguments


async def _vet(run: Run, agent: ResolvedAgent, state: Calling, call: CallState) -> _Vetted:
    asked = asked_call(run, agent.bound.get(call.name), state, call)
    records: list[HookDecidedData] = []
    found: list[NewEvent] = []
    modified = False
    for hook in for_event(agent.hooks, "before_tool", call.name):
        try:
            answer = await ask(run, hook, "before_tool", call_question(run, hook, "before_tool", asked))
            changed = await _changed(run, agent, hook, asked, answer)
            if changed is not None:
                found += await _guarded_arguments(run, agent, state, asked, changed[0])
        except NoDecision as error:
            records.append(_failed(hook, "before_tool", state.turn.id, error, asked))
            if hook.is_closed("before_tool"):
                return _Vetted(call, tuple(records), blocked=True, found=tuple(found))
            continue
        record = _answered(hook, "before_tool", state.turn.id, answer, asked)
        if answer.decision == "block":
            return _Vetted(call, (*records, record), blocked=True, found=tuple(found))
        if changed is not None:
            asked, modified = msgspec.structs.replace(asked, shown=changed[0], real=changed[1]), True
            records.append(msgspec.structs.replace(record, arguments=changed[0]))
    return _Vetted(call, tuple(records), modified=modified, arguments=asked.real, found=tuple(found))


async def _guarded_arguments(
    run: Run, agent: ResolvedAgent, state: Calling, asked: AskedCall, arguments: JsonObject
) -> list[NewEvent]:
    """Check the arguments of a hook with the guardrails, as those of a model; returns what was found.

    The hook may be one of a session that is bound by the checks of its agent.

    Raises:
        NoDecision: a check forbids them, or would change them.
    """
    guard = guard_of(run, agent)
    if guard is None or not guard.has("tool_use"):
        return []
    verdict = await guard.value("tool_use", arguments, asked.name)
    if verdict.changed:
        reason = next(hit.reason_code for hit in verdict.hits if hit.action in ("block", "replace"))
        raise NoDecision(f"a guardrail forbids the answer's `arguments` (reason: {reason})")
    about = About(state.turn.id, None, asked.id, asked.name)
    return verdict.events("call", tool_context(state, asked.id), run.engine.clock.now(), about)


def asked_call(run: Run, bound: BoundTool | None, state: Calling, call: CallState) -> AskedCall:
    """A call of the turn, for the hooks."""
    return AskedCall(
        state.turn.id,
        call.id,
        call.name,
        call.arguments,
        run.arguments_of(call),
        key_of(run.row.id, call),
        bound,
        agent_ahead(state, run.row.own_agent()),
    )


async def _changed(
    run: Run, agent: ResolvedAgent, hook: Hook, asked: AskedCall, answer: Answer
) -> tuple[JsonObject, JsonObject] | None:
    """The arguments that a hook replaces a call's by, without and with secrets; None if it does not.

    Raises:
        NoDecision: they cannot be used.
    """
    if answer.decision != "modify":
        return None
    if asked.bound is not None and asked.bound.tool.secret_arguments:
        raise NoDecision("the answer changes the arguments of a tool that takes secrets")
    real = restored(answer.arguments, asked.shown, asked.real) if hook.redact else answer.arguments
    if real == asked.real:
        return None
    client = agent.client.get(asked.name)
    parameters = asked.bound.tool.parameters if asked.bound is not None else client and client.parameters
    try:
        await run.engine.arguments.check((run.row.org_id, run.row.id), parameters or {}, real)
    except PerdureError as error:
        if error.retryable:
            raise
        if error.code != INVALID_SCHEMA or client is None:
            raise NoDecision(f"the answer's `arguments` do not fit: {error.message[:300]}") from None
    if not isinstance(real, dict):
        raise NoDecision("the answer's `arguments` are no JSON object")
    shown: JsonObject = run.redactor.value(real)
    return shown, real


def _refusal(run: Run, agent: ResolvedAgent, vetted: _Vetted) -> ToolCompletedData:
    call, bound = vetted.call, agent.bound.get(vetted.call.name)
    client = agent.client.get(call.name)
    tool = client if bound is None else bound.tool
    return ToolCompletedData(
        call.id,
        call.name,
        False,
        "rejected",
        error=error_text(run.redactor, f"A policy blocked this call: {why_blocked(vetted.records[-1])}"),
        display_name=None if tool is None else tool.display_name,
        capability_id=None if bound is None else bound.capability_id,
        capability_name=None if bound is None else bound.capability_name,
    )


async def vet_model_call(run: Run, agent: ResolvedAgent, choice: ModelChoice) -> bool:
    """Ask the hooks whether the model may be called with the history as it is, or summarize it.

    Each hook sees what the one before it has changed.

    Returns:
        Whether it may. If not, the turn has failed, or the log has moved.
    """
    hooks = for_event(agent.hooks, "before_model")
    if hooks and run.unlogged and not await run.commit(()):
        return False
    for hook in hooks:
        state = run.state
        if isinstance(state, Idle):
            return False
        record = await _vet_messages(run, choice, hook, state.turn.id)
        if record is None:
            continue
        events = [NewEvent(record, turn_context(state.turn), run.engine.clock.now())]
        if record.decision == "block":
            message = f"A policy blocked the model call: {why_blocked(record)}"
            code = BLOCKED if record.failure is None else UNAVAILABLE
            events += fail_turn(run, Fail(state, code, message))
            run.prepared = None  # as after any turn
        if not await run.commit(events) or record.decision == "block":
            return False
    return True


async def _vet_messages(run: Run, choice: ModelChoice, hook: Hook, turn_id: TurnId) -> HookDecidedData | None:
    """What a hook has decided about a model call; None if it allows it."""
    conversation, own = run.conversation, agent_ahead(run.state, run.row.own_agent())
    changeable = frozenset(each.id for each in conversation.unseen() if each.role == "user")
    question = about(run, "before_model", turn_id, own) | message_summaries(
        conversation.upcoming(), hook, changeable
    )
    question |= {
        "model": {"id": choice.model.id, "name": choice.model.model_id, "provider_id": choice.provider.id},
        "estimated_tokens": conversation.tokens() + conversation.waiting_tokens(),
    }
    known = {each["id"]: each for each in question["messages"]}
    try:
        answer = await ask(run, hook, "before_model", question)
        if answer.decision == "modify":
            _check_messages(answer, known)
    except NoDecision as error:
        return _failed(hook, "before_model", turn_id, error)
    if answer.decision == "allow":
        return None
    if answer.decision == "block":
        return _answered(hook, "before_model", turn_id, answer)
    texts = tuple(ChangedText(known[each.id]["id"], storable(each.text)) for each in answer.messages)
    return msgspec.structs.replace(_answered(hook, "before_model", turn_id, answer), messages=texts)


def _check_messages(answer: Answer, known: dict[str, JsonObject]) -> None:
    """Raise NoDecision if the answer changes messages that it must not."""
    for each in answer.messages:
        if not known.get(each.id, {}).get("changeable"):
            raise NoDecision(f"the answer changes the message {each.id[:60]!r}, which is not changeable")
        if len(each.text) > MAX_TEXT:
            raise NoDecision(f"the answer has a text of more than {MAX_TEXT} characters")


class Reviewed(Struct, frozen=True):
    """What hooks have left of a call's outcome, and what the log says about that."""

    output: RawOutput | None
    failure: Failure | None
    records: tuple[HookDecidedData, ...] = ()


def reviews(agent: ResolvedAgent, tool: str) -> bool:
    """Whether hooks decide about the results of a tool, which nobody may see before."""
    return bool(agent.hooks) and bool(for_event(agent.hooks, "after_tool", tool))


async def review(
    site: Site,
    agent: ResolvedAgent,
    guard: Guard | None,
    call: AskedCall,
    output: RawOutput | None,
    failure: Failure | None,
) -> Reviewed:
    """Ask the hooks about a call's outcome, before it is stored or shown.

    Args:
        guard: checks the hooks' reasons, which may quote the outcome.
    """
    if not reviews(agent, call.name):
        return Reviewed(output, failure)
    engine, row = site.engine, site.row
    read = partial(engine.database.read, lambda tx: open_secrets(tx, engine.vault, row.org_id, row.id))
    site.redactor.learn(await outlast(engine, row.id, read))  # the tool may have written a new secret
    records: list[HookDecidedData] = []
    for hook in for_event(agent.hooks, "after_tool", call.name):
        text = output.text if output is not None else "" if failure is None else failure.error
        images = 0 if output is None else len(output.images)
        question = await result_question(site, hook, call, text, success=output is not None, images=images)
        try:
            answer = await ask(site, hook, "after_tool", question)
        except NoDecision as error:
            record, new = _failed(hook, "after_tool", call.turn_id, error, call), None
        else:
            if answer.decision == "allow":
                continue
            record, new = _answered(hook, "after_tool", call.turn_id, answer, call), answer.result
            record = await _guarded_reason(guard, record, call.name)
        records.append(record)
        if record.decision == "block":
            why = f"The call was made, but a policy withheld its result: {why_blocked(record)}"
            unknown = failure is not None and output is None and failure.unknown
            rejected = Failure("rejected", error_text(site.redactor, why), unknown)
            return Reviewed(None, rejected, tuple(records))
        if record.decision == "modify":
            output, failure = _replaced(site, output, failure, new)
    return Reviewed(output, failure, tuple(records))


async def _guarded_reason(guard: Guard | None, record: HookDecidedData, tool: str) -> HookDecidedData:
    if guard is None or record.reason is None:
        return record
    verdict = await guard.text("tool_output", record.reason, tool)
    if not verdict.changed:
        return record
    reason = verdict.value if verdict.blocked is None else withheld(verdict.blocked)
    return msgspec.structs.replace(record, reason=reason)


def _replaced(
    site: Site, output: RawOutput | None, failure: Failure | None, result: JsonValue
) -> tuple[RawOutput | None, Failure | None]:
    """An outcome with the result of a hook in its place; its images are left out."""
    new = as_raw_output(ToolOutcome(result))
    if output is not None:
        return RawOutput(new.value, new.text, output.files, output.loads), failure
    if failure is None:
        return new, None
    return None, msgspec.structs.replace(failure, error=error_text(site.redactor, new.text))
