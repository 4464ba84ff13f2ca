"""What a check of a database finds: rows that differ from the logs that they are folded from."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from perdure.domain.ids import OrgId, SessionId

Checked = Literal[
    "log", "session", "tasks", "task_messages", "feedback", "participants", "client_messages", "parked_calls",
    "ledger", "counts", "workspaces", "files", "memories", "contents", "search", "budgets", "rows",
]  # fmt: skip
"""What is checked: a log, or one of the projections."""

SHOWN = 200
"""Characters of a value that are shown of a difference."""


class Difference(Struct, frozen=True, omit_defaults=True):
    """Something that is not as it should be.

    Attributes:
        what: the projection.
        detail: what differs, for people.
        org_id, session_id: whose it is; None if it belongs to no organization or session alone.
        expected, found: the values, as JSON and perhaps cut; None where they would say nothing.
    """

    what: Checked
    detail: str
    org_id: OrgId | None = None
    session_id: SessionId | None = None
    expected: str | None = None
    found: str | None = None


class Verified(Struct, frozen=True):
    """How much was checked, and how many differences there are."""

    sessions: int
    events: int
    contents: int
    differences: int


def shown(text: str) -> str:
    """Return a value as a difference shows it."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text):,} characters)"
