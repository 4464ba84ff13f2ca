"""Every error code: what it means and what to do. The reference page and `/docs/errors` are made from this.

A test fails while a code that the source can emit is missing here.
"""

from __future__ import annotations

from msgspec import Struct


class ErrorCode(Struct, frozen=True):
    """A stable word for something that can go wrong.

    Attributes:
        status: of the HTTP answer; None where it is not an answer.
    """

    code: str
    status: int | None
    meaning: str
    remedy: str


def _answers(status: int, *rows: tuple[str, str, str]) -> tuple[ErrorCode, ...]:
    return tuple(ErrorCode(code, status, meaning, remedy) for code, meaning, remedy in rows)


ANSWERS = (
    *_answers(
        400,
        (
            "agent_archived",
            "The agent is archived and starts no sessions.",
            "Use another, or bring it back with `PATCH` and the status `active`.",
        ),
        ("body_timeout", "The body did not arrive within 30 seconds.", "Send it again."),
        ("duplicate_tool", "Two tools have the same name.", "Rename one of them."),
        ("empty_file", "The text that was sent is empty.", "Send an agent's file, or a prompt."),
        ("harness_archived", "The harness is archived.", "Use another."),
        (
            "harness_cycle",
            "A harness would inherit from itself, perhaps by way of others.",
            "Choose another parent.",
        ),
        (
            "harness_too_deep",
            "Over 8 harnesses would inherit from one another in a line.",
            "Choose a parent nearer to the top.",
        ),
        (
            "invalid_content",
            "A file's content is not base64, or not text.",
            "Encode it again; text goes without an encoding.",
        ),
        (
            "invalid_capability_config",
            "A capability's configuration does not fit its schema.",
            "`GET /v1/capabilities/{capability_id}` shows the schema.",
        ),
        (
            "invalid_etag",
            "`If-Match` or `If-None-Match` is not a list of entity tags.",
            "Send the `ETag` as it was given, with its quotes.",
        ),
        (
            "invalid_front_matter",
            "The front matter is not YAML, or holds what no agent has.",
            "The message names the line or the field. Anchors, tags and unknown fields are not taken.",
        ),
        (
            "invalid_http",
            "What came in is not an HTTP/1.1 request.",
            "Use an HTTP client; for HTTPS, a proxy before the server.",
        ),
        (
            "invalid_id",
            "What stands in an id's place is not an id of that kind.",
            "An id is its kind, `_` and 32 lower-case hex digits. Send it as it was given.",
        ),
        (
            "invalid_idempotency_key",
            "The `Idempotency-Key` is empty, too long or not printable ASCII.",
            "Use up to 255 printable ASCII characters.",
        ),
        (
            "invalid_json",
            "The body is not JSON in UTF-8, or holds a NUL character.",
            "The message names the place.",
        ),
        (
            "invalid_path",
            "That cannot be the path of a file, or not of what was asked for.",
            "The message says why. Names are separated by `/`, without backslashes and invisible characters.",
        ),
        (
            "invalid_pattern",
            "The pattern is not a regular expression, or not a glob.",
            "Regular expressions are those of RE2, without look-around and references back.",
        ),
        (
            "invalid_request",
            "A field or parameter is missing, of the wrong type or against a rule.",
            "`field` names it, the message says what would fit.",
        ),
        ("invalid_text", "The body is not text in UTF-8, or holds a NUL character.", "Send text in UTF-8."),
        ("is_a_folder", "There is a folder where a file was meant.", "Name a file in it."),
        ("missing_body", "The request needs a body.", "Send JSON, `{}` at least."),
        (
            "models_not_listed",
            "There is no list of models at the provider's address.",
            "Look at `base_url`; or register the models by hand.",
        ),
        (
            "missing_tool_call",
            "An open tool call has no answer among the results.",
            "Answer all open calls together.",
        ),
        ("nesting_too_deep", "The body's JSON is nested 100 deep or deeper.", "Flatten it."),
        (
            "number_out_of_range",
            "A whole number does not fit in 64 bits, or another one in a double.",
            "Send it as a string.",
        ),
        (
            "organization_required",
            "The token's user belongs to several organizations.",
            "Name one in the `X-Org-Id` header.",
        ),
        ("repeated_tool_call", "A call is answered twice in one request.", "Answer each once."),
        ("reserved_name", "The name is a word of the API's own paths.", "Choose another name."),
        ("reserved_tool_name", "A tool may not have this name.", "Rename it."),
        (
            "secret_in_url",
            "A URL that others can read holds credentials.",
            "Put them into `api_key` or `options.headers`.",
        ),
        (
            "secret_would_move",
            "The change would send the stored key or headers to another address.",
            "Give them again, or `null`, together with the new address.",
        ),
        (
            "unknown_capability",
            "There is no such capability on this server.",
            "`GET /v1/capabilities` lists them.",
        ),
        (
            "unknown_credential",
            "This type of provider has no such credential.",
            "`GET /v1/providers/config` lists them.",
        ),
        ("unknown_event_type", "There is no such type of event.", "See the list of event types."),
        (
            "unknown_provider_type",
            "This server does not speak that provider's protocol.",
            "The message lists the types.",
        ),
        (
            "unknown_tool_call",
            "No open call has this id.",
            "Take the ids from the last `tool.call_requested` event.",
        ),
        ("fork_too_long", "A fork would copy over 100,000 events.", "Fork from an earlier place."),
        ("too_many_secrets", "The session would hold too many secrets.", "Delete some."),
        (
            "invalid_cron",
            "The cron expression is malformed, or names a day that never comes.",
            "Five fields: minute, hour, day, month, weekday.",
        ),
        (
            "too_many_schedules",
            "The session has as many schedules as it can have.",
            "Turn one off, or delete one.",
        ),
    ),
    *_answers(
        401,
        (
            "unauthenticated",
            "No token, or one that is unknown, expired or revoked.",
            "Send `Authorization: Bearer pdr_pat_...`.",
        ),
    ),
    *_answers(
        403,
        (
            "built_in_read_only",
            "What came with the server cannot be changed.",
            "Copy it, and change the copy.",
        ),
        (
            "file_read_only",
            "The file, or one in the folder, is read-only.",
            "`PUT` it with `is_readonly: false` first.",
        ),
        ("forbidden", "The caller may not do this.", "Ask an owner of the organization."),
        (
            "host_not_allowed",
            "A server without a login answers only to `localhost` and loopback addresses.",
            "Use one of them, or set up a login with `perdure keys create`.",
        ),
        (
            "origin_not_allowed",
            "A server without a login takes no requests of web pages that come from another machine.",
            "Serve the page from this machine, or set up a login with `perdure keys create`.",
        ),
        (
            "own_token_required",
            "Somebody else made this token for the user, so it works in one organization only.",
            "Use a token that the user made.",
        ),
        ("role_required", "The caller's role does not allow this.", "Ask an owner of the organization."),
    ),
    *_answers(
        404,
        ("agent_example_not_found", "There is no such example.", "The guide to agents names them."),
        (
            "agent_not_found",
            "There is no such agent here.",
            "It may be another organization's: the answer is the same.",
        ),
        (
            "agent_version_not_found",
            "The agent has no such version.",
            "`GET /v1/agents/{agent_id}/versions` lists them.",
        ),
        ("capability_not_found", "There is no such capability.", "`GET /v1/capabilities` lists them."),
        ("file_not_found", "There is nothing at this path.", "List the folder."),
        ("harness_example_not_found", "There is no such example.", "`GET /v1/harness-examples` lists them."),
        ("harness_not_found", "There is no such harness here.", "`GET /v1/harnesses` lists them."),
        ("image_not_found", "There is no such image here.", "Send the image itself, or its URL."),
        ("model_not_found", "There is no such model here.", "`GET /v1/models` lists them."),
        ("not_found", "It is not here.", "Look at the id."),
        ("provider_not_found", "There is no such provider here.", "`GET /v1/providers` lists them."),
        ("route_not_found", "There is nothing at this path.", "`/docs` lists the routes."),
        (
            "session_not_found",
            "There is no such session here, or it was deleted.",
            "It may be another organization's: the answer is the same.",
        ),
        (
            "database_not_found",
            "The session has no such database.",
            "`GET /v1/sessions/{session_id}/databases` lists them.",
        ),
        (
            "organization_not_found",
            "There is no such organization, or the caller is no member.",
            "`GET /v1/orgs` lists them.",
        ),
        ("resource_not_found", "Nothing has this id, or the caller may not see it.", "Look at the id."),
        ("token_not_found", "The caller has no such token.", "`GET /v1/users/me/tokens` lists them."),
        ("user_not_found", "The organization has no such user.", "`GET /v1/users` lists them."),
        (
            "schedule_not_found",
            "The session has no such schedule.",
            "`GET /v1/sessions/{session_id}/schedules` lists them.",
        ),
        (
            "workspace_not_found",
            "There is no such workspace here, or its session was deleted.",
            "It may be another organization's: the answer is the same.",
        ),
    ),
    *_answers(
        405,
        ("method_not_allowed", "The path does not take this method.", "`Allow` lists those that it takes."),
    ),
    *_answers(
        409,
        ("conflict", "The resource's state does not allow this.", "Read it again."),
        (
            "file_exists",
            "There is something at this path already.",
            "`PUT` changes it; or choose another path.",
        ),
        ("folder_not_empty", "The folder has something in it.", "Say `recursive=true` to delete it all."),
        ("harness_in_use", "The harness is the organization's default.", "Choose another default first."),
        (
            "idempotency_key_reused",
            "The `Idempotency-Key` belongs to another request.",
            "Use a new key for a new request.",
        ),
        ("name_taken", "Another one has this name.", "Choose another name."),
        (
            "not_a_folder",
            "A file stands where a folder was meant.",
            "Choose another path, or delete the file.",
        ),
        (
            "not_waiting_for_approval",
            "The session does not wait for an approval.",
            "Somebody was quicker, the time was up, or the turn was cancelled. Read the events.",
        ),
        (
            "not_waiting_for_tool_results",
            "The session does not wait for tool results.",
            "Somebody was quicker, the time was up, or the turn was cancelled. Read the events.",
        ),
        (
            "workspace_archived",
            "The workspace is archived.",
            "Bring it back with `PATCH` and the status `active`.",
        ),
        ("workspace_of_session", "The workspace goes with its session.", "Delete the session."),
        ("already_member", "The user belongs to the organization already.", "There is nothing to do."),
        (
            "database_unreadable",
            "The tables of a database cannot be looked at.",
            "`detail` says why; try again, or drop the database.",
        ),
        ("database_exists", "The session has a database of this name.", "Choose another name."),
        (
            "last_owner",
            "An organization would be left without an owner.",
            "Make somebody else an owner first.",
        ),
        ("too_many_databases", "The session has as many databases as it can hold.", "Delete one."),
    ),
    *_answers(
        412,
        (
            "precondition_failed",
            "The resource has changed since it was read.",
            "Read it again and decide anew.",
        ),
    ),
    *_answers(
        413,
        ("file_too_large", "The file is over 10 MB, or what the server allows.", "Split it."),
        (
            "too_many_files",
            "The workspace would hold over 20,000 files and folders.",
            "Delete some, or pack them.",
        ),
        ("too_large", "The body is over 10 MB.", "Send less."),
        ("tool_result_too_large", "A tool result is over 100 KB.", "Shorten it, or say where it is."),
        (
            "workspace_full",
            "The workspace's files would be over 100 MB, or what the server allows.",
            "Delete some.",
        ),
    ),
    *_answers(
        415,
        ("no_preview", "Only text files can be previewed.", "Download the file."),
        (
            "unsupported_media_type",
            "The body is not declared as JSON in UTF-8.",
            "Send `Content-Type: application/json`.",
        ),
    ),
    *_answers(429, ("rate_limited", "Too many requests.", "Wait for `Retry-After` seconds.")),
    *_answers(431, ("headers_too_large", "The request's line and headers are over 64 KB.", "Send less.")),
    *_answers(
        500, ("internal", "The server made a mistake.", "It is in the server's log. Please report it.")
    ),
    *_answers(
        503,
        ("unavailable", "The database does not answer, or the server is stopping.", "Try again in a moment."),
    ),
)
"""Codes of answers, by status."""

