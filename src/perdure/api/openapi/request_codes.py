"""The error codes of commands and of strict requests, as rows for `error_codes`: code, meaning, remedy."""

from __future__ import annotations

from perdure.api.openapi.attachment_codes import INVALID_FILES, MISSING_IMAGES, TOO_MANY_IMAGES
from perdure.api.openapi.audit_codes import INVALID_AUDITS, MISSING_REVISIONS, REVISION_CONFLICTS
from perdure.api.openapi.budget_codes import BUDGET_CONFLICTS, INVALID_BUDGETS, MISSING_BUDGETS
from perdure.api.openapi.erasure_codes import HELD, MISSING_ERASURES
from perdure.api.openapi.limit_codes import LIMIT_TOO_HIGH, TOO_MANY_SESSIONS
from perdure.api.openapi.memory_codes import (
    CHANGED_MEMORIES,
    INVALID_MEMORIES,
    MEMORY_CONFLICTS,
    MISSING_MEMORIES,
)
from perdure.api.openapi.operation_codes import MISSING_OPERATIONS, OPERATION_CONFLICTS
from perdure.api.openapi.skill_codes import MISSING_SKILLS, SKILL_CONFLICTS
from perdure.api.openapi.upload_codes import INVALID_FORMS
from perdure.api.openapi.webhook_codes import INVALID_WEBHOOKS, MISSING_WEBHOOKS, WEBHOOK_CONFLICTS

INVALID = (
    *INVALID_FILES,
    LIMIT_TOO_HIGH,
    *INVALID_FORMS,
    *INVALID_BUDGETS,
    *INVALID_MEMORIES,
    *INVALID_WEBHOOKS,
    *INVALID_AUDITS,
    (
        "too_many_participants",
        "The session has reached its limit of agents or users.",
        "Remove a participant first.",
    ),
    (
        "task_reads_no_messages",
        "A task of a sub-agent, or of a tool that runs in the background, reads no messages of users.",
        "Send the message to the sub-agent's session, which the error names.",
    ),
    (
        "provider_key_refused",
        "The provider's vendor refused the API key, so it was not stored.",
        "Correct the key. `?check=false` stores it without asking the vendor.",
    ),
    (
        "invalid_edited_arguments",
        "Edited arguments do not fit the tool's schema, or the agent no longer has the tool.",
        "Correct what the message names; `GET /v1/inbox/{item_id}` has the `schema`.",
    ),
    (
        "secret_arguments",
        "The tool takes secrets, so its arguments cannot be edited: the log would have them.",
        "Decide without `arguments`.",
    ),
    (
        "guardrail_blocked",
        "A guardrail of the session forbids the edited arguments.",
        "Change them, or reject the call. In the log, it is also the reason why a call was not made.",
    ),
    (
        "secret_in_arguments",
        "Edited arguments contain a secret of the session, which the log must not have.",
        "Remove the secret from them.",
    ),
    (
        "invalid_input_content",
        "The content of an answer does not fit the form that a tool call asks for.",
        "Correct the field that the message names; `GET .../input-requests` has the form.",
    ),
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
        "empty_mcp_prompt",
        "The prompt of the MCP server has no content.",
        "Use another prompt of the server, or other arguments.",
    ),
    (
        "invalid_header",
        "A header of an MCP server has a name or a value that cannot be sent, or that is set elsewhere.",
        "Correct the header that the message names, or remove it.",
    ),
    (
        "invalid_mcp_url",
        "The URL of an MCP server is malformed, or its scheme or port is not allowed.",
        "Use an http or https URL, with port 80, 443, or one from 1024 upwards.",
    ),
    (
        "missing_variable",
        "The agent's prompt requires a variable that neither the message nor its session gives.",
        "Give it in `variables` of the message or of the session.",
    ),
    (
        "unknown_variable",
        "A prompt has a variable that its agent does not declare, or a value belongs to none of its own.",
        "Declare it in the agent's `variables`, or correct its name. Literal braces: write `\\{{name}}`.",
    ),
    (
        "literal_credential",
        "An MCP server in a configuration has a credential that all who can read it would see.",
        "Store it as a secret of the session and write `{{secret:NAME}}`, or register the server.",
    ),
    (
        "mcp_address_refused",
        "The URL of an MCP server leads to a private network, this machine or a metadata service.",
        "Use a public address. The operator can allow networks with `PERDURE_PRIVATE_ADDRESSES`.",
    ),
    (
        "missing_secret",
        "A header of the MCP server needs a secret that the session does not have, or that cannot be sent.",
        "Store the secret with `PUT /v1/sessions/{id}/storage/secrets`.",
    ),
    (
        "stdio_not_allowed",
        "Local commands as MCP servers cannot be configured through the API.",
        "Use an HTTP server. The operator can list commands in the file of `PERDURE_MCP_SERVERS`.",
    ),
    (
        "too_many_attached_mcp_servers",
        "The session has more than 50 MCP servers, with those of its harness and its agent.",
        "Remove some of them.",
    ),
    (
        "too_many_policy_hooks",
        "The session has more than 10 policy hooks, with those of its harness, its agent and its parents.",
        "Remove some of them.",
    ),
    (
        "unknown_field",
        "The body has a field that the server does not know, and the request has `Perdure-Strict: true`.",
        "Correct the name, or leave out the header: then the field is ignored, and named in `warnings`.",
    ),
    (
        "unknown_mcp_server",
        "The session has no MCP server with this name.",
        "Use one of those that the message names, or attach the server.",
    ),
    (
        "unknown_mcp_tool",
        "The MCP server offers no tool with this name now.",
        "Use an `original_name` from `GET /v1/mcp-servers/{id}/tools`.",
    ),
    (
        "unknown_parameter",
        "The query has a parameter that the server does not know; the request has `Perdure-Strict: true`.",
        "Correct the name, or leave out the header.",
    ),
)

