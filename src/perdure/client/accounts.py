"""Organizations, users, access tokens and invitations."""

from __future__ import annotations

from perdure.client import routes
from perdure.client.routes import Caller, listed, path_of
from perdure.domain.accounts import (
    AcceptInvitation,
    AddUser,
    CreateInvitation,
    CreateOrganization,
    CreateToken,
    DeletedAccount,
    ExportedUser,
    Identity,
    Invitation,
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
from perdure.domain.limits import Limits, UpdateLimits
from perdure.domain.retention import Retention, RetentionPreview, UpdateRetention

_ORGANIZATION = "/v1/orgs/{}"
_USER = "/v1/users/{}"
_ME = "/v1/users/me"
_TOKENS = "/v1/users/{}/tokens"
_INVITATION = "/v1/invitations/{}"


class AccountMethods(Caller):
    """The client's methods about organizations, users, access tokens and invitations."""

    async def identity(self) -> Identity:
        """Return who the caller is: user, organization, role and scopes."""
        return await self.call("GET", "/v1/auth/me", Identity)

    create_organization = routes.creates(
        "/v1/orgs", CreateOrganization, Organization, "Create an organization, owned by the caller."
    )
    get_organization = routes.reads(_ORGANIZATION, Organization, "Return an organization.")
    list_organizations = routes.lists("/v1/orgs", Organization, "List the caller's organizations.")
    update_organization = routes.updates(
        _ORGANIZATION, UpdateOrganization, Organization, "Change an organization."
    )
    get_limits = routes.reads(
        f"{_ORGANIZATION}/limits", Limits, "Return an organization's limits, and what is used of them."
    )
    update_limits = routes.updates(
        f"{_ORGANIZATION}/limits", UpdateLimits, Limits, "Change an organization's limits."
    )
    get_retention = routes.reads(
        f"{_ORGANIZATION}/retention", Retention, "Return how long an organization keeps what it has."
    )
    update_retention = routes.updates(
        f"{_ORGANIZATION}/retention",
        UpdateRetention,
        Retention,
        "Change how long an organization keeps what it has.",
    )
    preview_retention = routes.creates_under(
        f"{_ORGANIZATION}/retention/preview",
        UpdateRetention,
        RetentionPreview,
        "Return what retention would delete now, with these changes.",
        once=False,
    )
    complete_onboarding = routes.acts(
        "POST", f"{_ORGANIZATION}/onboarding/complete", Organization, "Note that it has been set up."
    )

    async def resolve_organization(self, resource_id: str) -> ResolvedOrganization:
        """Return the organization of a resource, such as a session or an agent."""
        return await self.call("GET", "/v1/resolve-org", ResolvedOrganization, params=[("id", resource_id)])

    add_user = routes.creates("/v1/users", AddUser, User, "Add a user to the organization.")
    get_user = routes.reads(_USER, User, "Return a user of the organization.")
    update_user = routes.updates(_USER, UpdateUser, User, "Change a user's role.")
    remove_user = routes.sends("DELETE", _USER, "Remove a user from the organization.")

    async def list_users(self, *, search: str | None = None) -> tuple[User, ...]:
        """List the organization's users."""
        return await listed(self, "/v1/users", User, [("search", search)])

    get_profile = routes.fetches(_ME, Profile, "Return the caller's own account.")
    export_user_data = routes.fetches(
        f"{_ME}/export", ExportedUser, "Return what is stored about the caller."
    )
    switch_organization = routes.posts(
        f"{_ME}/switch-org", SwitchOrganization, SwitchedOrganization, "Check that another can be used."
    )

    async def update_profile(self, name: str) -> Profile:
        """Change the caller's own name."""
        return await self.call("PATCH", _ME, Profile, body=UpdateProfile(name))

    async def delete_account(self) -> DeletedAccount:
        """Delete the caller's own account."""
        return await self.call("DELETE", _ME, DeletedAccount)

    # The answer with a token's or an invitation's secret is never stored, so it cannot be repeated.
    create_token = routes.posts(
        f"{_ME}/tokens", CreateToken, Token, "Create an access token; only this answer contains it."
    )
    create_user_token = routes.creates_under(
        _TOKENS, CreateToken, Token, "Create an access token for another user.", once=False
    )
    list_tokens = routes.lists(
        f"{_ME}/tokens", Token, "List the caller's access tokens, without the secrets."
    )
    revoke_token = routes.sends("DELETE", f"{_ME}/tokens/{{}}", "Revoke one of the caller's access tokens.")

    create_invitation = routes.posts(
        "/v1/invitations", CreateInvitation, Invitation, "Invite a person; only this answer has the code."
    )
    list_invitations = routes.lists("/v1/invitations", Invitation, "List open invitations.")
    withdraw_invitation = routes.sends("DELETE", _INVITATION, "Withdraw an invitation.")

    async def accept_invitation(self, invitation_id: str, code: str) -> ResolvedOrganization:
        """Accept an invitation: the caller becomes a member of the organization."""
        path = path_of(f"{_INVITATION}/accept", invitation_id)
        return await self.call("POST", path, ResolvedOrganization, body=AcceptInvitation(code))