TURNS = (
    ErrorCode(
        "agent_archived", None, "The session's agent was archived.", "Bring it back, or use a new session."
    ),
    ErrorCode(
        "content_filtered",
        None,
        "The vendor's filter refused the conversation or the answer.",
        "Say it in another way.",
    ),
    ErrorCode(
        "context_length_exceeded",
        None,
        "The conversation is too long for the model, however much was left out.",
        "Use a model with a larger window, or a new session.",
    ),
    ErrorCode(
        "duplicate_tool",
        None,
        "Two of the session's tools have the same name.",
        "Rename one of them in the agent.",
    ),
    ErrorCode(
        "invalid_model_request",
        None,
        "The vendor refused the request.",
        "The error says why; often the model cannot do what was asked of it (tools, images).",
    ),
    ErrorCode(
        "loop_detected",
        None,
        "The agent kept making the same tool calls, and `loop_detection` stopped the turn.",
        "Send a message that says what to do differently.",
    ),
    ErrorCode(
        "max_iterations",
        None,
        "The turn reached its limit of model calls.",
        "Send a message to go on, or raise `max_iterations`.",
    ),
    ErrorCode(
        "model_not_configured",
        None,
        "No model is set up, or all that have a claim are disabled.",
        "Register a provider and a model.",
    ),
    ErrorCode(
        "model_not_found", None, "The vendor does not know the model.", "Look at the model's `model_id`."
    ),
    ErrorCode("provider_auth", None, "The vendor refused the key.", "Give the provider a valid `api_key`."),
    ErrorCode(
        "provider_bad_response",
        None,
        "What came back is not what the protocol promises.",
        "Look at `base_url` and `provider_type`.",
    ),
    ErrorCode(
        "provider_misconfigured",
        None,
        "No call can be made with the provider's address, key and options.",
        "The error says why. Change the provider, or the key in the server's environment.",
    ),
    ErrorCode(
        "provider_rate_limited",
        None,
        "The vendor limits requests, and did not recover in time.",
        "Send a message later.",
    ),
    ErrorCode("provider_timeout", None, "The model took too long.", "Send a message to try again."),
    ErrorCode(
        "provider_unavailable", None, "The vendor could not be reached, or failed.", "Send a message later."
    ),
    ErrorCode("quota_exceeded", None, "The vendor's quota is used up.", "Raise it with the vendor."),
)
"""The `error_code` of `turn.failed` events. What a provider says while its models are listed has the same
codes: as an answer with
status 400 when the caller can mend it, else 502."""

