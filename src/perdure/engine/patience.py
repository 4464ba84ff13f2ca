"""What happens when a model does not answer: another one is called, or the turn is parked, or it fails.

A model with an alternative is given up within seconds; one without is waited for. A wait that its server asks
for, and that is too long for a worker, parks the turn.
"""

from __future__ import annotations

import logging

from msgspec import Struct

from perdure.capabilities.model_choice import ModelChoice
from perdure.domain.errors import ModelError
from perdure.domain.events import (
    CIRCUIT_OPEN,
    ModelMetadata,
    NewEvent,
    OutputMessageWithdrawnData,
    ReasonCompletedData,
    ReasonFallbackData,
    SkippedModel,
    TurnParkedData,
    TurnResumedData,
)
from perdure.domain.fallbacks import MAX_PARKED, Fallback, earliest
from perdure.domain.ids import MessageId, ModelId
from perdure.domain.redaction import Redactor
from perdure.domain.spans import reason_context, turn_context
from perdure.domain.times import Micros, maybe_rfc3339, to_rfc3339
from perdure.domain.turn import Idle, Reasoning, Turn, TurnState, Waiting
from perdure.engine.context import Engine
from perdure.engine.run import Run
from perdure.store.providers import UsableModel

HOLD = 60.0
"""The longest wait between two attempts that occupies a worker, in seconds."""
HOLD_BEFORE_FALLBACK = 5.0
"""The same, in seconds, if another model can be called instead."""
ATTEMPTS_BEFORE_FALLBACK = 2
"""The attempts of a model call if another model can be called instead."""
FIRST_BYTE_BEFORE_FALLBACK = 60.0
"""Seconds until the first byte of an answer if another model can be called instead, at public addresses."""
MAX_SILENCE = 600.0
"""Seconds that the attempts of a model call may spend on timeouts. After more, a mute server is not asked
again, so that it does not occupy a turn for hours."""

_SECOND = 1_000_000

_WRONG_SETTINGS = frozenset({"provider_auth", "provider_misconfigured", "model_not_found", "quota_exceeded"})
"""Failures of a model's own settings, for which another one is called. Nothing was said of the request."""

log = logging.getLogger("perdure.engine")


class Patience(Struct, frozen=True):
    """How long a model call goes on.

    Attributes:
        attempts: how often the call is made.
        hold: the longest wait that a server may ask for, in seconds; after a longer one, the call has failed.
        silence: seconds that its attempts may spend on timeouts.
        first_byte: seconds until the first byte of an answer; None leaves it to the driver.
        choice: whose breaker learns from it; None for none.
    """

    attempts: int
    hold: float = HOLD
    silence: float = MAX_SILENCE
    first_byte: float | None = None
    choice: ModelChoice | None = None

    def is_over(self, error: ModelError, attempts: int, silent: float) -> bool:
        """Whether the call has failed with this error, after so many attempts and seconds of silence."""
        mute = silent > 0 and silent >= self.silence
        if not error.transient or attempts >= self.attempts or mute:
            return True
        return (error.retry_after or 0.0) > self.hold

    def note(self, engine: Engine, error: ModelError | None, redactor: Redactor) -> None:
        """Have the model's breaker learn how an attempt ended, without secrets of the session."""
        if self.choice is None:
            return
        if error is None or not may_pass(error):
            engine.breakers.succeeded(*_key(self.choice))
        else:
            said = redactor.text(error.message)
            engine.breakers.failed(*_key(self.choice), error, said, engine.clock.now(), HOLD)


def patience_with(engine: Engine, choice: ModelChoice) -> Patience:
    """How long a call of this model goes on."""
    if not choice.others:
        return Patience(engine.policy.model_attempts, choice=choice)
    state = engine.breakers.state(*_key(choice), engine.clock.now())
    attempts = ATTEMPTS_BEFORE_FALLBACK if state == "closed" else 1
    return Patience(
        min(attempts, engine.policy.model_attempts),
        HOLD_BEFORE_FALLBACK,
        0.0,
        FIRST_BYTE_BEFORE_FALLBACK,
        choice,
    )


def may_pass(error: ModelError) -> bool:
    """Whether the failure is the server's, and not that of the request, which another model gets as well."""
    if error.code == "quota_exceeded":
        return error.status == 429
    return error.transient or error.code == "provider_unavailable"


def admits(engine: Engine, model: UsableModel) -> bool:
    """Whether to call this model rather than another one."""
    return engine.breakers.admits(*_key(model), engine.clock.now())


def fallback_of(state: TurnState, requested: str | None) -> Fallback | None:
    """What the turn knows of models that do not answer, if it is still to use the same one."""
    fallback = None if isinstance(state, Idle) else state.turn.fallback
    return fallback if fallback is not None and fallback.requested == requested else None


def was_given_up(choice: ModelChoice, state: TurnState) -> bool:
    """Whether the turn has given up this model since it was chosen."""
    fallback = None if isinstance(state, Idle) else state.turn.fallback
    return fallback is not None and choice.model.id in fallback.failed


