"""What a model call does about a prompt that is too long: learns the limit, summarizes, leaves out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.capabilities.model_choice import ModelChoice
from perdure.capabilities.resolve import ResolvedAgent
from perdure.domain.errors import ModelError
from perdure.domain.messages import Message
from perdure.domain.result_sizes import share_of
from perdure.domain.turn_totals import Turn
from perdure.engine.budget import conversation_budget, estimated_input, learned_limits
from perdure.engine.compact import compact
from perdure.engine.generation import served_model
from perdure.engine.run import Run

if TYPE_CHECKING:
    from perdure.llm.overflow import Overflow

MAX_SHRINKS = 3
"""How often a prompt that is too long for the model is shortened and sent again."""

LONG = 1_000
"""Tokens of a history that may be too long for a server that refuses it without a reason."""

UNEXPLAINED = frozenset({400, 413, 422})
"""The statuses of such a refusal."""

MAX_ERROR = 4
"""How far an estimate may be off. A number in an error that is further away is not the prompt's size."""

LEAST_ANSWER = 256
"""Tokens of the shortest answer that is asked for."""


class Room:
    """The room for a model call's history, and what was done to fit it in.

    Attributes:
        budget: about how many tokens of the history are sent.
        max_output: the tokens of the answer to ask for; None for the driver's default.
    """

    def __init__(self, run: Run, turn: Turn, agent: ResolvedAgent, choice: ModelChoice, budget: int) -> None:
        self.run, self.turn, self.agent, self.choice = run, turn, agent, choice
        self.budget = budget
        self.max_output = learned_limits(run, choice).output
        self._trial: int | None = None
        self._shrinks = 0
        run.conversation.fit_results(share_of(budget))

    def prompt(self) -> tuple[list[Message], int]:
        """The messages to send, and the sequence after which the log has them."""
        conversation = self.run.conversation
        if self._trial is None:
            return conversation.prompt(self.budget)
        # In a single long turn, nothing can be left out, but results can be cut.
        return conversation.newest(self._trial) or conversation.prompt(self._trial)

    def accepted(self) -> None:
        """Remember what the model accepted, if that was less than there is."""
        if self._trial is not None:
            self._limit(self._trial)
            self.run.conversation.prompt(self.budget)

    async def shorten(self, error: ModelError) -> bool:
        """Shorten a prompt that the model refused as too long; returns whether the call is made again."""
        if error.code != "context_length_exceeded" or self._shrinks >= MAX_SHRINKS:
            return False
        self._trial = None
        self._shrinks += 1
        from perdure.llm.overflow import Overflow, overflow  # has many patterns, and is rarely needed

        told = overflow(error.status, ("context_length_exceeded",), error.message) or Overflow()
        if self._fits_with_a_shorter_answer(told):
            return True
        rejected = self.run.conversation.tokens()
        self._learn(told)
        known = conversation_budget(self.run, self.agent, self.choice)
        if await compact(self.run, self.turn, self.agent, self.choice, "request_too_large"):
            self._limit(min(max(rejected * 9 // 10, 1), known))
            return True
        # Without a limit that explains the refusal, half of it may be accepted.
        target = known if self._shrinks == 1 and known <= rejected * 9 // 10 else rejected // 2
        return self._shrink(max(target, 1))

    def try_less(self, error: ModelError) -> bool:
        """Try half of a long history once, after a refusal that does not say what is wrong.

        Nothing is dropped unless the model accepts it.
        """
        if output := self._shorter_answer(error):
            self.max_output = output
            self.run.engine.catalog.learn(served_model(self.choice), output=output)
            return True
        conversation = self.run.conversation
        if (
            self._trial is not None
            or error.code != "invalid_model_request"
            or error.status not in UNEXPLAINED
            or conversation.tokens() < LONG
            or not (conversation.newest(conversation.tokens() // 2) or conversation.has_long_results)
        ):
            return False
        self._trial = conversation.tokens() // 2
        return True

    def _shorter_answer(self, error: ModelError) -> int | None:
        """The longest answer that the vendor permits, if the request asked for a longer one."""
        from perdure.llm.overflow import output_limit

        limit = output_limit(error.message) if error.code == "invalid_model_request" else None
        return limit if limit is not None and limit < (self.max_output or limit + 1) else None

    def _fits_with_a_shorter_answer(self, told: Overflow) -> bool:
        """Ask for a shorter answer if the prompt alone is well within the limit."""
        if told.limit is None or self._shrinks > 1:
            return False
        prompt = estimated_input(self.run, self.agent, self.choice)
        left = told.limit - prompt - prompt // 4
        if left < max(told.limit // 4, LEAST_ANSWER):
            return False
        self.max_output = left
        return True

    def _learn(self, told: Overflow) -> None:
        """Learn the model's window, and how far off the estimate was.

        The prompt had more tokens than the limit, even if the estimate says less. A limit that is far from
        the estimate may be another number.
        """
        prompt = estimated_input(self.run, self.agent, self.choice)
        counted = told.requested or told.limit
        if counted is not None and prompt < counted <= MAX_ERROR * prompt:
            messages = self.run.conversation.tokens()
            self.run.conversation.measured[self.choice.model.id] = (counted, messages)
        if told.limit is not None and prompt // (2 * MAX_ERROR) <= told.limit <= MAX_ERROR * prompt:
            self.run.engine.catalog.learn(served_model(self.choice), window=told.limit)

    def _limit(self, budget: int) -> None:
        """Remember that this model accepts at most this many tokens."""
        self.budget = budget
        self.run.conversation.ceilings[self.choice.model.id] = budget
        self.run.conversation.fit_results(share_of(budget))

    def _shrink(self, budget: int) -> bool:
        """Leave out the oldest messages, or else cut tool results; returns whether the prompt is shorter."""
        before = self.run.conversation.tokens()
        self._limit(budget)
        self.run.conversation.prompt(self.budget)
        return self.run.conversation.tokens() < before
