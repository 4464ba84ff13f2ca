"""Routes of the limits of organizations and their users."""

from __future__ import annotations

from perdure.api.kernel.call import Call
from perdure.api.kernel.route import route
from perdure.app import limits as use
from perdure.domain.ids import OrgId
from perdure.domain.limits import Limits, UpdateLimits


@route("GET", "/v1/orgs/{org}/limits", "organizations", errors=(404,))
async def get_limits(call: Call, org: OrgId) -> Limits:
    """Get the limits of an organization.

    Returns the limits of the organization and of each of its users, and how much of them is used: by the
    whole organization, and by the caller. 404 if the caller is not a member.
    """
    return await use.read_limits(call.app, call.caller, org)


@route(
    "PATCH",
    "/v1/orgs/{org}/limits",
    "organizations",
    errors=(403, 404),
    body_example={"organization": {"active_turns": 200}, "user": {"tokens_per_minute": 400000}},
)
async def update_limits(call: Call, org: OrgId, body: UpdateLimits) -> Limits:
    """Change the limits of an organization.

    Omitted limits keep their values; `null` restores the server's. No limit can be above the server's.
    Requires the role `admin`. Other processes of the server follow within seconds.
    """
    return await use.change_limits(call.app, call.caller, org, body)


ROUTES = (get_limits, update_limits)
