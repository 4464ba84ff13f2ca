"""One model call: streams it, retries it, and returns the events that record its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

import msgspec

from perdure.capabilities.model_choice import ModelChoice
from perdure.capabilities.resolve import ResolvedAgent
from perdure.domain.derived_messages import as_read_by
from perdure.domain.errors import ModelError
from perdure.domain.events import (
    HistoryAdaptation,
    ModelMetadata,
    NewEvent,
    OutputMessageCompletedData,
    PromptRef,
    ReasonCompletedData,
    ReasonThinkingCompletedData,
    ReasonThinkingStartedData,
)
from perdure.domain.guardrails import Hit
from perdure.domain.ids import ToolCallId
from perdure.domain.messages import (
    ContentPart,
    Message,
    TextPart,
    ToolCallPart,
    Usage,
    preview_of,
)
from perdure.domain.model_profiles import ModelProfile
from perdure.domain.money import price_at, with_cost
from perdure.domain.spans import generation_context, reason_context
from perdure.domain.times import Micros, to_rfc3339
from perdure.domain.trace_context import tracing
from perdure.domain.turn import Reasoning
from perdure.engine.answers import generate_with_content, problem_of, refuse_cut_calls
from perdure.engine.attachments import with_files
from perdure.engine.budget import (
    conversation_budget,
    learned_limits,
    should_reread,
    typed_output,
)
from perdure.engine.call_limit import MAX_CALLS, cut_calls, refuse_blocked, refuse_excess
from perdure.engine.conversation_cache import read_conversation
from perdure.engine.generation import Outcome, call_with_retries, generation_data, served_model
from perdure.engine.guarded import (
    CheckedAnswer,
    Writing,
    before_cut,
    check_answer,
    checked_failure,
    guard_of,
)
from perdure.engine.live import LiveText
from perdure.engine.made_calls import MadeCalls, made_calls
from perdure.engine.observed import observe_attempt
from perdure.engine.output_formats import TypedOutput
from perdure.engine.outputs import LiveAnswer, Verdict, as_answer, judge
from perdure.engine.patience import instead_of_failing, patience_with
from perdure.engine.recoveries import adaptation_of, logged_adaptation, recover
from perdure.engine.run import Run
from perdure.engine.secret_arguments import redact_response, redact_secret_arguments
from perdure.engine.settlements import Money
from perdure.engine.shorten import Room
from perdure.engine.spending import Refused, parked_instead, renew
from perdure.engine.tracing import call_trace
from perdure.llm.adaptations import adapted
from perdure.llm.driver import DeltaKind, ModelRequest, ModelResponse
from perdure.llm.outputs import RESULT_TOOL
from perdure.store.rows import to_json


class _Call:
    """The attempts of one model call."""

    def __init__(
        self,
        run: Run,
        state: Reasoning,
        agent: ResolvedAgent,
        choice: ModelChoice,
        budget: int,
        output: TypedOutput | None,
    ) -> None:
        self.run, self.state, self.agent, self.choice = run, state, agent, choice
        self.room = Room(run, state.turn, agent, choice, budget)
        engine = run.engine
        self.engine, self.clock = engine, engine.clock
        self.message_id = state.message_id or engine.new_id("message")
        self.context = reason_context(state.turn, state.exec_id)
        self.guard = guard_of(run, agent)
        self.cut: Hit | None = None
        """What a check found in the part of the answer that is cut off."""
        self.live = LiveText(
            engine.bus,
            session_id=run.row.id,
            turn_id=state.turn.id,
            message_id=self.message_id,
            sequence=state.head,
            interval=engine.policy.delta_interval,
            context=to_json(self.context),
            redactor=run.redactor,
            # JSON can write any character in several ways, so it is not shown before it is complete.
            hold=None if self.guard is None else self.guard.holds("output", whole=output is not None),
        )
        self.money = run.money
        self.paid_for: Usage | None = None
        """What an empty answer has used, which is part of the usage of the one after it."""
        self.output = output
        self.shown = None if output is None else LiveAnswer(self.live, wrapped=output.wrapped)
        self.started = self.clock.elapsed()
        self.first: float | None = None
        self.adapted = self.trimmed = 0
        self.adaptation = adaptation_of(run.conversation, choice.model.id)
        self.driver = choice.driver
        self.patience = patience_with(engine, choice)
        self.prompt = PromptRef(0, state.prompt_through)
        """The part of the log that the latest attempt sent."""
        self.sent: ModelRequest

    def on_delta(self, kind: DeltaKind, text: str) -> None:
        if self.money is not None:
            self.money.receive(text)
        if self.first is None:
            self.first = self.clock.elapsed() - self.started
        if self.shown is None:
            self.live.add("thinking" if kind == "thinking" else "text", text)
        else:
            self.shown.add(kind, text)

    def restart(self) -> None:
        """Take back what followers have seen of the answer."""
        self.live.restart()
        if self.shown is not None:
            self.shown.restart()

    def _system(self) -> str:
        """The system prompt, with the schema in words if nothing else tells the model, or did in vain."""
        system, output = self.agent.system, self.output
        told = RESULT_TOOL not in self.adaptation.parameters_left_out and not self.state.turn.rejected
        return system if output is None or told else f"{system}\n\n{output.instruction()}".lstrip()

    def _longest_answer(self) -> int | None:
        """The tokens of the answer to ask for: what the model gives, and what its budgets have money for."""
        limits = [self.room.max_output, None if self.money is None else self.money.output]
        return min((each for each in limits if each is not None), default=None)

    async def request(self) -> tuple[ModelRequest, PromptRef]:
        conversation = self.run.conversation
        messages, after = self.room.prompt()
        if conversation.has_files:
            messages = await with_files(self.run, self.agent, self.choice, self.adaptation, messages)
        if self.adaptation.changes or self.adaptation.images_left_out:
            messages = adapted(messages, self.adaptation)
        messages = as_read_by(messages, self.run.voice.reader)
        controls = self.run.state.controls
        effort = controls.reasoning.effort if controls and controls.reasoning else None
        request = ModelRequest(
            model=self.choice.model.model_id,
            system=self._system(),
            messages=messages,
            tools=self.agent.specs,
            reasoning_effort=effort,
            parallel_tool_calls=self.agent.parallel_tool_calls,
            max_output_tokens=self._longest_answer(),
            cache_key=self.run.row.id,
            prompt_caching=self.agent.behaviour.prompt_caching,
            changes=frozenset(self.adaptation.changes),
            left_out=frozenset(self.adaptation.parameters_left_out),
            output=None if self.output is None else self.output.form,
            first_byte=self.patience.first_byte,
        )
        return request, PromptRef(
            after,
            self.state.prompt_through,
            conversation.summary_at,
            results=conversation.cut_results,
            reader=self.run.voice.reader,
        )

    async def make(self) -> Outcome:
        """Make the call, with retries."""
        try:
            attempts = await call_with_retries(
                self.engine,
                self._generate,
                self._recover,
                redactor=self.run.redactor,
                patience=self.patience,
                noted=partial(observe_attempt, self.engine, self.run.row, self.choice, self.state.turn.id),
            )
        except BaseException:
            self.live.stop()
            raise
        if attempts.response is None:
            self.live.stop()
        else:
            if self.guard is None:
                self.live.finish()
            self.room.accepted()
        duration = self.clock.elapsed() - self.started
        return Outcome(
            attempts.response,
            attempts.error,
            attempts.count,
            attempts.waited,
            duration,
            self.first,
            self.prompt,
        )

    async def _generate(self) -> ModelResponse:
        if self.money is not None and self.money.is_owed:
            await self._renew(self.money)  # the attempt before broke off, and has to be paid for
        self.paid_for = None
        self.sent, self.prompt = await self.request()
        if self.money is not None:
            self.money.send()
        with tracing(call_trace(self.engine, self.state.turn, generation_context(self.state))):
            response = await generate_with_content(self.driver, self.sent, self.on_delta, self._begin_again)
        response = response if self.output is None else as_answer(response, self.output)
        response, self.cut = await before_cut(self.guard, response)
        return response

    @property
    def writing(self) -> Writing:
        """The message, for the events of checks."""
        typed = self.output is not None
        return Writing(self.state.turn.id, self.message_id, self.context, typed)

    async def check(self, response: ModelResponse) -> CheckedAnswer:
        """Check an answer, and show what was held back of it."""
        thinking = response.thinking or ""
        clean = self.live.clean("text", response.text), self.live.clean("thinking", thinking)
        writing = msgspec.structs.replace(self.writing, clean=clean)
        try:
            checked = await check_answer(self.guard, response, writing, self.clock.now(), self.cut)
        except BaseException:
            self.live.stop()
            raise
        if checked.replaced:
            self.live.stop()
        elif self.guard is not None:
            response = checked.response
            self.live.finish_checked({"thinking": response.thinking or "", "text": response.text})
        return checked

    async def _begin_again(self, used: Usage | None) -> None:
        """Take back an empty answer, which has been paid for, before the call is made once more."""
        self.restart()
        if self.money is not None:
            self.paid_for = used
            await self._renew(self.money, used)

    async def _renew(self, money: Money, used: Usage | None = None) -> None:
        self.money = None
        self.money = await renew(self.run, self.agent, self.choice, money, used)
        if self.money is not None:
            self.money.send()

    def settle(self, outcome: Outcome) -> list[NewEvent]:
        """Have the next append settle the call; returns the events of the limits that it has reached."""
        money, self.money, self.run.money = self.money, None, None
        if money is None:
            return []
        if outcome.response is None:  # what was refused costs nothing
            settlement = money.given_up() if money.is_owed else money.settlement(Usage(0, 0))
        else:
            used = outcome.response.usage
            if used is not None and self.paid_for is not None:
                used = used.minus(self.paid_for)
            settlement = money.settlement(used)
        self.run.settling.append(msgspec.structs.replace(settlement, announced=True))
        return settlement.events(self.state.turn, self.clock.now())

    async def _recover(self, error: ModelError) -> bool:
        self.restart()
        changed = await recover(self, error)
        self.live.sequence = self.run.state.head  # a compaction has appended events
        return changed

    def logged_adaptation(self) -> HistoryAdaptation | None:
        """What the log says about the request, so that later calls and other processes know it."""
        ceiling = self.run.conversation.ceilings.get(self.choice.model.id)
        return logged_adaptation(self.adaptation, ceiling, learned_limits(self.run, self.choice))

    async def shorten(self, error: ModelError) -> bool:
        """Shorten the prompt if the model rejected it as too long; returns whether that was possible."""
        return await self.room.shorten(error)

    def ask_for_less(self, error: ModelError) -> bool:
        """Try a shorter answer or less of the history; what was changed in vain in its form is undone."""
        if not self.room.try_less(error):
            return False
        known = adaptation_of(self.run.conversation, self.choice.model.id)
        left_out = self.adaptation.parameters_left_out  # the server named these
        self.adaptation = msgspec.structs.replace(known, parameters_left_out=left_out)
        return True


async def call_model(run: Run, agent: ResolvedAgent, choice: ModelChoice) -> list[NewEvent]:
    """Make the model call whose start is in the log; returns the events that complete it."""
    catalog = run.engine.catalog
    served = served_model(choice)
    profile = catalog.at_hand(served)
    state = run.phase(Reasoning)
    output = typed_output(run, agent)
    budget = conversation_budget(run, agent, choice)
    await _reread_if_cut(run, budget)
    # Look up the price while the model works: the first lookup in a process is slow.
    lookup = None if catalog.is_ready(served) else asyncio.ensure_future(catalog.profile(served))
    try:
        call = _Call(run, state, agent, choice, budget, output)
        outcome = await call.make()
        reached = call.settle(outcome)
        if outcome.response is None:
            return await _instead_of_failing(call, outcome, reached)
        profile = profile if lookup is None else await lookup
        outcome.response = _response_with_cost(outcome.response, profile)
        outcome.price = price_at(outcome.response.usage, profile)
        checked = await call.check(outcome.response)
    finally:
        if lookup is not None:
            lookup.cancel()
    response = outcome.response = checked.response
    outcome.error = problem_of(response)
    if outcome.error is not None:
        return [*reached, *checked.events, *_unusable_events(call, outcome, response)]
    verdict = None
    if output is not None and not response.tool_calls and not checked.replaced:
        verdict = await judge(run, output, response)
    made = await _calls_of(call, response)
    return [*reached, *checked.events, *_answer_events(call, outcome, response, verdict, made)]


async def _calls_of(call: _Call, response: ModelResponse) -> MadeCalls:
    return await made_calls(call.run, call.agent, call.guard, response, call.writing)


async def _instead_of_failing(call: _Call, outcome: Outcome, reached: list[NewEvent]) -> list[NewEvent]:
    """The events of a call without an answer. One without money for another attempt parks its turn."""
    error = outcome.error
    if not isinstance(error, Refused):
        return [*reached, *_failure_events(call, outcome)]
    failure = [*reached, *_failed_call(call, outcome, error)]
    return await parked_instead(call.run, call.message_id, error.refusal, failure)


async def _reread_if_cut(run: Run, budget: int) -> None:
    """Read the conversation again when it was cut for a model with a much smaller window."""
    if not should_reread(run, budget):
        return
    row_id, head = run.row.id, run.state.head
    # A failure interrupts the run: the model must not get less because the database was slow.
    wider = await run.engine.database.read(lambda tx: read_conversation(tx, row_id, head, budget))
    wider.ceilings = run.conversation.ceilings
    run.conversation = wider


def _response_with_cost(response: ModelResponse, profile: ModelProfile | None) -> ModelResponse:
    return msgspec.structs.replace(response, usage=with_cost(response.usage, profile))


def _unusable_events(call: _Call, outcome: Outcome, response: ModelResponse) -> list[NewEvent]:
    """The events of an answer that fails the turn. Its text is kept; its tool calls are not made."""
    now, choice = call.clock.now(), call.choice
    response = msgspec.structs.replace(response, tool_calls=())
    outcome.response = response
    events = _thinking_events(call, response, now)
    if response.text.strip():
        message = _build_message(call, response, (), now, final=True)
        metadata = ModelMetadata(choice.model.model_id, choice.model.id, choice.provider.id)
        data = OutputMessageCompletedData(message, metadata, response.usage)
        events.append(NewEvent(data, call.context, now))
    return events + _failure_events(call, outcome)


def _failure_events(call: _Call, outcome: Outcome) -> list[NewEvent]:
    outcome.error = checked_failure(call.guard, outcome.error)
    error = outcome.error or ModelError("no answer", code="provider_bad_response")
    failure = _failed_call(call, outcome, error)
    return instead_of_failing(call.run, call.choice, call.message_id, error, failure)


def _failed_call(call: _Call, outcome: Outcome, error: ModelError) -> list[NewEvent]:
    now = call.clock.now()
    completed = ReasonCompletedData(
        success=False,
        has_tool_calls=False,
        tool_call_count=0,
        duration_ms=round(outcome.duration * 1000),
        error=error.message,
        error_code=error.code,
        usage=outcome.response.usage if outcome.response else None,
        adaptation=call.logged_adaptation(),
    )
    return [
        NewEvent(
            generation_data(call.choice, outcome, call.run.voice.agent_id),
            generation_context(call.state),
            now,
        ),
        NewEvent(completed, call.context, now),
    ]


def _answer_events(
    call: _Call, outcome: Outcome, response: ModelResponse, verdict: Verdict | None, made: MadeCalls
) -> list[NewEvent]:
    run, choice, now = call.run, call.choice, call.clock.now()
    calls, errors = made.checked.calls, made.checked.errors
    response = cut_calls(response)
    if call.guard is not None:
        response = msgspec.structs.replace(response, tool_calls=calls)  # also in the log of the model call
    events = [*made.checked.generations, *_thinking_events(call, response, now), *made.repairs]
    redacted = redact_secret_arguments(run, call.agent, calls)
    outcome = msgspec.structs.replace(outcome, response=redact_response(response, calls, redacted))
    final = not redacted and (verdict is None or not verdict.problems)
    message = _build_message(call, response, redacted, now, final=final)
    metadata = ModelMetadata(choice.model.model_id, choice.model.id, choice.provider.id)
    completed = ReasonCompletedData(
        success=True,
        has_tool_calls=bool(calls),
        tool_call_count=len(calls),
        duration_ms=round(outcome.duration * 1000),
        # Redact before truncating: a secret that is cut in half would not be recognized.
        text_preview=preview_of(run.redactor.text(response.text)) or None,
        usage=response.usage,
        adaptation=call.logged_adaptation(),
    )
    events += [
        NewEvent(OutputMessageCompletedData(message, metadata, response.usage), call.context, now),
        NewEvent(generation_data(choice, outcome, run.voice.agent_id), generation_context(call.state), now),
        NewEvent(completed, call.context, now),
        *made.checked.hits,
        *refuse_blocked(call.state, redacted, errors, now),
        *refuse_cut_calls(call.state, response, _others(redacted[:MAX_CALLS], errors), now),
        *refuse_excess(call.state, redacted, made.made, now, errors),
    ]
    return events if verdict is None else [*events, verdict.event(call.state, message.id, now)]


def _others(calls: tuple[ToolCallPart, ...], errors: Mapping[ToolCallId, str]) -> tuple[ToolCallPart, ...]:
    return tuple(call for call in calls if call.id not in errors) if errors else calls


def _thinking_events(call: _Call, response: ModelResponse, now: Micros) -> list[NewEvent]:
    if not response.thinking:
        return []
    turn_id = call.state.turn.id
    return [
        NewEvent(ReasonThinkingStartedData(turn_id, call.choice.model.model_id), call.context, now),
        NewEvent(ReasonThinkingCompletedData(turn_id, response.thinking), call.context, now),
    ]


def _build_message(
    call: _Call, response: ModelResponse, calls: tuple[ToolCallPart, ...], now: Micros, *, final: bool
) -> Message:
    parts: tuple[ContentPart, ...] = (TextPart(response.text),) if response.text or not calls else ()
    return Message(
        id=call.message_id,
        role="agent",
        content=(*parts, *calls),
        created_at=to_rfc3339(now),
        phase="final_answer" if final else "commentary",
        thinking=response.thinking,
        thinking_signature=response.thinking_signature,
        reasoning_provider=call.choice.driver.provider_type if response.reasoning_items else None,
        reasoning_items=response.reasoning_items or None,
        author=call.run.voice.author,
    )
