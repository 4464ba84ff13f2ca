"""The error codes of commands and of strict requests, as rows for `error_codes`: code, meaning, remedy."""

from __future__ import annotations

INVALID = (
    (
        "agent_archived",
        "The agent is archived, so no sessions can be created with it.",
        "Use another agent, or restore this one: `PATCH` it with the status `active`.",
    ),
    (
        "command_not_supported",
        "The route of the command answers with a stream, which a command cannot return.",
        "Call the route itself.",
    ),
    (
        "unknown_field",
        "The body has a field that the server does not know, and the request has `Perdure-Strict: true`.",
        "Correct the name, or leave out the header: then the field is ignored, and named in `warnings`.",
    ),
    (
        "unknown_parameter",
        "The query has a parameter that the server does not know; the request has `Perdure-Strict: true`.",
        "Correct the name, or leave out the header.",
    ),
)

CONFLICTS = (
    (
        "queue_full",
        "100 messages of the session wait for turns of their own, or 20 MB of messages do.",
        "Send it when some of them have begun, or with another `when_busy`.",
    ),
    (
        "session_busy",
        "A turn is running or waiting, and the message has `controls.when_busy: reject`.",
        "Send it when the turn has ended, or with another `when_busy`.",
    ),
    (
        "client_message_id_reused",
        "The session has another message with this `client_message_id`.",
        "Use a new id for each message, and the same one only to send the same message again.",
    ),
)

MISSING = (
    (
        "unknown_command",
        "There is no command with this name, or its route does not exist in this release.",
        "See the compatibility page for the commands that exist.",
    ),
)
