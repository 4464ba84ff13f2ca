"""Routes of organizations, users and access tokens."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.api.kernel.call import Call
from perdure.api.kernel.route import route
from perdure.app import accounts as use
from perdure.app import login
from perdure.domain.accounts import (
    AddUser,
    CreateOrganization,
    CreateToken,
    DeletedAccount,
    ExportedUser,
    Identity,
    Organization,
    Profile,
    ResolvedOrganization,
    SwitchedOrganization,
    SwitchOrganization,
    Token,
    UpdateOrganization,
    UpdateProfile,
    UpdateUser,
    User,
)
from perdure.domain.ids import OrgId, TokenId, UserId
from perdure.domain.paging import Listing


class ListUsers(Struct, frozen=True):
    """Query parameters of the list of users."""

    search: Annotated[
        Annotated[str, Meta(max_length=200)] | None,
        Meta(description="Text to find in the name or the e-mail address, case-insensitive."),
    ] = None


class Resolve(Struct, frozen=True):
    """Query parameters of the lookup of a resource's organization."""

    id: Annotated[
        str,
        Meta(description="The id of a resource, such as a session, an agent or a harness.", max_length=100),
    ]


_TOKEN = {"name": "build server", "expires_at": "2030-01-01T00:00:00Z"}


@route("GET", "/v1/orgs", "organizations", anywhere=True)
async def list_organizations(call: Call) -> Listing[Organization]:
    """List the caller's organizations.

    Returns the organizations that the caller is a member of. `X-Org-Id` is not needed.
    """
    return Listing(tuple(await use.all_organizations(call.app, call.caller)))


@route("POST", "/v1/orgs", "organizations", status=201, body_example={"name": "Acme"})
async def create_organization(call: Call, body: CreateOrganization) -> Organization:
    """Create an organization.

    The caller becomes its owner. The organization starts with the built-in harnesses.
    """
    return await use.create_organization(call.app, call.caller, body, call.once)


@route("GET", "/v1/orgs/{org}", "organizations", errors=(404,))
async def get_organization(call: Call, org: OrgId) -> Organization:
    """Get an organization.

    Returns its name and its defaults. 404 if the caller is not a member.
    """
    return await use.read_organization(call.app, call.caller, org)


@route("PATCH", "/v1/orgs/{org}", "organizations", errors=(403, 404), body_example={"name": "Acme Ltd"})
async def update_organization(call: Call, org: OrgId, body: UpdateOrganization) -> Organization:
    """Update an organization.

    Omitted fields keep their values; `null` clears a default. Requires the role `admin`.
    """
    return await use.change_organization(call.app, call.caller, org, body)


@route("POST", "/v1/orgs/{org}/onboarding/complete", "organizations", errors=(403, 404))
async def complete_org_onboarding(call: Call, org: OrgId) -> Organization:
    """Mark an organization's setup as completed.

    Stores the time of completion, for user interfaces. Idempotent. Requires the role `admin`.
    """
    return await use.complete_onboarding(call.app, call.caller, org)


@route("GET", "/v1/resolve-org", "organizations", errors=(404,), anywhere=True)
async def resolve_org(call: Call, query: Resolve) -> ResolvedOrganization:
    """Find the organization of a resource.

    For links that contain only a resource's id. 404 if the resource does not exist or the caller may not see
    it.
    """
    return await use.resolve_organization(call.app, call.caller, query.id)


@route("GET", "/v1/users", "users")
async def list_users(call: Call, query: ListUsers) -> Listing[User]:
    """List the organization's users.

    Returns the members of the organization, with their roles in it.
    """
    return Listing(tuple(await use.all_users(call.app, call.caller, query.search or None)))


@route(
    "POST",
    "/v1/users",
    "users",
    status=201,
    errors=(403, 409),
    body_example={"email": "ada@example.com", "name": "Ada", "role": "member"},
)
async def add_user(call: Call, body: AddUser) -> User:
    """Add a user to the organization.

    Creates the user, or adds one again whom the organization removed. 409 if a member has this e-mail address
    (case-insensitive). Whether the address is known elsewhere makes no difference: invite those who have an
    account with `POST /v1/invitations`. Requires the role `admin`. Callers cannot grant a role higher than
    their own.
    """
    return await use.add_member(call.app, call.caller, body, call.once)


@route("GET", "/v1/users/{user_id}", "users", errors=(404,))
async def get_user(call: Call, user_id: UserId) -> User:
    """Get a user of the organization.

    `roles` are the user's roles in this organization.
    """
    return await use.read_member(call.app, call.caller, user_id)


@route("PATCH", "/v1/users/{user_id}", "users", errors=(403, 404, 409), body_example={"role": "admin"})
async def update_user(call: Call, user_id: UserId, body: UpdateUser) -> User:
    """Change a member's role.

    Requires the role `admin`. Callers cannot change members with a higher role, or grant a role higher than
    their own. 409 if the organization would have no owner. The new role applies from the next request.
    Access tokens that others created for the member are revoked if its role is now higher than theirs, and
    those that it created for others unless its role is still higher.
    """
    return await use.change_member(call.app, call.caller, user_id, body)


