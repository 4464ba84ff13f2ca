"""Counts what model calls use, once it is in the log."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.domain.events import LlmGenerationData, NewEvent, ReasonStartedData
from perdure.engine.context import Engine
from perdure.store.sessions import SessionRow


def note_usage(engine: Engine, row: SessionRow, events: Sequence[NewEvent]) -> None:
    """Count the tokens of model calls that have ended, and the turns that have begun."""
    for event in events:
        kind = event.data.kind
        if kind == LlmGenerationData.kind:
            usage = event.read(LlmGenerationData).metadata.usage
            if usage is not None and (tokens := usage.input_tokens + usage.output_tokens):
                engine.meter.count("tokens", row.org_id, row.owner_id, tokens, engine.clock.now())
        elif kind == ReasonStartedData.kind:
            engine.meter.settle(row.org_id, row.id)
