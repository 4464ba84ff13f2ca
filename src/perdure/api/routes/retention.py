"""Routes of retention: how long an organization keeps what it has."""

from __future__ import annotations

from perdure.api.kernel.call import Call
from perdure.api.kernel.route import route
from perdure.app import retention as use
from perdure.domain.ids import OrgId
from perdure.domain.retention import Retention, RetentionPreview, UpdateRetention


@route("GET", "/v1/orgs/{org}/retention", "organizations", errors=(404,))
async def get_retention(call: Call, org: OrgId) -> Retention:
    """Get how long an organization keeps what it has.

    Returns the days that hold for each kind, what the server keeps for a fixed time, and what was deleted in
    the last 90 days. 404 if the caller is not a member.
    """
    return await use.read_retention(call.app, call.caller, org)


@route(
    "PATCH",
    "/v1/orgs/{org}/retention",
    "organizations",
    errors=(403, 404),
    body_example={"idle_sessions": 365, "model_calls": 730},
)
async def update_retention(call: Call, org: OrgId, body: UpdateRetention) -> Retention:
    """Change how long an organization keeps what it has.

    Omitted kinds keep their days; 0 keeps a kind for ever, and `null` restores the server's setting. The
    server begins within a minute to delete what is older, so look at the preview first. Requires the role
    `owner`.
    """
    return await use.change_retention(call.app, call.caller, org, body)


@route(
    "POST",
    "/v1/orgs/{org}/retention/preview",
    "organizations",
    errors=(403, 404, 429, 503),
    status=200,
    body_example={"idle_sessions": 365},
)
async def preview_retention(call: Call, org: OrgId, body: UpdateRetention) -> RetentionPreview:
    """Preview what retention would delete.

    Counts what would be deleted now, with these changes of the days; `{}` for none. Nothing is deleted or
    stored. Requires the role `admin`.
    """
    return await use.preview_retention(call.app, call.caller, org, body)


ROUTES = (get_retention, update_retention, preview_retention)