CONFLICTS = (
    TOO_MANY_IMAGES,
    *BUDGET_CONFLICTS,
    *MEMORY_CONFLICTS,
    TOO_MANY_SESSIONS,
    *SKILL_CONFLICTS,
    *WEBHOOK_CONFLICTS,
    *OPERATION_CONFLICTS,
    *REVISION_CONFLICTS,
    *HELD,
    (
        "already_participant",
        "The agent or user takes part in the session already.",
        "Nothing: see `GET /v1/sessions/{session_id}/participants`.",
    ),
    (
        "host_cannot_leave",
        "The session's owner and its own agent cannot leave it.",
        "Hand the session off to another agent, or delete it.",
    ),
    (
        "too_many_links",
        "The inbox item has as many links that work as are allowed.",
        "Use one of them.",
    ),
    (
        "shown_differs",
        "The decision by link is about something else than what the link shows.",
        "`GET` the link again, and send its `shown`.",
    ),
    (
        "already_decided",
        "Somebody else has decided on this item of the inbox.",
        "The message says what was decided; `GET /v1/inbox/{item_id}` has the `outcome`.",
    ),
    (
        "not_an_approval",
        "The item of the inbox asks for a sign-in or for input.",
        "Open the `url` of its input request, or answer it at `links.decide`.",
    ),
    (
        "sign_in_failed",
        "A sign-in failed: its server's OAuth metadata cannot be trusted, or it refused.",
        "See the message for the reason, and begin a new sign-in.",
    ),
    (
        "sign_in_not_needed",
        "Nobody signs in at the MCP server: its `auth_mode` is not `o_auth`, or it is not active.",
        "Set its `auth_mode` to `o_auth`.",
    ),
    (
        "sign_in_outdated",
        "The MCP server has changed, or the user has left, since the sign-in began.",
        "Let the agent make the call again.",
    ),
    (
        "sign_in_required",
        "The tool call asks for a sign-in, which cannot be answered with content.",
        "Open the request's `url`, or decline it.",
    ),
    (
        "mcp_server_inherited",
        "The session has the MCP server from its harness or its agent.",
        "Remove it there.",
    ),
    (
        "mcp_tool_changed",
        "The tool of the MCP server has another definition than the one that the request accepts.",
        "List the server's tools again, and accept the tool as it is now.",
    ),
    (
        "too_many_mcp_servers",
        "The organization has 500 MCP servers, archived ones included.",
        "Delete some for good.",
    ),
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
    *MISSING_IMAGES,
    *MISSING_BUDGETS,
    *MISSING_MEMORIES,
    *MISSING_SKILLS,
    *MISSING_WEBHOOKS,
    *MISSING_OPERATIONS,
    *MISSING_REVISIONS,
    *MISSING_ERASURES,
    (
        "participant_not_found",
        "The session has no such participant.",
        "See `GET /v1/sessions/{session_id}/participants`.",
    ),
    (
        "task_not_found",
        "The session has no such task, or the task ended more than 30 days ago.",
        "See `GET /v1/sessions/{session_id}/tasks`.",
    ),
    (
        "task_message_not_found",
        "The task has no message with the id in `after_id`.",
        "Take the id from the task's `messages`.",
    ),
    (
        "message_not_found",
        "The session has no such message.",
        "See `GET /v1/sessions/{session_id}/messages`. Only messages of the role `agent` can be rated.",
    ),
    ("inbox_item_not_found", "The organization has no such item.", "See `GET /v1/inbox`."),
    ("connection_not_found", "Nobody has signed in there.", "See `GET /v1/user/connections`."),
    (
        "input_request_not_found",
        "The session has no such input request.",
        "See `GET /v1/sessions/{session_id}/input-requests`.",
    ),
    ("mcp_server_not_found", "The organization has no such MCP server.", "See `GET /v1/mcp-servers`."),
    (
        "unknown_command",
        "There is no command with this name, or its route does not exist in this release.",
        "See the compatibility page for the commands that exist.",
    ),
)

CHANGED = (
    (
        "precondition_failed",
        "The resource has changed since you read it.",
        "Read it again, then decide whether your change still applies.",
    ),
    *CHANGED_MEMORIES,
)
GATEWAY = (
    (
        "mcp_answer_lost",
        "The MCP server got the request, and no answer came.",
        "Find out at the server whether the request took effect before you repeat it.",
    ),
    (
        "mcp_refused",
        "The MCP server answered with an error.",
        "See `detail` for what it says. Check its settings with `POST .../check-connection`.",
    ),
    (
        "mcp_server_unreachable",
        "The MCP server cannot be reached, is too slow, or does not speak MCP.",
        "See `detail` for the reason, or check it with `POST .../check-connection`.",
    ),
    (
        "mcp_unauthorized",
        "The MCP server wants a credential, or one with more rights.",
        "Set the server's `api_key` or a header.",
    ),
)
