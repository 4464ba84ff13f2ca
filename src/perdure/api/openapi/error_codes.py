"""Every error code: what it means and what to do. `/docs/errors` and docs/reference/errors.md come from here.

A test fails if a code that the source can emit is missing here.
"""

from __future__ import annotations

from msgspec import Struct

from perdure.api.openapi.access_codes import FORBIDDEN, UNAUTHENTICATED
from perdure.api.openapi.answer_codes import ANSWERS, OUTPUT_SCHEMAS, TASKS
from perdure.api.openapi.keeping_codes import KEEPING
from perdure.api.openapi.limit_codes import BUSY, GONE, TOO_LARGE, TOO_MANY, TOO_MANY_CALLBACKS
from perdure.api.openapi.request_codes import CHANGED, CONFLICTS, GATEWAY, INVALID, MISSING
from perdure.api.openapi.skill_codes import INVALID_SKILLS
from perdure.api.openapi.upload_codes import RANGES, UNREADABLE


class ErrorCode(Struct, frozen=True):
    """A stable code of an error.

    Attributes:
        status: the HTTP status of a response with this code; None if no response has this code.
        meaning: what is wrong.
        remedy: what to do about it.
    """

    code: str
    status: int | None
    meaning: str
    remedy: str


def _codes(status: int | None, *rows: tuple[str, str, str]) -> tuple[ErrorCode, ...]:
    return tuple(ErrorCode(code, status, meaning, remedy) for code, meaning, remedy in rows)