TOOLS = (
    ErrorCode(
        "invalid_arguments",
        None,
        "The model's arguments do not fit the tool's schema.",
        "The model is told what is wrong.",
    ),
    ErrorCode(
        "interrupted",
        None,
        "A crash came in the middle, and the tool must not run twice.",
        "The model is told.",
    ),
    ErrorCode(
        "repeated_call",
        None,
        "`loop_detection`: the same calls were made too often in a row.",
        "The model is told.",
    ),
    ErrorCode("rejected", None, "A person did not allow the call.", "The model is told."),
    ErrorCode("tool_error", None, "The tool refused or failed.", "The model is told why."),
    ErrorCode(
        "unknown_tool",
        None,
        "The model asked for a tool that the session does not have.",
        "The model is told.",
    ),
)
"""Why a tool call ends in an error. The model reads the words; the turn goes on."""

PROGRAMS = (
    ErrorCode("bad_answer", None, "Something answered that is not a Perdure server.", "Look at the URL."),
    ErrorCode("command_failed", None, "A command could not do its work.", "The message says why."),
    ErrorCode("invalid_setting", None, "A setting does not fit.", "The message names it."),
    ErrorCode(
        "local_model_unavailable", None, "The small local model cannot be started.", "The message says why."
    ),
    ErrorCode("unreachable", None, "Nobody answers there.", "Start the server, or look at the URL."),
)
"""Codes of the `perdure` command and the Python client; what the server answers has its own code."""

INSIDE = ("fenced", "stale_head")
"""Codes that never leave the server: signals between its own parts."""

BY_CODE = {error.code: error for error in (*PROGRAMS, *TOOLS, *TURNS, *ANSWERS)}