@route("DELETE", "/v1/users/{user_id}", "users", errors=(403, 404, 409))
async def remove_user(call: Call, user_id: UserId) -> None:
    """Remove a member from the organization.

    Requires the role `admin`, and at least the member's role. All members may remove themselves. The member's
    access tokens stop working in this organization at once, and those that work in no other organization are
    revoked, as are those that the member created for others (except for owners, if the member leaves).
    Open streams end within a minute. The member's sessions and other resources remain. 409 if the
    organization would have no owner.
    """
    await use.remove_member(call.app, call.caller, user_id)


@route("GET", "/v1/users/me", "users", errors=(404,), anywhere=True)
async def get_profile(call: Call) -> Profile:
    """Get the caller's account.

    Returns the caller's id, name and e-mail address.
    """
    return await use.read_profile(call.app, call.caller)


@route("GET", "/v1/auth/me", "users", errors=(404,))
async def get_identity(call: Call) -> Identity:
    """Get who the caller is.

    Returns the user, the organization that the request is about, the role in it, and the access token's
    scopes. On a server without a login, every caller is the owner.
    """
    return await use.read_identity(call.app, call.caller)


@route("PATCH", "/v1/users/me", "users", errors=(404,), body_example={"name": "Ada Lovelace"})
async def update_profile(call: Call, body: UpdateProfile) -> Profile:
    """Change the caller's name.

    Other users see this name.
    """
    return await use.change_profile(call.app, call.caller, body)


@route("DELETE", "/v1/users/me", "users", errors=(404, 409))
async def delete_account(call: Call) -> DeletedAccount:
    """Delete the caller's account.

    409 while the caller is the only owner of an organization: make another member an owner first.
    """
    return await use.delete_account(call.app, call.caller)


@route("GET", "/v1/users/me/export", "users", errors=(404,))
async def export_user_data(call: Call) -> ExportedUser:
    """Export the data that is stored about the caller.

    Returns the account, its organizations and its access tokens, without the tokens' secrets.
    """
    return await use.export_account(call.app, call.caller)


@route(
    "POST",
    "/v1/users/me/switch-org",
    "users",
    errors=(404,),
    body_example={"org_id": "org_01920000000070008000000000000001"},
    anywhere=True,
)
async def switch_org(call: Call, body: SwitchOrganization) -> SwitchedOrganization:
    """Check that the caller may act in an organization.

    Changes nothing on the server. If the call succeeds, the caller may name the organization in `X-Org-Id`.
    404 if the caller is not a member.
    """
    return await use.switch_organization(call.app, call.caller, body.org_id)


@route(
    "POST",
    "/v1/users/me/tokens",
    "users",
    status=201,
    errors=(409,),
    body_example=_TOKEN,
    replayable=False,
)
async def create_token(call: Call, body: CreateToken) -> Token:
    """Create an access token for the caller.

    The response contains the secret, which is never shown again. A server without access tokens requires no
    login. Once one exists, it requires a login from its next restart on. 409 if the caller has 100 access
    tokens that work.
    """
    return await login.create_token(call.app, call.caller, body)


@route(
    "POST",
    "/v1/users/{user_id}/tokens",
    "users",
    status=201,
    errors=(404, 409),
    body_example=_TOKEN,
    replayable=False,
)
async def create_user_token(call: Call, user_id: UserId, body: CreateToken) -> Token:
    """Create an access token for a member.

    The access token works in this organization only, and only while its creator is a member with at least
    the member's role. The response contains the secret, which is never shown again. Requires the role
    `admin`, and a higher role than the member's.
    """
    member = await use.member_caller(call.app, call.caller, user_id)
    return await login.create_token(call.app, member, body, creator=call.caller.user_id)


@route("GET", "/v1/users/me/tokens", "users")
async def list_tokens(call: Call) -> Listing[Token]:
    """List the caller's access tokens.

    Newest first, including up to 100 revoked or expired ones. `created_by` is the user who created a token.
    Secrets are never returned.
    """
    return Listing(tuple(await login.list_tokens(call.app, call.caller)))


@route("DELETE", "/v1/users/me/tokens/{token_id}", "users", errors=(404,))
async def revoke_token(call: Call, token_id: TokenId) -> None:
    """Revoke an access token of the caller.

    The server rejects requests with this access token from now on.
    """
    await login.end_token(call.app, call.caller, token_id)


ROUTES = (
    list_organizations,
    create_organization,
    get_organization,
    update_organization,
    complete_org_onboarding,
    resolve_org,
    list_users,
    add_user,
    get_identity,
    get_profile,
    update_profile,
    delete_account,
    export_user_data,
    switch_org,
    list_tokens,
    create_token,
    revoke_token,
    get_user,
    update_user,
    remove_user,
    create_user_token,
)
