"""The error codes of webhooks, as rows for `error_codes`: code, meaning, remedy."""

from __future__ import annotations

INVALID_WEBHOOKS = (
    (
        "invalid_event_filter",
        "An entry of `event_filter` is neither a type of event nor a state of tasks.",
        "Use the types and states that the message names.",
    ),
    (
        "invalid_webhook_secret",
        "The secret of a webhook is not base64 after `whsec_`, or too short or too long.",
        "Use `whsec_` and base64 of 24 to 64 random bytes, or leave it out: the server makes one.",
    ),
    (
        "invalid_webhook_url",
        "The URL of a webhook is malformed, has a user name in it, or leads to an address that is refused.",
        "Use an http or https URL of a public host. See `PERDURE_PRIVATE_ADDRESSES` for others.",
    ),
)
WEBHOOK_CONFLICTS = (
    ("task_ended", "The task has ended, so nothing more happens to it.", "Read the task."),
    ("too_many_push_configs", "The task has 10 push configurations.", "Delete one."),
    ("too_many_webhooks", "The organization has 100 webhooks.", "Delete one."),
)
MISSING_WEBHOOKS = (
    (
        "push_config_not_found",
        "The task has no such push configuration.",
        "See `GET /v1/sessions/{session_id}/tasks/{task_id}/push-configs`.",
    ),
    (
        "model_call_not_found",
        "The ledger has no such model call.",
        "See `GET /v1/spend/calls`.",
    ),
    ("webhook_not_found", "The organization has no such webhook.", "See `GET /v1/task-webhooks`."),
)
