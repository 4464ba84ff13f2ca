"""Routes of organizations, users and access tokens."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from perdure.api.kernel.http import Call, Route
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
from perdure.domain.ids import Prefix
from perdure.domain.paging import Listing

ORG: dict[str, Prefix] = {"org": "org"}
USER: dict[str, Prefix] = {"user_id": "user"}


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


async def list_organizations(call: Call) -> Listing[Organization]:
    return Listing(tuple(await use.all_organizations(call.app, call.caller)))


async def create_organization(call: Call) -> Organization:
    return await use.create_organization(call.app, call.caller, call.body)


async def get_organization(call: Call) -> Organization:
    return await use.read_organization(call.app, call.caller, call.params["org"])


async def update_organization(call: Call) -> Organization:
    return await use.change_organization(call.app, call.caller, call.params["org"], call.body)


async def complete_onboarding(call: Call) -> Organization:
    return await use.complete_onboarding(call.app, call.caller, call.params["org"])


async def resolve_org(call: Call) -> ResolvedOrganization:
    return await use.resolve_organization(call.app, call.caller, call.query.id)


async def list_users(call: Call) -> Listing[User]:
    return Listing(tuple(await use.all_users(call.app, call.caller, call.query.search or None)))


async def add_user(call: Call) -> User:
    return await use.add_member(call.app, call.caller, call.body)


async def get_user(call: Call) -> User:
    return await use.read_member(call.app, call.caller, call.params["user_id"])


async def update_user(call: Call) -> User:
    return await use.change_member(call.app, call.caller, call.params["user_id"], call.body)


async def remove_user(call: Call) -> None:
    await use.remove_member(call.app, call.caller, call.params["user_id"])


async def get_profile(call: Call) -> Profile:
    return await use.read_profile(call.app, call.caller)


async def update_profile(call: Call) -> Profile:
    return await use.change_profile(call.app, call.caller, call.body)


async def delete_account(call: Call) -> DeletedAccount:
    return await use.delete_account(call.app, call.caller)


async def export_user_data(call: Call) -> ExportedUser:
    return await use.export_account(call.app, call.caller)


async def switch_org(call: Call) -> SwitchedOrganization:
    return await use.switch_organization(call.app, call.caller, call.body.org_id)


async def create_token(call: Call) -> Token:
    return await login.create_token(call.app, call.caller, call.body)


async def create_user_token(call: Call) -> Token:
    member = await use.member_caller(call.app, call.caller, call.params["user_id"])
    return await login.create_token(call.app, member, call.body)


async def list_tokens(call: Call) -> Listing[Token]:
    return Listing(tuple(await login.list_tokens(call.app, call.caller)))


async def revoke_token(call: Call) -> None:
    await login.end_token(call.app, call.caller, call.params["token_id"])


_TOKEN: Any = {"name": "build server", "expires_at": "2030-01-01T00:00:00Z"}

ROUTES = (
    Route("GET", "/v1/orgs", "list_organizations", "List the caller's organizations", "organizations", list_organizations,
          returns=Listing[Organization], anywhere=True),
    Route("POST", "/v1/orgs", "create_organization", "Create an organization", "organizations", create_organization,
          body=CreateOrganization, body_example={"name": "Acme"}, returns=Organization, status=201),
    Route("GET", "/v1/orgs/{org}", "get_organization", "Get an organization", "organizations", get_organization, ids=ORG,
          returns=Organization, errors=(404,)),
    Route("PATCH", "/v1/orgs/{org}", "update_organization", "Change an organization", "organizations", update_organization,
          ids=ORG, body=UpdateOrganization, body_example={"name": "Acme Ltd"}, returns=Organization, errors=(403, 404)),
    Route("POST", "/v1/orgs/{org}/onboarding/complete", "complete_org_onboarding", "Mark an organization as set up",
          "organizations", complete_onboarding, ids=ORG, returns=Organization, errors=(403, 404)),
    Route("GET", "/v1/resolve-org", "resolve_org", "Find the organization of a resource", "organizations", resolve_org,
          query=Resolve, returns=ResolvedOrganization, errors=(404,), anywhere=True),
    Route("GET", "/v1/users", "list_users", "List the organization's users", "users", list_users, query=ListUsers,
          returns=Listing[User]),
    Route("POST", "/v1/users", "add_user", "Make a user, or let a known one into the organization", "users", add_user,
          body=AddUser, body_example={"email": "ada@example.com", "name": "Ada", "role": "member"}, returns=User, status=201,
          errors=(403, 409)),
    Route("GET", "/v1/users/me", "get_profile", "Get the caller's account", "users", get_profile, returns=Profile, errors=(404,),
          anywhere=True),
    Route("PATCH", "/v1/users/me", "update_profile", "Rename the caller", "users", update_profile, body=UpdateProfile,
          body_example={"name": "Ada Lovelace"}, returns=Profile, errors=(404,)),
    Route("DELETE", "/v1/users/me", "delete_account", "Delete the caller's account", "users", delete_account,
          returns=DeletedAccount, errors=(404, 409)),
    Route("GET", "/v1/users/me/export", "export_user_data", "Export what is kept about the caller", "users", export_user_data,
          returns=ExportedUser, errors=(404,)),
    Route("POST", "/v1/users/me/switch-org", "switch_org", "Check that the caller may work in an organization", "users", switch_org,
          body=SwitchOrganization, body_example={"org_id": "org_01920000000070008000000000000001"}, returns=SwitchedOrganization,
          errors=(404,), anywhere=True),
    Route("GET", "/v1/users/me/tokens", "list_tokens", "List the caller's access tokens", "users", list_tokens,
          returns=Listing[Token]),
    Route("POST", "/v1/users/me/tokens", "create_token", "Make an access token; its secret is shown once", "users", create_token,
          body=CreateToken, body_example=_TOKEN, returns=Token, status=201, replayable=False),
    Route("DELETE", "/v1/users/me/tokens/{token_id}", "revoke_token", "Revoke an access token", "users", revoke_token,
          ids={"token_id": "token"}, status=204, errors=(404,)),
    Route("GET", "/v1/users/{user_id}", "get_user", "Get one of the organization's users", "users", get_user, ids=USER, returns=User,
          errors=(404,)),
    Route("PATCH", "/v1/users/{user_id}", "update_user", "Change what a member of the organization is", "users", update_user, ids=USER,
          body=UpdateUser, body_example={"role": "admin"}, returns=User, errors=(403, 404, 409)),
    Route("DELETE", "/v1/users/{user_id}", "remove_user", "Remove a member from the organization, or leave it", "users", remove_user,
          ids=USER, status=204, errors=(403, 404, 409)),
    Route("POST", "/v1/users/{user_id}/tokens", "create_user_token", "Make an access token for a member", "users",
          create_user_token, ids=USER, body=CreateToken, body_example=_TOKEN, returns=Token, status=201, replayable=False,
          errors=(403, 404)),
)  # fmt: skip
