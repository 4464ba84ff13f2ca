"""Compaction: the model summarizes the older part of a history that fills its budget.

The log records its start, each of its model calls, and the summary that replaces the older part. If a runner
dies in between, nothing has to be undone: the next runner finds the history as full as before, and starts
again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Literal

import msgspec

from perdure.capabilities.guarding import Guard
from perdure.capabilities.model_choice import ModelChoice
from perdure.capabilities.resolve import ResolvedAgent
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
from perdure.domain.events import (
    EventContext,
    NewEvent,
    PromptRef,
)
from perdure.domain.history import Entry, estimate_tokens
from perdure.domain.messages import Message, Usage
from perdure.domain.money import price_at, with_cost
from perdure.domain.result_sizes import share_of
from perdure.domain.spans import compaction_context, summary_context
from perdure.domain.tokens import text_tokens
from perdure.domain.turn import Idle
from perdure.domain.turn_totals import Turn
from perdure.engine.budget import (
    added_tokens,
    conversation_budget,
    counted,
    smallest_budget,
)
from perdure.engine.generation import Attempts, Outcome, call_with_retries, generation_data, served_model
from perdure.engine.guarded import checked_failure, checked_summary, guard_of
from perdure.engine.observed import observe_attempt
from perdure.engine.patience import patience_with
from perdure.engine.recoveries import adaptation_of, refused_by
from perdure.engine.run import Run
from perdure.engine.settlements import Money
from perdure.engine.spending import side_money
from perdure.llm.driver import DeltaKind, ModelRequest, ModelResponse, prompt_tokens

MIN_SHARE = 0.1
"""Share of the budget that a compaction must free to be worth its model call, if the history still fits."""

MIN_TOKENS = 120
"""Tokens of a short summary, with the text around it."""

PIECE = 0.6
"""Share of the budget that one model call summarizes; a longer part is summarized piece by piece."""

MAX_HALVINGS = 4
"""How often a piece is halved that is too long for the model."""

MIN_SUMMARY = 500
"""Characters that a summary may have, however small the budget is."""

STRATEGY = "summary"

log = logging.getLogger("perdure.engine")

Reason = Literal["proactive_budget", "request_too_large"]


def is_full(run: Run, agent: ResolvedAgent, choice: ModelChoice, queued: Message | None = None) -> bool:
    """Whether the history is longer than the rules allow, and a part of it can be summarized.

    Args:
        queued: the message of the next turn, if it waited for that: the history does not have it yet.
    """
    rules = agent.behaviour.compaction
    if rules is None or run.uncompactable == choice.model.id or run.conversation.rest:
        return False
    more = 0 if queued is None else estimate_tokens(queued)
    if _load(run) + more <= rules.at * smallest_budget(run, choice):
        return False  # true of most sessions, which are so spared the exact computation
    budget = conversation_budget(run, agent, choice)
    run.conversation.fit_results(share_of(budget))
    load = _load(run) + more
    if load <= rules.at * budget:
        return False
    parts = _older_part(run, rules, budget)
    if parts is None:
        return False
    # Over the whole budget, what is not summarized now would be missing from the call, however little it is.
    return load > budget or sum(entry.tokens for entry in parts[0]) >= max(MIN_SHARE * budget, MIN_TOKENS)


def _load(run: Run) -> int:
    """The tokens of the conversation with everything that the next model call adds."""
    return run.conversation.tokens() + added_tokens(run)


def _older_part(run: Run, rules: Compaction, budget: int) -> tuple[list[Entry], int] | None:
    return run.conversation.split(int(rules.keep * budget))


async def compact(run: Run, turn: Turn, agent: ResolvedAgent, choice: ModelChoice, reason: Reason) -> bool:
    """Summarize the older part of the history.

    Args:
        turn: the turn whose model call needs the space.
        reason: why the history is compacted, for the log.

    Returns:
        Whether the history is shorter now. If not, this run does not try again with this model, and later
        ones only after some more messages: 2 at first, twice as many after each further failure, but for a
        rate limit. Until then, the oldest part is left out.

    Raises:
        Fenced: another runner has claimed the session.
    """
    rules = agent.behaviour.compaction
    if rules is None or run.uncompactable == choice.model.id or run.conversation.rest:
        return False
    # The outcome of the last step is part of the history. If the log has moved, its batch may go on.
    if run.unlogged and not await run.commit(()):
        return False
    budget = conversation_budget(run, agent, choice)
    parts = _older_part(run, rules, budget)
    if parts is None:
        return False
    older, after = parts
    conversation, clock = run.conversation, run.engine.clock
    context, before, began = compaction_context(turn, run.state.head), conversation.count(), clock.elapsed()
    begin = NewEvent(ContextCompactingData(reason, STRATEGY, before), context, clock.now())
    while not await run.commit([begin]):
        if isinstance(run.state, Idle) or run.state.turn.id != turn.id:
            return False  # a run that has not claimed the session yet was overtaken: its turn has ended
    longest = max(MIN_SUMMARY, min(MAX_SUMMARY, budget))
    summarizer = _Summarizer(run, choice, rules, context, before, guard=guard_of(run, agent), longest=longest)
    summary = await summarizer.summarize(older, int(PIECE * budget), after)
    duration = round((clock.elapsed() - began) * 1000)
    if summary is None:
        run.uncompactable = choice.model.id
        log.warning("cannot summarize the history of session %s: %s", run.row.id, summarizer.error_code)
        done = ContextCompactedData(
            "none",
            before,
            before,
            duration,
            tuple(summarizer.steps),
            error=summarizer.error,
            error_code=summarizer.error_code,
        )
    else:
        left = before - len(older) - (conversation.summary is not None) + 1
        done = ContextCompactedData(
            "summary", before, left, duration, tuple(summarizer.steps), summary, after
        )
    await _append(run, [*summarizer.events, NewEvent(done, context, clock.now())])
    return summary is not None


async def _append(run: Run, events: Sequence[NewEvent]) -> None:
    """Append, and retry if the log has moved: what was appended in between does not affect these events."""
    while not await run.commit(events):
        pass


class _Summarizer:
    """The model calls of one compaction.

    Args:
        before: the number of messages in the history.
        longest: characters of the summary that are kept. A summary of as many characters as the budget has
            tokens takes about a quarter of the budget.
    """

    def __init__(
        self,
        run: Run,
        choice: ModelChoice,
        rules: Compaction,
        context: EventContext,
        before: int,
        *,
        guard: Guard | None,
        longest: int,
    ) -> None:
        self.run, self.choice, self.rules, self.context = run, choice, rules, context
        self.guard = guard
        self.left = before
        self.longest = longest
        self.events: list[NewEvent] = []
        self.steps: list[CompactionStepData] = []
        self.error = "the model returned no summary"
        self.error_code: str | None = None
        self.money: Money | None = None
        """What the call that is under way holds of its budgets."""

    async def summarize(self, older: Sequence[Entry], size: int, after: int) -> str | None:
        """Summarize this part and the summary so far; None if that failed.

        Args:
            older: the messages to summarize, without the summary so far.
            size: tokens to summarize in one call.
            after: the sequence after which the messages that follow the part are in the log.
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
            text = self._accept(outcome, end - begin)
            if text is None:
                return None
            summary = summary_message(text, self.run.state.head, self.run.engine.clock.now())
            begin = end
        return text

    def _accept(self, outcome: Outcome, messages: int) -> str | None:
        """The text of a call's answer, or None; records the event and the step of the call."""
        now = self.run.engine.clock.now()
        context = summary_context(self.context, len(self.events))
        self.events.append(
            NewEvent(generation_data(self.choice, outcome, self.run.voice.agent_id), context, now)
        )
        if outcome.response is None or not outcome.response.text.strip():
            if outcome.error is not None:
                self.error, self.error_code = outcome.error.message, outcome.error.code
            return None
        self.left -= messages
        self.steps.append(CompactionStepData(STRATEGY, self.left + 1, round(outcome.duration * 1000)))
        return outcome.response.text.strip()[: self.longest]

    async def _call(self, messages: Sequence[Message], summary: Message | None, prompt: PromptRef) -> Outcome:
        engine, driver = self.run.engine, self.choice.driver
        known = adaptation_of(self.run.conversation, self.choice.model.id)
        request = ModelRequest(
            model=self.choice.model.model_id,
            system=SYSTEM,
            messages=summary_request(
                record_of(messages), summary, self.rules.instructions, engine.clock.now()
            ),
            changes=frozenset(known.changes),
            left_out=frozenset(known.parameters_left_out),
        )

        async def recover(error: ModelError) -> bool:
            nonlocal request
            refused = refused_by(error, driver, request)
            request = msgspec.structs.replace(request, left_out=request.left_out.union(refused))
            return bool(refused)

        began = engine.clock.elapsed()
        attempts = Attempts(None, None, 0, 0.0)
        try:
            attempts = await call_with_retries(
                engine,
                lambda: self._generate(request),
                recover,
                redactor=self.run.redactor,
                patience=patience_with(engine, self.choice),
                noted=partial(observe_attempt, engine, self.run.row, self.choice, self.run.row.turn_id or ""),
            )
        finally:
            self._settle(attempts)
        response, profile = attempts.response, None
        if response is not None:
            profile = await engine.catalog.profile(served_model(self.choice))
            text = await checked_summary(self.guard, response.text)
            usage = with_cost(response.usage, profile)
            response = msgspec.structs.replace(response, text=text, usage=usage, tool_calls=())
        return Outcome(
            response,
            checked_failure(self.guard, attempts.error),
            attempts.count,
            attempts.waited,
            engine.clock.elapsed() - began,
            None,
            prompt,
            price_at(None if response is None else response.usage, profile),
        )

    async def _generate(self, request: ModelRequest) -> ModelResponse:
        """Make one attempt of a call, with money of its own if the one before broke off."""
        if self.money is None or self.money.is_owed:
            if self.money is not None:
                self.run.settling.append(self.money.given_up())
            self.money = None
            prompt = counted(self.run, self.choice, prompt_tokens(request))
            self.money = await side_money(self.run, self.choice, prompt)
        driver, money = self.choice.driver, self.money
        if money is None:
            return await driver.generate(request, _ignore_delta)
        money.send()
        asked = msgspec.structs.replace(request, max_output_tokens=money.output)
        return await driver.generate(asked, money.note_delta)

    def _settle(self, attempts: Attempts) -> None:
        """Have the next append settle a call, which is over."""
        money, self.money = self.money, None
        if money is None:
            return
        refused = attempts.error is not None and not money.is_owed
        usage = None if attempts.response is None else attempts.response.usage
        self.run.settling.append(money.settlement(Usage(0, 0) if refused else usage))


def _ignore_delta(kind: DeltaKind, text: str) -> None:
    """Followers do not see a summary while it is written."""


def _too_long(error: ModelError | None) -> bool:
    return error is not None and error.code == "context_length_exceeded"


def _end_of_piece(older: Sequence[Entry], begin: int, size: int) -> int:
    """The index at which a piece of about `size` tokens ends.

    A piece has at least one message, and ends before a message of the user or the agent, so that results stay
    with their calls.
    """
    taken, end = 0, begin
    for index in range(begin, len(older)):
        if index > begin and older[index].message.role != "tool_result":
            end = index
        taken += text_tokens(record_of((older[index].message,)))
        if taken > size and end > begin:
            return end
    return len(older)
