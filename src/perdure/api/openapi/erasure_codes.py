"""The error codes of erasures and legal holds, as rows for `error_codes`: code, meaning, remedy."""

from __future__ import annotations

MISSING_ERASURES = (
    (
        "erasure_not_found",
        "There is no such erasure, or somebody else has asked for it.",
        "List erasures. Admins see those of the whole organization.",
    ),
)

HELD = (
    (
        "not_a_root_session",
        "A legal hold is for a whole tree of sessions.",
        "Hold the session at the top, which the message names.",
    ),
    (
        "session_held",
        "The session is under legal hold, so it cannot be deleted or erased.",
        "An admin releases it with `DELETE /v1/sessions/{session_id}/hold`.",
    ),
)
