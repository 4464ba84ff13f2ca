"""Where a tool call runs: in the run of its session's turn, or by itself in the background."""

from __future__ import annotations

from typing import Protocol

from perdure.domain.redaction import Redactor
from perdure.engine.context import Engine
from perdure.store.sessions import SessionRow


class Site(Protocol):
    """What both have."""

    @property
    def engine(self) -> Engine: ...

    @property
    def row(self) -> SessionRow:
        """The call's session."""
        ...

    @property
    def redactor(self) -> Redactor:
        """Redacts the session's secrets."""
        ...
