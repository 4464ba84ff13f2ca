"""What operators see of turns: metrics and lines of the log, from the events of each append.

A line has ids, codes and numbers, and never what users, models or vendors wrote.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from types import MappingProxyType

from perdure.capabilities.model_choice import ModelChoice
from perdure.domain.errors import ModelError
from perdure.domain.events import (
    LlmGenerationData,
    NewEvent,
    ToolCallRequestedData,
    ToolCompletedData,
    ToolParkedData,
    TurnCancelledData,
    TurnCompletedData,
    TurnFailedData,
    TurnParkedData,
    TurnSealedData,
)
from perdure.domain.log_lines import fields
from perdure.domain.metrics import Metrics
from perdure.domain.turn import Idle, TurnState
from perdure.engine.context import Engine
from perdure.store.sessions import SessionRow

log = logging.getLogger("perdure.turns")


def observe(engine: Engine, row: SessionRow, events: Sequence[NewEvent]) -> None:
    """Note what an append has logged."""
    metrics = engine.metrics
    for event in events:
        look = _LOOKS.get(event.data.kind)
        if look is not None:
            look(metrics, row, event)


def observe_recovery(engine: Engine, row: SessionRow, *, failed: bool) -> None:
    """Note that this process has taken over a session.

    Args:
        row: the session, claimed.
        failed: whether its runner is known to have failed; otherwise it died, or lost its lease.
    """
    engine.metrics.recoveries.add()
    why = "failed" if failed else "lost"
    log.warning(
        "turn recovered",
        extra=fields(session=row.id, turn=row.turn_id, recoveries=row.recoveries, code=why),
    )


def observe_fence(engine: Engine, session_id: str, state: TurnState | None) -> None:
    """Note that another runner, a cancel or a deletion has ended this runner's hold on a session."""
    engine.metrics.fenced.add()
    turn = None if state is None or isinstance(state, Idle) else state.turn.id
    log.info("turn fenced", extra=fields(session=session_id, turn=turn))


def observe_seal(engine: Engine, row: SessionRow, trouble: str | None) -> None:
    """Note that a turn is sealed. `trouble`: the kind of error that ended the last attempt."""
    engine.metrics.turns.add("sealed", "no_progress")
    found = fields(
        session=row.id, turn=row.turn_id, code="no_progress", recoveries=row.recoveries - 1, error=trouble
    )
    log.error("turn sealed", extra=found)


def observe_attempt(
    engine: Engine,
    row: SessionRow,
    choice: ModelChoice,
    turn: str,
    error: ModelError,
    attempt: int,
    pause: float | None,
) -> None:
    """Note that an attempt of a model call failed.

    Args:
        attempt: its number, from 1.
        pause: seconds until the next one; None if the call has failed.
    """
    provider = choice.provider
    if pause is None:
        engine.metrics.model_failures.add(provider.provider_type, error.code)
    else:
        engine.metrics.model_retries.add(provider.provider_type, error.code)
    log.warning(
        "model call failed" if pause is None else "model call retried",
        extra=fields(
            session=row.id,
            turn=turn,
            provider=provider.provider_type,
            provider_name=provider.name[:100],
            provider_id=provider.id,
            model=choice.model.model_id[:100],
            code=error.code,
            status=error.status,
            attempt=attempt,
            pause=None if pause is None else round(pause, 2),
        ),
    )


def _completed(metrics: Metrics, _row: SessionRow, event: NewEvent) -> None:
    data = event.read(TurnCompletedData)
    metrics.turns.add("completed", "")
    if data.duration_ms is not None:
        metrics.turn_seconds.observe(data.duration_ms / 1000)


def _failed(metrics: Metrics, row: SessionRow, event: NewEvent) -> None:
    data = event.read(TurnFailedData)
    code = data.error_code or "internal"
    metrics.turns.add("failed", code)
    log.warning("turn failed", extra=fields(session=row.id, turn=data.turn_id, code=code))


def _cancelled(metrics: Metrics, _row: SessionRow, _event: NewEvent) -> None:
    metrics.turns.add("cancelled", "")


def _sealed(metrics: Metrics, row: SessionRow, event: NewEvent) -> None:
    data = event.read(TurnSealedData)
    metrics.turns.add("sealed", data.reason)
    log.warning("turn sealed", extra=fields(session=row.id, turn=data.turn_id, code=data.reason))


def _parked_turn(metrics: Metrics, row: SessionRow, event: NewEvent) -> None:
    data = event.read(TurnParkedData)
    metrics.parkings.add(data.parked_kind)
    log.info("turn parked", extra=fields(session=row.id, turn=data.turn_id, kind=data.parked_kind))


def _parked_tool(metrics: Metrics, _row: SessionRow, event: NewEvent) -> None:
    metrics.parkings.add(event.read(ToolParkedData).parked_kind)


def _asked(metrics: Metrics, _row: SessionRow, event: NewEvent) -> None:
    calls = event.read(ToolCallRequestedData).tool_calls
    approval = any(call.name == "approve_tool_call" for call in calls)
    metrics.parkings.add("approval" if approval else "client")


def _tool(metrics: Metrics, _row: SessionRow, event: NewEvent) -> None:
    data = event.read(ToolCompletedData)
    metrics.tool_calls.add(metrics.tool_label(data.tool_name), data.status)


def _generation(metrics: Metrics, _row: SessionRow, event: NewEvent) -> None:
    data = event.read(LlmGenerationData).metadata
    provider, model = data.provider or "", metrics.model_label(data.model)
    metrics.model_calls.add(provider, model, "ok" if data.success else "failed")
    if data.duration_ms is not None:
        metrics.model_seconds.observe(data.duration_ms / 1000, provider, model)
    if data.time_to_first_token_ms is not None:
        metrics.first_token.observe(data.time_to_first_token_ms / 1000, provider, model)
    usage = data.usage
    if usage is None:
        return
    add = metrics.tokens.add
    add(provider, model, "input", by=usage.input_tokens)
    add(provider, model, "output", by=usage.output_tokens)
    if usage.cache_read_tokens:
        add(provider, model, "cache_read", by=usage.cache_read_tokens)
    if usage.cache_creation_tokens:
        add(provider, model, "cache_creation", by=usage.cache_creation_tokens)
    if usage.estimated_cost_usd:
        metrics.cost.add(provider, model, by=usage.estimated_cost_usd)


_LOOKS: MappingProxyType[str, Callable[[Metrics, SessionRow, NewEvent], None]] = MappingProxyType(
    {
        TurnCompletedData.kind: _completed,
        TurnFailedData.kind: _failed,
        TurnCancelledData.kind: _cancelled,
        TurnSealedData.kind: _sealed,
        TurnParkedData.kind: _parked_turn,
        ToolParkedData.kind: _parked_tool,
        ToolCallRequestedData.kind: _asked,
        ToolCompletedData.kind: _tool,
        LlmGenerationData.kind: _generation,
    }
)
