"""The error codes of limits of size, load and time, as rows for `error_codes`: code, meaning, remedy."""

from __future__ import annotations

from perdure.api.openapi.attachment_codes import FILES_AT_ONCE
from perdure.api.openapi.memory_codes import LARGE_MEMORIES
from perdure.api.openapi.upload_codes import LARGE_FORMS, UPLOAD_EXPIRED

TOO_LARGE = (
    *LARGE_FORMS,
    *LARGE_MEMORIES,
    (
        "arguments_too_large",
        "Edited arguments of a tool call are larger than 512 KB.",
        "Shorten them, or reject the call and say what to do instead.",
    ),
    (
        "file_too_large",
        "The file is larger than 10 MB, or 100 MB for an upload of bytes, or the limits set on the server.",
        "Upload a large file as it is, with PUT, or split it. Tools read files of up to 10 MB.",
    ),
    (
        "filled_prompt_too_long",
        "The agent's prompt has over 400,000 characters with the values of its variables.",
        "Shorten the values, or use them less often in the prompt.",
    ),
    (
        "variables_too_large",
        "The values of variables have over 100,000 characters together.",
        "Shorten them, or put long texts into files or the message.",
    ),
    (
        "too_large",
        "The body is larger than 10 MB, or a configuration is larger than 1 MB.",
        "Send less data in one request. Put large files into a session with its file routes.",
    ),
    (
        "too_many_files",
        "The workspace would have more than 20,000 files and folders.",
        "Delete files, or combine them in archives.",
    ),
    (
        "skill_too_large",
        "The archive of a skill, one of its files, or all of them together are too large or too many.",
        "Leave files out. The message says what the limit is.",
    ),
    (
        "tool_result_too_large",
        "A tool result is larger than 100 KB.",
        "Shorten it, or store the data elsewhere and send its location.",
    ),
    (
        "workspace_full",
        "The workspace's files would exceed 1 GB, or the limit configured on the server.",
        "Delete files.",
    ),
    (
        "attachments_full",
        "The files of the session's messages would exceed 1 GB, or the limit configured on the server.",
        "Go on in a new session: a conversation keeps its files as long as it lives.",
    ),
)

TOO_MANY = (
    FILES_AT_ONCE,
    ("rate_limited", "The caller has sent too many requests.", "Wait for `Retry-After` seconds."),
    (
        "too_many_searches",
        "The organization runs as many searches, or forks of long sessions, as it may at a time.",
        "Wait for `Retry-After` seconds.",
    ),
    (
        "requests_per_minute_limit",
        "The organization or the user has sent as many requests as it may in a minute.",
        "Wait for `Retry-After` seconds. An admin can look at `GET /v1/orgs/{org}/limits`.",
    ),
    (
        "open_sessions_limit",
        "The organization or the user has as many open sessions as it may.",
        "Archive or delete some. An admin can raise a limit that is below the server's.",
    ),
)

BUSY = (
    (
        "discovery_failed",
        "A capability could not find its tools, and its sessions must not continue without them.",
        "See `detail` for the reason. Check the capability, or try again later.",
    ),
    (
        "read_timeout",
        "The read looked at very much and was stopped at its time limit.",
        "Ask for less, for example with more filters.",
    ),
    UPLOAD_EXPIRED,
    (
        "too_many_uploads",
        "So many large bodies are arriving at once that this one was refused.",
        "Send it again after `Retry-After` seconds.",
    ),
    (
        "too_many_connections",
        "All connections of the server are in use.",
        "Try again after `Retry-After` seconds. The operator can raise `PERDURE_MAX_CONNECTIONS`.",
    ),
)

TOO_MANY_CALLBACKS = (
    "too_many_callbacks",
    "The session has reached its limit of open callbacks.",
    "Wait for some of them, or cancel them.",
)

LIMIT_TOO_HIGH = (
    "limit_too_high",
    "The organization's limit would be above the server's.",
    "Set a lower one. The operator can raise the server's.",
)

TOO_MANY_SESSIONS = (
    "too_many_sessions",
    "The organization or the user has as many open sessions as it may, so no sub-agent can begin.",
    "Archive or delete some sessions.",
)

GONE = (
    (
        "item_expired",
        "The deadline of an item of the inbox has passed.",
        "Nothing: the call is refused, and the model is told.",
    ),
    (
        "item_withdrawn",
        "Nothing waits for the decision any more: a new message, a cancel or the turn's end came first.",
        "Read the session's events.",
    ),
    (
        "gone",
        "The callback was answered otherwise or cancelled, its time is over, or it never existed.",
        "Do not send it again.",
    ),
    (
        "link_gone",
        (
            "The link's item was decided or withdrawn, its time is over, its maker may not decide any more, "
            "or it never existed."
        ),
        "Look at the inbox; if the item still waits, create another link.",
    ),
)
