"""One model call: streamed, retried, and turned into the events that say what came of it."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec

from perdure.capabilities.resolve import ModelChoice, ResolvedAgent
from perdure.domain.errors import ModelError, PerdureError
from perdure.domain.events import (
    ModelMetadata,
    NewEvent,
    OutputMessageCompletedData,
    PromptRef,
    ReasonCompletedData,
    ReasonThinkingCompletedData,
    ReasonThinkingStartedData,
    ToolCallRepairedData,
)
from perdure.domain.ids import ToolCallId
from perdure.domain.messages import (
    ContentPart,
    ImageFilePart,
    JsonObject,
    Message,
    TextPart,
    ToolCallPart,
    preview_of,
    storable,
)
from perdure.domain.model_profiles import ModelProfile
from perdure.domain.repair import fit_arguments, repair_arguments, repair_name
from perdure.domain.spans import generation_context, reason_context
from perdure.domain.times import Micros, to_rfc3339
from perdure.domain.turn import Reasoning
from perdure.engine.budget import is_wider, priced, room
from perdure.engine.compact import compact
from perdure.engine.conversation_cache import read_conversation
from perdure.engine.generation import Outcome, attempted, generation_data, place_of
from perdure.engine.live import LiveText
from perdure.engine.run import Run
from perdure.engine.secret_arguments import shown_response, withhold
from perdure.llm.driver import DeltaKind, ModelRequest, ModelResponse
from perdure.store.rows import to_json

MAX_SHRINKS = 3
"""How often a prompt that the model finds too long is halved and tried again."""


class _Call:
    """The attempts of one model call."""

    def __init__(
        self, run: Run, state: Reasoning, agent: ResolvedAgent, choice: ModelChoice, budget: int
    ) -> None:
        self.run, self.state, self.agent, self.choice = run, state, agent, choice
        self.budget = budget
        engine = run.engine
        self.engine, self.clock = engine, engine.clock
        self.message_id = state.message_id or engine.new_id("message")
        self.context = reason_context(state.turn, state.exec_id)
        self.live = LiveText(
            engine.bus,
            session_id=run.row.id,
            turn_id=state.turn.id,
            message_id=self.message_id,
            sequence=state.head,
            interval=engine.policy.delta_interval,
            context=to_json(self.context),
            redactor=run.redactor,
        )
        self.started = self.clock.elapsed()
        self.first: float | None = None
        self.shrinks = 0
        self.prompt = PromptRef(0, state.prompt_through)
        """What the newest attempt was shown."""

    def on_delta(self, kind: DeltaKind, text: str) -> None:
        if self.first is None:
            self.first = self.clock.elapsed() - self.started
        self.live.add(kind, storable(text))

    def request(self) -> tuple[ModelRequest, PromptRef]:
        conversation = self.run.conversation
        messages, after = conversation.prompt(self.budget)
        controls = self.run.state.controls
        effort = controls.reasoning.effort if controls and controls.reasoning else None
        request = ModelRequest(
            model=self.choice.model.model_id,
            system=self.agent.system,
            messages=[_without_files(message) for message in messages]
            if conversation.has_files
            else messages,
            tools=self.agent.specs,
            reasoning_effort=effort,
            parallel_tool_calls=self.agent.parallel_tool_calls,
            cache_key=self.run.row.id,
            prompt_caching=self.agent.behaviour.prompt_caching,
        )
        return request, PromptRef(after, self.state.prompt_through, conversation.summary_at)

    async def make(self) -> Outcome:
        """Try until it is answered or there is no point in trying."""
        try:
            tried = await attempted(self.engine, self._generate, self._recover)
        except BaseException:
            self.live.stop()
            raise
        if tried.response is None:
            self.live.stop()
        else:
            self.live.finish()
        duration = self.clock.elapsed() - self.started
        return Outcome(
            tried.response, tried.error, tried.count, tried.waited, duration, self.first, self.prompt
        )

    async def _generate(self) -> ModelResponse:
        request, self.prompt = self.request()
        return await self.choice.driver.generate(request, self.on_delta)

    async def _recover(self, error: ModelError) -> bool:
        self.live.restart()
        if (
            error.code != "context_length_exceeded"
            or self.shrinks >= MAX_SHRINKS
            or not await self._shorten()
        ):
            return False
        self.shrinks += 1
        return True

    async def _shorten(self) -> bool:
        """Show the model less, after it has found the prompt too long; whether that can be done."""
        refused = self.run.conversation.tokens()
        if not await compact(self.run, self.state.turn, self.agent, self.choice, "request_too_large"):
            return self._shrink()
        self.live.sequence = self.run.state.head
        self._limit(max(refused * 9 // 10, 1))
        return True

    def _limit(self, budget: int) -> None:
        """Remember that this model takes no more."""
        self.budget = budget
        self.run.conversation.ceilings[self.choice.model.id] = budget

    def _shrink(self) -> bool:
        before = self.run.conversation.tokens()
        self._limit(max(before // 2, 1))
        self.run.conversation.prompt(self.budget)
        return self.run.conversation.tokens() < before


def _without_files(message: Message) -> Message:
    """Uploaded images are not kept yet: a call that refers to one is told so instead of failing the turn."""
    if not any(isinstance(part, ImageFilePart) for part in message.content):
        return message
    parts: list[ContentPart] = [
        TextPart(f"[image {part.image_id} is not available]") if isinstance(part, ImageFilePart) else part
        for part in message.content
    ]
    return msgspec.structs.replace(message, content=tuple(parts))


async def call_model(run: Run, agent: ResolvedAgent, choice: ModelChoice) -> list[NewEvent]:
    """Make the model call that the log has announced; the events that complete it."""
    catalog = run.engine.catalog
    place = place_of(choice)
    profile = catalog.at_hand(place)
    budget = room(run, agent, choice)
    await _widen(run, budget)
    # The price is looked for while the model works: the first look-up in a process takes a moment.
    pricing = None if catalog.is_ready(place) else asyncio.ensure_future(catalog.profile(place))
    try:
        call = _Call(run, run.phase(Reasoning), agent, choice, budget)
        outcome = await call.make()
        if outcome.response is None:
            return _failed(call, outcome)
        outcome.response = _with_cost(outcome.response, profile if pricing is None else await pricing)
    finally:
        if pricing is not None:
            pricing.cancel()
    return _answered(call, outcome, outcome.response)


async def _widen(run: Run, budget: int) -> None:
    """Read the conversation again when it was cut for a model with a much smaller window."""
    if not is_wider(run, budget):
        return
    row_id, head = run.row.id, run.state.head
    with contextlib.suppress(PerdureError):  # the shorter conversation is good enough to go on with
        wider = await run.engine.database.read(lambda tx: read_conversation(tx, row_id, head, budget))
        wider.ceilings = run.conversation.ceilings
        run.conversation = wider


def _with_cost(response: ModelResponse, profile: ModelProfile | None) -> ModelResponse:
    return msgspec.structs.replace(response, usage=priced(response.usage, profile))


def _failed(call: _Call, outcome: Outcome) -> list[NewEvent]:
    now = call.clock.now()
    error = outcome.error or ModelError("no answer", code="provider_bad_response")
    completed = ReasonCompletedData(
        success=False,
        has_tool_calls=False,
        tool_call_count=0,
        duration_ms=round(outcome.duration * 1000),
        error=error.message,
        error_code=error.code,
    )
    return [
        NewEvent(generation_data(call.choice, outcome), generation_context(call.state), now),
        NewEvent(completed, call.context, now),
    ]


def _answered(call: _Call, outcome: Outcome, response: ModelResponse) -> list[NewEvent]:
    run, choice, now = call.run, call.choice, call.clock.now()
    events = _thoughts(call, response, now)
    calls, repaired = _repaired(call, _distinct(response.tool_calls))
    events += repaired
    shown = withhold(run, call.agent, calls)
    outcome = msgspec.structs.replace(outcome, response=shown_response(response, calls, shown))
    message = _message(call, response, shown, now)
    metadata = ModelMetadata(choice.model.model_id, choice.model.id, choice.provider.id)
    completed = ReasonCompletedData(
        success=True,
        has_tool_calls=bool(calls),
        tool_call_count=len(calls),
        duration_ms=round(outcome.duration * 1000),
        # Before it is cut: half a secret would not be found any more.
        text_preview=preview_of(run.redactor.text(response.text)) or None,
        usage=response.usage,
    )
    events += [
        NewEvent(OutputMessageCompletedData(message, metadata, response.usage), call.context, now),
        NewEvent(generation_data(choice, outcome), generation_context(call.state), now),
        NewEvent(completed, call.context, now),
    ]
    return events


def _thoughts(call: _Call, response: ModelResponse, now: Micros) -> list[NewEvent]:
    if not response.thinking:
        return []
    turn_id = call.state.turn.id
    return [
        NewEvent(ReasonThinkingStartedData(turn_id, call.choice.model.model_id), call.context, now),
        NewEvent(ReasonThinkingCompletedData(turn_id, response.thinking), call.context, now),
    ]


def _message(call: _Call, response: ModelResponse, calls: tuple[ToolCallPart, ...], now: Micros) -> Message:
    parts: tuple[ContentPart, ...] = (TextPart(response.text),) if response.text or not calls else ()
    return Message(
        id=call.message_id,
        role="agent",
        content=(*parts, *calls),
        created_at=to_rfc3339(now),
        phase="commentary" if calls else "final_answer",
        thinking=response.thinking,
        thinking_signature=response.thinking_signature,
        reasoning_provider=call.choice.driver.provider_type if response.reasoning_items else None,
        reasoning_items=response.reasoning_items or None,
    )


def _repaired(
    call: _Call, asked: tuple[ToolCallPart, ...]
) -> tuple[tuple[ToolCallPart, ...], list[NewEvent]]:
    """The tool calls with small slips mended, and an event for each that was."""
    agent = call.agent
    if not agent.behaviour.repair_tool_calls:
        return asked, []
    known = {*agent.bound, *agent.client}
    mended: list[ToolCallPart] = []
    events: list[NewEvent] = []
    for part in asked:
        name = repair_name(part.name, known)
        arguments = repair_arguments(part.arguments) if isinstance(part.arguments, str) else None
        read = part.arguments if arguments is None else arguments
        if (
            isinstance(read, dict)
            and (fitted := fit_arguments(read, _parameters(agent, name or part.name))) != read
        ):
            arguments = fitted
        better = msgspec.structs.replace(
            part, name=name or part.name, arguments=part.arguments if arguments is None else arguments
        )
        mended.append(better)
        if better != part:
            outcome = "name" if arguments is None else "arguments" if name is None else "name_and_arguments"
            data = ToolCallRepairedData(part.id, better.name, call.state.turn.id, outcome)
            events.append(NewEvent(data, call.context, call.clock.now()))
    return tuple(mended), events


def _parameters(agent: ResolvedAgent, name: str) -> JsonObject:
    """The JSON Schema of a tool's arguments, whoever runs it; an empty one if there is no such tool."""
    if name in agent.bound:
        return agent.bound[name].tool.parameters
    return agent.client[name].parameters if name in agent.client else {}


def _distinct(calls: tuple[ToolCallPart, ...]) -> tuple[ToolCallPart, ...]:
    """The calls with ids that occur once: results are matched by id."""
    seen: set[str] = set()
    distinct = []
    for index, call in enumerate(calls):
        identity = call.id or ToolCallId(f"call_{index}")
        while identity in seen:
            identity = ToolCallId(f"{identity}_{index}")
        seen.add(identity)
        distinct.append(call if identity == call.id else msgspec.structs.replace(call, id=identity))
    return tuple(distinct)
