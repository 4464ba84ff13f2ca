"""The trace context of a turn's calls, which goes out with their requests."""

from __future__ import annotations

from perdure.domain.events import EventContext
from perdure.domain.trace_context import TraceContext, trace_of_turn
from perdure.domain.turn_totals import Turn
from perdure.engine.context import Engine


def call_trace(engine: Engine, turn: Turn, context: EventContext) -> TraceContext | None:
    """Return the span of a call, whose events have this context; None if traces are not exported.

    Its ids are those with which the span is exported once the turn has ended.
    """
    if engine.sampler is None or context.span_id is None:
        return None
    parent = turn.trace
    return TraceContext(
        trace_of_turn(turn.id, parent),
        context.span_id,
        engine.sampler.samples(turn.id, parent),
        None if parent is None else parent.tracestate,
    )
