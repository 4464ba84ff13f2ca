"""What fills a session's context: the answer to "where do my tokens go?"."""

from __future__ import annotations

from msgspec import Struct

from perdure.domain.ids import SessionId
from perdure.domain.messages import Usage


class ContextReportSection(Struct, frozen=True):
    """One kind of thing in the context."""

    key: str
    label: str
    tokens: int
    items: int


class ContextReportContribution(Struct, frozen=True):
    """What one source adds to a section."""

    section_key: str
    source_id: str
    label: str
    tokens: int


class SessionContextReport(Struct, frozen=True, omit_defaults=True):
    """What the next model call of a session would carry, by estimate."""

    session_id: SessionId
    model: str
    estimated_input_tokens: int
    sections: tuple[ContextReportSection, ...]
    contributions: tuple[ContextReportContribution, ...]
    context_window_tokens: int | None = None
    cumulative_usage: Usage | None = None