def instead_of_failing(
    run: Run, choice: ModelChoice, message_id: MessageId, error: ModelError, failure: list[NewEvent]
) -> list[NewEvent]:
    """The events of a failed model call, with those of what the turn does instead of failing.

    Args:
        message_id: the message that the call was to write.
        failure: the events that end the call.
    """
    state, now = run.phase(Reasoning), run.engine.clock.now()
    passes = may_pass(error)
    if not (passes or error.code in _WRONG_SETTINGS):
        return failure
    if choice.unfit and not choice.others:
        names = ", ".join(each.model.model.model_id for each in choice.unfit)
        log.warning(
            "session %s: fallbacks cannot be called: %s (%s)", run.row.id, names, choice.unfit[0].error
        )
    wait = error.retry_after or 0.0
    until = now + round(wait * _SECOND) if passes and wait > HOLD else None
    data = _fall_back(run.engine, choice, error, state.turn, until) or _park(state.turn, error, until, now)
    if data is None:
        return failure
    withdrawn = OutputMessageWithdrawnData(
        state.turn.id, message_id, "parked" if isinstance(data, TurnParkedData) else "fallback"
    )
    context = reason_context(state.turn, state.exec_id)
    return [NewEvent(withdrawn, context, now), *failure, NewEvent(data, turn_context(state.turn), now)]


def instead_of_resuming(run: Run, choice: ModelChoice) -> list[NewEvent]:
    """The events that end the model call whose start is in the log, if it must be made by another model.

    The one that the log names was disabled or replaced, or cannot be called any more, since a runner began
    the call: the next call is the one of the model that is chosen now.
    """
    state, now = run.phase(Reasoning), run.engine.clock.now()
    named = state.model
    if named is None or named.model_id is None or named.model_id == choice.model.id:
        return []
    unfit = next((each.error for each in choice.unfit if each.model.model.id == named.model_id), None)
    gone = f"{named.model} is disabled, or not the model of this session any more"
    code, error = ("model_not_found", gone) if unfit is None else (unfit.code, unfit.message)
    completed = ReasonCompletedData(
        success=False, has_tool_calls=False, tool_call_count=0, error=error, error_code=code
    )
    data = ReasonFallbackData(state.turn.id, named, _named(choice), code, error, skipped=_skipped(choice))
    message_id = state.message_id or run.engine.new_id("message")
    withdrawn = OutputMessageWithdrawnData(state.turn.id, message_id, "fallback")
    context, around = reason_context(state.turn, state.exec_id), turn_context(state.turn)
    return [NewEvent(withdrawn, context, now), NewEvent(completed, context, now), NewEvent(data, around, now)]


def _fall_back(
    engine: Engine, choice: ModelChoice, error: ModelError, turn: Turn, until: Micros | None
) -> ReasonFallbackData | None:
    if not choice.others:
        return None
    # If none is said to work, the first of them may nevertheless.
    now = engine.clock.now()
    working = (each for each in choice.others if engine.breakers.would_admit(*_key(each), now))
    to = next(working, choice.others[0])
    return ReasonFallbackData(
        *(turn.id, _named(choice), _named(to), error.code, error.message, maybe_rfc3339(until)),
        skipped=_skipped(choice),
    )


def _park(turn: Turn, error: ModelError, until: Micros | None, now: Micros) -> TurnParkedData | None:
    """Park the turn until one of its models can be called again, if a server has named a time far away."""
    until = earliest(until, None if turn.fallback is None else turn.fallback.until)
    since = now if turn.parked_since is None else turn.parked_since
    if until is None or until - since > MAX_PARKED:
        return None
    until = max(until, now + _SECOND)
    return TurnParkedData(turn.id, "rate_limit", to_rfc3339(until), error.code, error.message)


def diverted(engine: Engine, turn: Turn, choice: ModelChoice, now: Micros) -> list[NewEvent]:
    """The event that says why another model is called than the one that would have been."""
    skipped = choice.instead_of
    if skipped is None:
        return []
    unfit = next((each.error for each in choice.unfit if each.model.model.id == skipped.model.id), None)
    if unfit is not None:
        others = tuple(each for each in _skipped(choice) if each.model.model_id != skipped.model.id)
        data = ReasonFallbackData(
            *(turn.id, _named(skipped), _named(choice), unfit.code, unfit.message), skipped=others
        )
        return [NewEvent(data, turn_context(turn), now)]
    name = skipped.model.model_id
    health = engine.breakers.health(*_key(skipped), name, now)
    # What the server said belongs to the sessions that heard it.
    why = "" if health is None else f" ({health.error_code})"
    error = f"calls of {name} have failed just now{why}"
    data = ReasonFallbackData(
        turn.id, _named(skipped), _named(choice), CIRCUIT_OPEN, error, skipped=_skipped(choice)
    )
    return [NewEvent(data, turn_context(turn), now)]


def resumed(engine: Engine, state: Waiting) -> NewEvent:
    """The event with which a parked turn goes on."""
    return NewEvent(TurnResumedData(state.turn.id), turn_context(state.turn), engine.clock.now())


def _key(model: UsableModel) -> tuple[ModelId, int]:
    """The key of the model's breaker, and its version: changes of the provider close it."""
    return model.model.id, model.provider.updated_at


def _skipped(choice: ModelChoice) -> tuple[SkippedModel, ...]:
    return tuple(
        SkippedModel(_named(each.model), each.error.code, each.error.message) for each in choice.unfit
    )


def _named(model: UsableModel) -> ModelMetadata:
    return ModelMetadata(model.model.model_id, model.model.id, model.provider.id)
