"""Organizations, users, access tokens, and who is calling."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from perdure.domain.errors import Forbidden
from perdure.domain.ids import HarnessId, ModelId, OrgId, PrincipalId, TokenId, UserId, Uuid
from perdure.domain.times import Timestamp

UserRole = Literal["owner", "admin", "member"]
RANK: dict[UserRole, int] = {"member": 0, "admin": 1, "owner": 2}
Label = Annotated[str, Meta(min_length=1, max_length=200)]
Email = Annotated[
    str, Meta(min_length=3, max_length=254, pattern=r"^[^\s@]+@[^\s@]+$", examples=["ada@example.com"])
]
"""254 characters: the longest address that RFC 5321 can carry."""


class Caller(Struct, frozen=True):
    """Who makes a request, and in which organization: everything it touches belongs there (promise P8).

    Attributes:
        bound: the token works in this organization only, because somebody else made it for the user.
    """

    organization_id: OrgId
    user_id: UserId
    role: UserRole = "owner"
    bound: bool = False


def require(caller: Caller, role: UserRole) -> None:
    """Accept only callers of at least this role.

    Raises:
        Forbidden: theirs is lower.
    """
    if RANK[caller.role] < RANK[role]:
        raise Forbidden(f"this needs the role {role} in the organization", code="role_required")


def require_own_token(caller: Caller) -> None:
    """Accept only a token that the user made: what follows reaches beyond one organization.

    Raises:
        Forbidden: somebody else made it.
    """
    if caller.bound:
        raise Forbidden(
            "this needs a token that you made yourself: yours works in one organization only",
            code="own_token_required",
        )


class CreateOrganization(Struct, frozen=True):
    """The body of `POST /v1/orgs`."""

    name: Label


class UpdateOrganization(Struct, frozen=True):
    """The body of `PATCH /v1/orgs/{org}`."""

    name: Label | UnsetType = UNSET
    default_model_id: str | None | UnsetType = UNSET
    default_harness_id: str | None | UnsetType = UNSET
    default_harness_name: Annotated[str, Meta(max_length=64)] | UnsetType = UNSET


class Organization(Struct, frozen=True, omit_defaults=True):
    """An organization, as clients see it."""

    id: OrgId
    name: str
    created_at: Timestamp
    updated_at: Timestamp
    default_provider_per_service: dict[str, str]
    default_model_id: ModelId | None = None
    default_harness_id: HarnessId | None = None
    base_harness_id: HarnessId | None = None
    onboarding_completed_at: Timestamp | None = None


class User(Struct, frozen=True, omit_defaults=True):
    """A member of the organization; `roles` are those in it."""

    id: UserId
    name: str
    email: str
    roles: tuple[str, ...]
    created_at: Timestamp


class PrincipalSummary(Struct, frozen=True, omit_defaults=True):
    """Whose something is: here always a user, whose id holds the same UUID as the principal's."""

    id: PrincipalId
    kind: Literal["user", "agent_identity", "system"]
    subject_id: Uuid | None = None


class AddUser(Struct, frozen=True):
    """The body of `POST /v1/users`: make a user, or let a known one in."""

    email: Email
    name: Label
    role: UserRole = "member"


class UpdateUser(Struct, frozen=True):
    """The body of `PATCH /v1/users/{user_id}`: what a member is in the organization."""

    role: UserRole | UnsetType = UNSET


class UpdateProfile(Struct, frozen=True):
    """The body of `PATCH /v1/users/me`: only the fields that are there change."""

    name: Label | UnsetType = UNSET


class Profile(Struct, frozen=True):
    """The caller's own account."""

    id: UserId
    name: str
    email: str


class CreateToken(Struct, frozen=True, omit_defaults=True):
    """The body of `POST /v1/users/me/tokens`."""

    name: Label
    expires_at: Timestamp | None = None


class Token(Struct, frozen=True, omit_defaults=True):
    """An access token. `token` is the secret itself: it is there once, when the token is made."""

    id: TokenId
    name: str
    hint: str
    created_at: Timestamp
    token: str | None = None
    expires_at: Timestamp | None = None
    last_used_at: Timestamp | None = None
    revoked_at: Timestamp | None = None
    organization_id: OrgId | None = None


class SwitchOrganization(Struct, frozen=True):
    """The body of `POST /v1/users/me/switch-org`."""

    org_id: OrgId


class SwitchedOrganization(Struct, frozen=True):
    """The organization to name in `X-Org-Id` from now on."""

    org_id: OrgId
    success: bool


class ResolvedOrganization(Struct, frozen=True):
    """Which organization a resource belongs to."""

    org_id: OrgId
    org_name: str


class DeletedAccount(Struct, frozen=True):
    deleted: bool


class ExportedOrganization(Struct, frozen=True):
    id: OrgId
    name: str
    role: str


class ExportedUser(Struct, frozen=True):
    """Everything that is kept about the caller's account."""

    exported_at: Timestamp
    user: User
    organizations: tuple[ExportedOrganization, ...]
    personal_access_tokens: tuple[Token, ...]
