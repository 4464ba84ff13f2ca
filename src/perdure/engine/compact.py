"""Compaction: the model sums up the older part of a history that fills its room.

The log says that it begins, what each model call of it came to, and what stands in the place of the older
part. A runner that dies in between leaves nothing that matters: whoever goes on finds the history as full as
it was, and begins again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import msgspec

from perdure.capabilities.resolve import ModelChoice, ResolvedAgent
from perdure.domain.compaction import (
    MAX_SUMMARY,
    SYSTEM,
    Compaction,
    CompactionStepData,
    ContextCompactedData,
    ContextCompactingData,
    record_of,
    summary_message,
    summary_request,
)
from perdure.domain.errors import ModelError
from perdure.domain.events import EventContext, NewEvent, PromptRef, ToolCompletedData
from perdure.domain.history import CHARACTERS_PER_TOKEN, Entry, estimate_tokens, result_message
from perdure.domain.messages import Message
from perdure.domain.spans import compaction_context, summary_context
from perdure.domain.turn import Turn
from perdure.engine.budget import least_room, priced, room
from perdure.engine.generation import Outcome, attempted, generation_data, place_of
from perdure.engine.run import Run
from perdure.llm.driver import DeltaKind, ModelRequest

LEAST = 0.1
"""Share of the room that a compaction ahead of time must free, or it is not worth its model call."""

LEAST_TOKENS = 120
"""What a short summary takes, with the words around it."""

PIECE = 0.6
"""Share of the room that one model call of a compaction is given; a longer part is summed up piece by
piece."""

MAX_HALVINGS = 4
"""How often a piece that the model finds too long is halved."""

LEAST_SUMMARY = 500
"""Characters that a summary may always take."""

STRATEGY = "summary"

log = logging.getLogger("perdure.engine")

Reason = Literal["proactive_budget", "request_too_large"]


def is_full(run: Run, agent: ResolvedAgent, choice: ModelChoice) -> bool:
    """Whether the history is fuller than the rules allow, and there is a part to be summed up."""
    rules = agent.behaviour.compaction
    if rules is None or run.uncompactable:
        return False
    load = run.conversation.tokens() + run.conversation.waiting_tokens() + _facts_tokens(run)
    if load <= rules.at * least_room(run, choice):
        return False  # most sessions, and they pay nothing for more exact numbers
    budget = room(run, agent, choice)
    if load <= rules.at * budget:
        return False
    parts = _older_part(run, rules, budget)
    if parts is None:
        return False
    # Over the whole room, what is not summed up now would be left out of the call, however little it is.
    return load > budget or sum(entry.tokens for entry in parts[0]) >= max(LEAST * budget, LEAST_TOKENS)


def _facts_tokens(run: Run) -> int:
    results = (fact.get(ToolCompletedData) for fact in run.facts)
    return sum(estimate_tokens(result_message(data, 0)) for data in results if data is not None)


def _older_part(run: Run, rules: Compaction, budget: int) -> tuple[list[Entry], int] | None:
    return run.conversation.split(int(rules.keep * budget))


async def compact(run: Run, turn: Turn, agent: ResolvedAgent, choice: ModelChoice, reason: Reason) -> bool:
    """Sum up the older part of the history.

    Args:
        turn: the turn that needs the room.

    Returns:
        Whether the history is shorter now. When it is not, it is not tried again in this run.

    Raises:
        Fenced: the session is somebody else's now.
    """
    rules = agent.behaviour.compaction
    if rules is None or run.uncompactable:
        return False
    while run.facts:
        await run.commit(())  # what came of the last step belongs to the history
    budget = room(run, agent, choice)
    parts = _older_part(run, rules, budget)
    if parts is None:
        return False
    older, after = parts
    conversation, clock = run.conversation, run.engine.clock
    context, before, began = compaction_context(turn, run.state.head), conversation.count(), clock.elapsed()
    begin = ContextCompactingData(reason, STRATEGY, before)
    await _append(run, [NewEvent(begin, context, clock.now())])
    summing = _Summing(
        run, choice, rules, context, before, longest=max(LEAST_SUMMARY, min(MAX_SUMMARY, budget))
    )
    summary = await summing.sum_up(older, int(PIECE * budget), after)
    duration = round((clock.elapsed() - began) * 1000)
    if summary is None:
        run.uncompactable = True
        log.warning("session %s: its history could not be summed up: %s", run.row.id, summing.error)
        done = ContextCompactedData(
            "none", before, before, duration, tuple(summing.steps), error=summing.error
        )
    else:
        left = before - len(older) - (conversation.summary is not None) + 1
        done = ContextCompactedData("summary", before, left, duration, tuple(summing.steps), summary, after)
    await _append(run, [*summing.events, NewEvent(done, context, clock.now())])
    return summary is not None


async def _append(run: Run, events: Sequence[NewEvent]) -> None:
    """Append whatever else comes.

    A message or a result in between changes nothing about what is said here.
    """
    while not await run.commit(events):
        pass


class _Summing:
    """The model calls of one compaction.

    Args:
        before: messages of the history.
        longest: characters of the summary that are kept: about a quarter of the room, so that a summary does
            not fill it.
    """

    def __init__(
        self,
        run: Run,
        choice: ModelChoice,
        rules: Compaction,
        context: EventContext,
        before: int,
        *,
        longest: int,
    ) -> None:
        self.run, self.choice, self.rules, self.context = run, choice, rules, context
        self.left = before
        self.longest = longest
        self.events: list[NewEvent] = []
        self.steps: list[CompactionStepData] = []
        self.error = "the model gave no summary"

    async def sum_up(self, older: Sequence[Entry], size: int, after: int) -> str | None:
        """A summary of this part and of the summary so far, or None.

        Args:
            size: tokens that a call is given at a time.
            after: the sequence after which the log gives what follows the part.
        """
        summary, halvings, begin = self.run.conversation.summary, 0, 0
        text: str | None = None
        while begin < len(older):
            end = _end_of_piece(older, begin, size)
            until = older[end].begin if end < len(older) else after
            ref = self.run.conversation.summary_at if begin == 0 else None
            outcome = await self._call(
                [entry.message for entry in older[begin:end]],
                summary,
                PromptRef(older[begin].begin, self.run.state.head, ref, until),
            )
            if _too_long(outcome.error) and halvings < MAX_HALVINGS:
                halvings, size = halvings + 1, max(size // 2, 1)
                continue
            text = self._taken(outcome, end - begin)
            if text is None:
                return None
            summary = summary_message(text, self.run.state.head, self.run.engine.clock.now())
            begin = end
        return text

    def _taken(self, outcome: Outcome, messages: int) -> str | None:
        """The text of a call's answer, with the event and the step that tell of it."""
        now = self.run.engine.clock.now()
        context = summary_context(self.context, len(self.events))
        self.events.append(NewEvent(generation_data(self.choice, outcome), context, now))
        if outcome.response is None or not outcome.response.text.strip():
            self.error = outcome.error.message if outcome.error else self.error
            return None
        self.left -= messages
        self.steps.append(CompactionStepData(STRATEGY, self.left + 1, round(outcome.duration * 1000)))
        return outcome.response.text.strip()[: self.longest]

    async def _call(self, messages: Sequence[Message], summary: Message | None, prompt: PromptRef) -> Outcome:
        engine = self.run.engine
        request = ModelRequest(
            model=self.choice.model.model_id,
            system=SYSTEM,
            messages=summary_request(
                record_of(messages), summary, self.rules.instructions, engine.clock.now()
            ),
        )
        began = engine.clock.elapsed()
        tried = await attempted(engine, lambda: self.choice.driver.generate(request, _unseen))
        response = tried.response
        if response is not None:
            profile = await engine.catalog.profile(place_of(self.choice))
            response = msgspec.structs.replace(response, usage=priced(response.usage, profile), tool_calls=())
        return Outcome(
            response, tried.error, tried.count, tried.waited, engine.clock.elapsed() - began, None, prompt
        )


def _unseen(kind: DeltaKind, text: str) -> None:
    """A summary is not shown while it is written."""


def _too_long(error: ModelError | None) -> bool:
    return error is not None and error.code == "context_length_exceeded"


def _end_of_piece(older: Sequence[Entry], begin: int, size: int) -> int:
    """Where a piece of about `size` tokens ends.

    Before a message of the user or the agent, and after at least one.
    """
    taken, end = 0, begin
    for index in range(begin, len(older)):
        if index > begin and older[index].message.role != "tool_result":
            end = index
        taken += len(record_of((older[index].message,))) // CHARACTERS_PER_TOKEN
        if taken > size and end > begin:
            return end
    return len(older)