RESPONSES = (
    *_codes(
        400,
        (
            "api_key_missing",
            "The provider has no API key, and its vendor's own address needs one.",
            "Set the provider's `api_key`. Keys in the environment serve the first organization only.",
        ),
        ("body_timeout", "The body did not arrive within 30 seconds.", "Send the request again."),
        ("duplicate_tool", "Two tools have the same name.", "Rename one of them."),
        ("empty_file", "The body is empty.", "Send an agent file or a prompt."),
        ("fork_too_long", "The fork would copy more than 100,000 events.", "Use a smaller `from_sequence`."),
        ("harness_archived", "The harness is archived.", "Use another harness."),
        (
            "harness_cycle",
            "The harness would inherit from itself, directly or through its parents.",
            "Choose another parent.",
        ),
        (
            "harness_too_deep",
            "The chain of inheritance would have more than 8 harnesses.",
            "Choose a parent with fewer ancestors.",
        ),
        (
            "invalid_capability_config",
            "A capability's configuration does not match its schema.",
            "See the schema at `GET /v1/capabilities/{capability_id}`.",
        ),
        (
            "invalid_content",
            "The content of a file is not valid base64, or not valid text.",
            "Send binary content as base64 and text with the encoding `text`.",
        ),
        (
            "invalid_cron",
            "The cron expression is malformed, or it names a date that does not exist.",
            "Use five fields: minute, hour, day of the month, month, day of the week.",
        ),
        (
            "invalid_etag",
            "`If-Match` or `If-None-Match` is not a list of entity tags.",
            "Send the `ETag` exactly as you received it, with its quotes.",
        ),
        (
            "invalid_front_matter",
            "The front matter is not YAML, or it has a field that agents do not have.",
            "Correct the line or field that the message names. Anchors and tags are not supported.",
        ),
        (
            "invalid_http",
            "The request is not valid HTTP/1.1.",
            "Use an HTTP client. The server does not speak HTTPS: put a proxy in front of it for that.",
        ),
        (
            "invalid_id",
            "An id is malformed, or it is the id of another kind of resource.",
            "Send the id exactly as you received it: a prefix, `_` and 32 lower-case hexadecimal digits.",
        ),
        (
            "invalid_idempotency_key",
            "The `Idempotency-Key` is empty, too long or not printable ASCII.",
            "Use 1 to 255 printable ASCII characters.",
        ),
        (
            "invalid_json",
            "The body is not valid JSON in UTF-8, or it contains a NUL character.",
            "Correct the error that the message describes.",
        ),
        (
            "invalid_path",
            "The path is not a valid file path, or the operation cannot use it.",
            "See the message for the reason. Paths must not contain backslashes or invisible characters.",
        ),
        (
            "invalid_pattern",
            "The pattern is not a valid regular expression or glob.",
            "Use the RE2 syntax for regular expressions: it has no look-around and no backreferences.",
        ),
        (
            "invalid_request",
            "A field or parameter is missing, has the wrong type or breaks a rule.",
            "Correct the field that `field` names. The message says what is accepted.",
        ),
        (
            "invalid_text",
            "The body is not valid UTF-8, or it contains a NUL character.",
            "Send text in UTF-8.",
        ),
        (
            "invalid_tool_schema",
            "The parameters of a tool are no JSON Schema, model vendors refuse them, or they are too large.",
            "Correct the place that the message names.",
        ),
        ("is_a_folder", "The path is a folder, but the operation needs a file.", "Name a file."),
        ("missing_body", "The request has no body.", "Send JSON, at least `{}`."),
        (
            "missing_tool_call",
            "The results leave out an open tool call.",
            "Submit the results of all open calls in one request.",
        ),
        (
            "models_not_listed",
            "The provider has no list of models at its address.",
            "Check `base_url`, or register the models manually.",
        ),
        (
            "nesting_too_deep",
            "The body's JSON is nested 100 or more levels deep.",
            "Reduce the nesting to at most 99 levels.",
        ),
        (
            "number_out_of_range",
            "An integer does not fit in 64 bits, or another number does not fit in a double.",
            "Send the number as a string.",
        ),
        (
            "organization_required",
            "The caller belongs to several organizations, and the request does not name one.",
            "Name the organization in the `X-Org-Id` header.",
        ),
        (
            "repeated_header",
            "A header that decides about access is sent more than once.",
            "Send it once. If you use a proxy, correct its configuration.",
        ),
        (
            "repeated_tool_call",
            "The request answers the same tool call twice.",
            "Answer each call only once.",
        ),
        ("reserved_name", "The name is reserved: it is part of a path of this API.", "Choose another name."),
        ("reserved_tool_name", "The tool's name is reserved.", "Rename the tool."),
        (
            "secret_in_url",
            "`base_url` contains credentials, but all members of the organization can read it.",
            "Move the credentials to `api_key` or `options.headers`.",
        ),
        (
            "secret_would_move",
            "The change would send the stored API key or headers to another address.",
            "Send the API key and headers again, or `null`, together with the new address.",
        ),
        TOO_MANY_CALLBACKS,
        (
            "too_many_schedules",
            "The session has reached its limit of schedules, or of active schedules.",
            "Disable or delete a schedule.",
        ),
        (
            "too_many_secrets",
            "The session would exceed its limit of secrets, or of their total size.",
            "Store fewer or shorter secrets.",
        ),
        ("unknown_capability", "This server has no such capability.", "See `GET /v1/capabilities`."),
        (
            "unknown_credential",
            "This type of provider does not use such a credential.",
            "See `GET /v1/providers/config` for the credentials of each type.",
        ),
        ("unknown_cursor", "The cursor is not in the session's log.", "Read its events from the start."),
        ("unknown_event_type", "No event has this type.", "See the event reference for the types."),
        (
            "unknown_provider_type",
            "This server does not support this type of provider.",
            "Use one of the types that the message lists.",
        ),
        ("unknown_tool_call", "No open tool call has this id.", "Take the id from `tool.call_requested`."),
    ),
    *_codes(401, *UNAUTHENTICATED),
    *_codes(403, *FORBIDDEN),
    *_codes(
        404,
        ("agent_example_not_found", "No example has this name.", "See the guide to agents for the examples."),
        (
            "agent_not_found",
            "The organization has no such agent.",
            "See `GET /v1/agents`. Agents of other organizations are treated as missing.",
        ),
        ("agent_version_not_found", "No such version exists.", "See `GET /v1/agents/{agent_id}/versions`."),
        (
            "callback_not_found",
            "The session has no such open callback.",
            "See `GET /v1/sessions/{session_id}/callbacks`.",
        ),
        ("capability_not_found", "This server has no such capability.", "See `GET /v1/capabilities`."),
        (
            "database_not_found",
            "The session has no such database.",
            "See `GET /v1/sessions/{session_id}/databases`.",
        ),
        ("file_not_found", "Nothing exists at this path.", "List the folder to see its files."),
        ("harness_example_not_found", "No example has this name.", "See `GET /v1/harness-examples`."),
        ("harness_not_found", "The organization has no such harness.", "See `GET /v1/harnesses`."),
        (
            "invitation_not_found",
            "The invitation's id or code is wrong, or it expired, was accepted, or was withdrawn.",
            "Ask an admin of the organization for a new one.",
        ),
        ("model_not_found", "The organization has no such model.", "See `GET /v1/models`."),
        ("not_found", "The resource does not exist.", "Check the id."),
        (
            "organization_not_found",
            "The organization does not exist, or the caller is not a member of it.",
            "See `GET /v1/orgs`.",
        ),
        ("provider_not_found", "The organization has no such provider.", "See `GET /v1/providers`."),
        ("resource_not_found", "No resource has this id, or the caller may not see it.", "Check the id."),
        ("route_not_found", "The API has no such path.", "See `/docs` for the routes."),
        (
            "schedule_not_found",
            "The session has no such schedule.",
            "See `GET /v1/sessions/{session_id}/schedules`.",
        ),
        (
            "session_not_found",
            "The organization has no such session, or it has been deleted.",
            "See `GET /v1/sessions`. Sessions of other organizations are treated as missing.",
        ),
        ("token_not_found", "The caller has no such access token.", "See `GET /v1/users/me/tokens`."),
        ("user_not_found", "The organization has no such user.", "See `GET /v1/users`."),
        (
            "workspace_not_found",
            "The organization has no such workspace, or its session has been deleted.",
            "See `GET /v1/workspaces`. Workspaces of other organizations are treated as missing.",
        ),
    ),
    *_codes(
        405,
        (
            "method_not_allowed",
            "The path does not accept this method.",
            "The `Allow` header lists the methods.",
        ),
    ),
    *_codes(
        409,
        ("already_member", "The user is already a member of the organization.", "No action is needed."),
        (
            "row_damaged",
            "A row in the database is damaged, and the request needs it.",
            "`detail` names the resource. Restore a backup, or do without it.",
        ),
        ("conflict", "The resource's current state does not allow this.", "Read the resource again."),
        ("database_exists", "The session already has a database of this name.", "Choose another name."),
        (
            "database_unreadable",
            "The server cannot read the database's tables.",
            "See `detail` for the reason. Try again, or delete the database.",
        ),
        (
            "event_unreadable",
            "An event in the session's log is damaged, and the request needs it.",
            "Fork the session up to an earlier event: `detail` names the damaged one.",
        ),
        (
            "file_exists",
            "A file or folder already exists at this path.",
            "Use `PUT` to change a file, or choose another path.",
        ),
        (
            "fork_expired",
            "Copying the session took so long that the copy was given up.",
            "Fork it again, up to a smaller `from_sequence`.",
        ),
        ("folder_not_empty", "The folder is not empty.", "Use `recursive=true` to delete its contents too."),
        ("harness_in_use", "The harness is the organization's default.", "Set another default first."),
        (
            "idempotency_key_reused",
            "The `Idempotency-Key` was used for a different request.",
            "Use a new key for each new request.",
        ),
        ("last_owner", "The organization would have no owner.", "Make another member an owner first."),
        ("name_taken", "Another resource of this kind has this name.", "Choose another name."),
        (
            "not_a_folder",
            "The path is a file, but the operation needs a folder.",
            "Choose another path, or delete the file.",
        ),
        (
            "not_waiting_for_approval",
            "The session is not waiting for an approval.",
            "Read the events: another client was faster, the time limit passed, or the turn was cancelled.",
        ),
        (
            "not_waiting_for_tool_results",
            "The session is not waiting for tool results.",
            "Read the events: another client was faster, the time limit passed, or the turn was cancelled.",
        ),
        ("too_many_databases", "The session has reached its limit of databases.", "Delete a database."),
        ("too_many_invitations", "The organization has 100 open invitations.", "Withdraw one."),
        ("too_many_tokens", "The user has 100 access tokens that work.", "Revoke one."),
        ("workspace_archived", "The workspace is archived.", "Restore it: `PATCH` the status to `active`."),
        ("workspace_of_session", "A session's own workspace cannot be archived.", "Delete the session."),
    ),
    *_codes(410, *GONE),
    *_codes(412, *CHANGED),
    *_codes(413, *TOO_LARGE),
    *_codes(415, *UNREADABLE),
    *_codes(416, *RANGES),
    *_codes(422, *INVALID_SKILLS),
    *_codes(429, *TOO_MANY),
    *_codes(
        431,
        (
            "headers_too_large",
            "The request line and headers are larger than 64 KB.",
            "Send shorter headers or a shorter URL.",
        ),
    ),
    *_codes(
        500, ("internal", "The server has a bug.", "Please report it. The server's log has the details.")
    ),
    *_codes(
        503,
        *BUSY,
        (
            "unavailable",
            (
                "The database cannot be used: it is not responding, busy, full, read-only or damaged; or the "
                "server is shutting down. `outcome` is `unchanged` if nothing was changed, and `unknown` if "
                "the request may or may not have been carried out."
            ),
            (
                "Try again if `retryable` is true. After `unknown`, repeat it with the same Idempotency-Key, "
                "or look first. `GET /health` names the cause."
            ),
        ),
    ),
    *_codes(400, *INVALID, *OUTPUT_SCHEMAS),
    *_codes(404, *MISSING),
    *_codes(502, *GATEWAY),
    *_codes(409, *CONFLICTS),
)
"""Codes of HTTP responses, by status."""

