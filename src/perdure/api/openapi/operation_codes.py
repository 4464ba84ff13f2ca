"""The error codes of routes for operators, as rows for `error_codes`: code, meaning, remedy."""

from __future__ import annotations

MISSING_OPERATIONS = (
    (
        "circuit_breaker_not_found",
        "The last call of the model was answered, so no process has a circuit breaker for it.",
        "Nothing: its calls are made.",
    ),
    ("worker_not_found", "There is no such process, or it stopped more than an hour ago.", "List them."),
    (
        "workflow_not_found",
        "The session has no such turn, or the id is not that of a session, a dot, and that of a turn.",
        "List the turns, or read the session's events.",
    ),
)

OPERATION_CONFLICTS = (
    (
        "nothing_to_retry",
        "The log has no message with which the sealed turn began.",
        "Send a message to the session.",
    ),
    (
        "turn_not_dead",
        "The turn was not sealed and is not stuck, or its session has gone on since.",
        "Nothing, or send a message to the session.",
    ),
    (
        "turn_not_running",
        "The turn has ended, or has not begun.",
        "Cancel the turns before it, or nothing.",
    ),
    (
        "worker_takes_no_turns",
        "The process has stopped, or only serves the API.",
        "List the processes, and choose one that runs turns.",
    ),
)
