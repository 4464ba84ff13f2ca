"""The error codes of refused access, as rows for `error_codes`: code, meaning, remedy."""

from __future__ import annotations

from perdure.api.openapi.memory_codes import FORBIDDEN_MEMORIES

UNAUTHENTICATED = (
    (
        "unauthenticated",
        "The access token is missing, unknown, expired or revoked, or its user is not a member.",
        "Send `Authorization: Bearer pdr_pat_...` with a valid access token.",
    ),
)

FORBIDDEN = (
    (
        "operators_only",
        "Metrics and processes are about all organizations: they are for administrators of the first one.",
        "Use an access token of an administrator there. Metrics: or set `PERDURE_METRICS_PORT`.",
    ),
    *FORBIDDEN_MEMORIES,
    (
        "other_browser",
        "The answer of an authorization server came to another browser than the one that began.",
        "Begin the sign-in in the browser in which you finish it.",
    ),
    (
        "sign_in_needs_token",
        "A page cannot tell for whom it is opened, and the server has a login.",
        "`POST /v1/user/connections/{provider}/sign-in` with your access token, and open that URL.",
    ),
    (
        "too_long_for_link",
        "The call is too long to be shown on a page, so its link can only reject it.",
        "Read the inbox item, and decide with an access token.",
    ),
    ("built_in_read_only", "Built-in resources cannot be changed.", "Change a copy instead."),
    (
        "configured_by_operator",
        "The MCP server comes from the operator's file, so it cannot be changed through the API.",
        "Ask the operator to change the file that `PERDURE_MCP_SERVERS` names.",
    ),
    (
        "file_read_only",
        "The file, or a file in the folder, is read-only.",
        "`PUT` the file with `is_readonly: false` first.",
    ),
    (
        "not_an_approver",
        "The session's policies let others decide on this call: see `may_decide` of its item in the inbox.",
        "Ask one of them.",
    ),
    ("forbidden", "The caller may not do this.", "Ask an owner of the organization for permission."),
    (
        "host_not_allowed",
        "A server without a login accepts requests only under `localhost` or a loopback address.",
        "Use one of these in the URL, or create an access token with `perdure keys create`.",
    ),
    (
        "origin_not_allowed",
        "A server without a login refuses requests from web pages of other origins, also of other ports.",
        "Create an access token with `perdure keys create`.",
    ),
    (
        "own_token_required",
        "Another user created this access token, so it works in one organization only.",
        "Use an access token that its user created.",
    ),
    (
        "policy_protected",
        "The change would loosen the policies of an agent or a session's copy, or free the name of an agent.",
        "Ask the agent's creator, the session's owner or an admin, or change a copy of the agent.",
    ),
    (
        "proxy_not_allowed",
        "A server without a login refuses requests that a proxy forwarded.",
        "Connect directly, or create an access token with `perdure keys create`.",
    ),
    (
        "role_required",
        "The caller's role in the organization is too low.",
        "Ask an owner of the organization for a higher role.",
    ),
    (
        "session_owner_required",
        "Only the session's owner and admins may decide about all later calls of a tool.",
        "Decide this call alone, with `allow` or `reject`.",
    ),
)