TURNS = _codes(
    None,
    (
        "agent_archived",
        "The session's agent is archived.",
        "Restore the agent, or use a session of another agent.",
    ),
    (
        "content_filtered",
        "The provider's content filter refused the conversation or the answer.",
        "Rephrase the message.",
    ),
    (
        "context_length_exceeded",
        "The conversation is too long for the model, even without its older parts.",
        "Use a model with a larger context window, or a new session.",
    ),
    ("discovery_failed", "A capability could not find the tools that it needs.", "Try again later."),
    (
        "duplicate_tool",
        "Two of the session's tools have the same name.",
        "Rename one of them, or remove the capability or tool that adds it.",
    ),
    ("filled_prompt_too_long", "The prompt is too long with its variables' values.", "Shorten the values."),
    (
        "invalid_model_request",
        "The provider refused the request as invalid.",
        "See the error for the reason. Often the model does not support tools or images.",
    ),
    (
        "loop_detected",
        "The agent kept repeating the same tool calls, so `loop_detection` stopped the turn.",
        "Send a message that tells the agent what to do differently.",
    ),
    (
        "max_iterations",
        "The turn reached its limit of model calls.",
        "Send a message to continue, or raise `max_iterations`.",
    ),
    ("missing_variable", "A variable of the prompt has no value.", "Give it to the session or the message."),
    (
        "model_not_configured",
        "No model is configured for the session, or all suitable models are disabled.",
        "Register a provider and a model, or enable one.",
    ),
    ("model_not_found", "The provider does not have the model.", "Check the model's `model_id`."),
    ("no_progress", "The turn failed several times without any progress.", "Send another message."),
    ("provider_auth", "The provider refused the API key.", "Set a valid `api_key` for the provider."),
    (
        "provider_bad_response",
        "The provider's response does not follow its protocol.",
        "Check the provider's `base_url` and `provider_type`.",
    ),
    (
        "provider_misconfigured",
        "The provider's address, API key or options cannot be used, or its server has no such address.",
        "See the error for the reason. Correct the provider, or the API key in the server's environment.",
    ),
    (
        "provider_rate_limited",
        "The provider was still rate-limiting requests after several retries.",
        "Send another message later.",
    ),
    ("provider_timeout", "The model did not answer in time.", "Send a message to try again."),
    ("provider_unavailable", "The provider could not be reached, or failed.", "Send another message later."),
    ("quota_exceeded", "The provider's quota is used up.", "Raise the quota at the provider."),
    *ANSWERS,
    *TASKS,
)
"""The `error_code` of `turn.failed` events. Listing a provider's models can fail with the same codes: with
status 400 if the caller can fix the cause, else 502."""

