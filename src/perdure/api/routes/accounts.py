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
    """Query of the list of users."""

    search: Annotated[
        Annotated[str, Meta(max_length=200)] | None,
        Meta(description="Text to find in the name or the e-mail address, case-insensitive."),
    ] = None


class Resolve(Struct, frozen=True):
    """Query of the look-up of a resource's organization."""

    id: Annotated[
        str,
        Meta(description="The id of a resource, such as a session, an agent or a harness.", max_length=100),
    ]


_TOKEN = {"name": "build server", "expires_at": "2030-01-01T00:00:00Z"}


@route("GET", "/v1/orgs", "organizations", anywhere=True)
async def list_organizations(call: Call) -> Listing[Organization]:
    """List the caller's organizations.

    Those that the caller belongs to. For this nobody has to choose one with `X-Org-Id`.
    """
    return Listing(tuple(await use.all_organizations(call.app, call.caller)))


@route("POST", "/v1/orgs", "organizations", status=201, body_example={"name": "Acme"})
async def create_organization(call: Call, body: CreateOrganization) -> Organization:
    """Create an organization.

    The caller becomes its owner. It begins with the built-in harnesses.
    """
    return await use.create_organization(call.app, call.caller, body, call.once)


@route("GET", "/v1/orgs/{org}", "organizations", errors=(404,))
async def get_organization(call: Call, org: OrgId) -> Organization:
    """Get an organization.

    With its defaults.
    """
    return await use.read_organization(call.app, call.caller, org)


@route("PATCH", "/v1/orgs/{org}", "organizations", errors=(403, 404), body_example={"name": "Acme Ltd"})
async def update_organization(call: Call, org: OrgId, body: UpdateOrganization) -> Organization:
    """Change an organization.

    A field that is left out stays; `null` clears a default.
    """
    return await use.change_organization(call.app, call.caller, org, body)


@route("POST", "/v1/orgs/{org}/onboarding/complete", "organizations", errors=(403, 404))
async def complete_org_onboarding(call: Call, org: OrgId) -> Organization:
    """Mark an organization as set up.

    For user interfaces: remembers when. Doing it twice is fine.
    """
    return await use.complete_onboarding(call.app, call.caller, org)


@route("GET", "/v1/resolve-org", "organizations", errors=(404,), anywhere=True)
async def resolve_org(call: Call, query: Resolve) -> ResolvedOrganization:
    """Find the organization of a resource.

    For links that carry only the id of a resource.
    """
    return await use.resolve_organization(call.app, call.caller, query.id)


@route("GET", "/v1/users", "users")
async def list_users(call: Call, query: ListUsers) -> Listing[User]:
    """List the organization's users.

    The organization's members.
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
    """Make a user, or let a known one into the organization.

    A person is known by the e-mail address, in any case.
    """
    return await use.add_member(call.app, call.caller, body, call.once)


@route("GET", "/v1/users/{user_id}", "users", errors=(404,))
async def get_user(call: Call, user_id: UserId) -> User:
    """Get one of the organization's users.

    `roles` are those in this organization.
    """
    return await use.read_member(call.app, call.caller, user_id)


@route("PATCH", "/v1/users/{user_id}", "users", errors=(403, 404, 409), body_example={"role": "admin"})
async def update_user(call: Call, user_id: UserId, body: UpdateUser) -> User:
    """Change what a member of the organization is.

    For admins. Nobody grants more than they have, nor changes somebody above them; the last owner stays one.
    It holds from the next request on.
    """
    return await use.change_member(call.app, call.caller, user_id, body)


@route("DELETE", "/v1/users/{user_id}", "users", errors=(403, 404, 409))
async def remove_user(call: Call, user_id: UserId) -> None:
    """Remove a member from the organization, or leave it.

    For admins, and not for somebody above them; everybody may leave. Their tokens stop working here at once,
    and those that work nowhere else are revoked; an open stream ends within minutes. Sessions and all else
    that they made stay. The last owner cannot go.
    """
    await use.remove_member(call.app, call.caller, user_id)


@route("GET", "/v1/users/me", "users", errors=(404,), anywhere=True)
async def get_profile(call: Call) -> Profile:
    """Get the caller's account.

    The caller's own account.
    """
    return await use.read_profile(call.app, call.caller)


@route("PATCH", "/v1/users/me", "users", errors=(404,), body_example={"name": "Ada Lovelace"})
async def update_profile(call: Call, body: UpdateProfile) -> Profile:
    """Rename the caller.

    The name that others see.
    """
    return await use.change_profile(call.app, call.caller, body)


@route("DELETE", "/v1/users/me", "users", errors=(404, 409))
async def delete_account(call: Call) -> DeletedAccount:
    """Delete the caller's account.

    Refused while an organization has no other owner.
    """
    return await use.delete_account(call.app, call.caller)


@route("GET", "/v1/users/me/export", "users", errors=(404,))
async def export_user_data(call: Call) -> ExportedUser:
    """Export what is kept about the caller.

    The account, its organizations and its tokens, without their secrets.
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
    """Check that the caller may work in an organization.

    Changes nothing on the server: it says whether `X-Org-Id` may name the organization.
    """
    return await use.switch_organization(call.app, call.caller, body.org_id)


@route("POST", "/v1/users/me/tokens", "users", status=201, body_example=_TOKEN, replayable=False)
async def create_token(call: Call, body: CreateToken) -> Token:
    """Make an access token; its secret is shown once.

    The secret is in this answer and never again. Once there is a token, the server asks for one from its next
    start on.
    """
    return await login.create_token(call.app, call.caller, body)


@route(
    "POST",
    "/v1/users/{user_id}/tokens",
    "users",
    status=201,
    errors=(403, 404),
    body_example=_TOKEN,
    replayable=False,
)
async def create_user_token(call: Call, user_id: UserId, body: CreateToken) -> Token:
    """Make an access token for a member.

    The secret is in this answer and never again.
    """
    member = await use.member_caller(call.app, call.caller, user_id)
    return await login.create_token(call.app, member, body)


@route("GET", "/v1/users/me/tokens", "users")
async def list_tokens(call: Call) -> Listing[Token]:
    """List the caller's access tokens.

    Without their secrets.
    """
    return Listing(tuple(await login.list_tokens(call.app, call.caller)))


@route("DELETE", "/v1/users/me/tokens/{token_id}", "users", errors=(404,))
async def revoke_token(call: Call, token_id: TokenId) -> None:
    """Revoke an access token.

    Requests with it are refused from now on.
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
