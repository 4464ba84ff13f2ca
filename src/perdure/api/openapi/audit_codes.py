"""The error codes of the audit log and of histories, as rows for `error_codes`: code, meaning, remedy."""

from __future__ import annotations

INVALID_AUDITS = (
    (
        "invalid_reason",
        "The header `Perdure-Reason` has more than 1,000 characters.",
        "Shorten it.",
    ),
)
MISSING_REVISIONS = (
    (
        "revision_not_found",
        "The agent or harness has no revision with this number.",
        "List its revisions at `GET /v1/history/{entity_ref}`.",
    ),
)
REVISION_CONFLICTS = (
    (
        "revision_conflict",
        "There is a newer revision than `expected_revision`.",
        "See what has changed, then restore with the newest number, or not at all.",
    ),
)