TOOLS = _codes(
    None,
    (
        "interrupted",
        "The server crashed during the call, and the tool must not run twice.",
        "The model is told that the outcome is unknown.",
    ),
    (
        "invalid_arguments",
        "The model's arguments do not match the tool's schema.",
        "The model is told what is wrong and can call the tool again.",
    ),
    ("rejected", "A user did not approve the call.", "The model is told so."),
    (
        "repeated_call",
        "`loop_detection` refused the call: the model made the same calls too often in a row.",
        "The model is asked to try something else.",
    ),
    (
        "outcome_unknown",
        "The tool cannot tell whether its effect took place.",
        "The model is told to check the current state before it tries again.",
    ),
    ("tool_error", "The tool refused the call or failed.", "The model is told the reason."),
    (
        "unknown_tool",
        "The model called a tool that the session does not have.",
        "The model is told that the tool does not exist.",
    ),
)
"""Codes of failed tool calls. The model receives the message, and the turn continues."""

PROGRAMS = _codes(
    None,
    ("bad_answer", "The response does not come from a Perdure server.", "Check the URL."),
    ("command_failed", "A command failed.", "See the message for the reason."),
    ("invalid_setting", "A setting has an invalid value.", "Correct the setting that the message names."),
    *KEEPING,
    ("invalid_tools", "A file with tools has mistakes.", "Correct the lines that the message names."),
    ("invalid_tool_result", "A client's tool returned no valid JSON.", "See the message for the reason."),
    ("local_model_unavailable", "The small local model cannot start.", "See the message for the reason."),
    ("turn_waits", "The turn waits for a person or a client.", "Answer what it asks, then call `resume`."),
    ("turn_paused", "A budget has no money for the turn.", "Top it up: the turn goes on by itself."),
    ("unreachable", "No server is responding at the URL.", "Start the server, or check the URL."),
    (
        "upload_cut",
        "The server ended the connection while a large file was being sent to it.",
        "Send a smaller file, or raise PERDURE_MAX_UPLOAD_BYTES. Otherwise, try again.",
    ),
)
"""Codes of the `perdure` command and the Python client. Errors of the server keep their own codes."""
