"""Routes of invitations to an organization."""

from __future__ import annotations

from perdure.api.kernel.call import Call
from perdure.api.kernel.route import route
from perdure.app import invitations as use
from perdure.domain.accounts import AcceptInvitation, CreateInvitation, Invitation, ResolvedOrganization
from perdure.domain.ids import InvitationId
from perdure.domain.paging import Listing


@route("GET", "/v1/invitations", "users")
async def list_invitations(call: Call) -> Listing[Invitation]:
    """List the organization's open invitations.

    Newest first, without their codes. Requires the role `admin`.
    """
    return Listing(tuple(await use.all_invitations(call.app, call.caller)))


@route(
    "POST",
    "/v1/invitations",
    "users",
    status=201,
    errors=(409,),
    body_example={"email": "ada@example.com", "role": "member"},
    replayable=False,
)
async def create_invitation(call: Call, body: CreateInvitation) -> Invitation:
    """Invite somebody who has an account on this server.

    The response contains the invitation's code, which is never shown again: pass it on, with the id. Whoever
    accepts with it joins the organization with their own account. An invitation is valid once, for seven
    days, and until its creator is removed or gets a lower role. Requires the role `admin`. Callers cannot
    grant a role higher than their own.
    """
    return await use.create_invitation(call.app, call.caller, body)


@route("DELETE", "/v1/invitations/{invitation_id}", "users", errors=(404,))
async def withdraw_invitation(call: Call, invitation_id: InvitationId) -> None:
    """Withdraw an invitation.

    Its code stops working at once. Requires the role `admin`.
    """
    await use.withdraw_invitation(call.app, call.caller, invitation_id)


@route(
    "POST",
    "/v1/invitations/{invitation_id}/accept",
    "users",
    errors=(404, 409),
    body_example={"code": "pdr_inv_dRTDbMGh0cVvWFmmCkjq9xRkeW6h3rOBVN0y5qXUfBM"},
    anywhere=True,
)
async def accept_invitation(
    call: Call, invitation_id: InvitationId, body: AcceptInvitation
) -> ResolvedOrganization:
    """Join an organization that invites the caller.

    Until then, nothing changes for the caller. Afterwards, the caller belongs to several organizations, so
    requests must name one in `X-Org-Id`. Requires an access token that the caller created. 404 if the id or
    the code is wrong, or the invitation is over.
    """
    return await use.accept_invitation(call.app, call.caller, invitation_id, body)


ROUTES = (list_invitations, create_invitation, withdraw_invitation, accept_invitation)
