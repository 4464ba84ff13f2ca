"""Organizations, users, access tokens, and callers."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from perdure.domain.errors import Forbidden
from perdure.domain.ids import (
    HarnessId,
    InvitationId,
    ModelId,
    ModelIdText,
    OrgId,
    PrincipalId,
    SessionId,
    TokenId,
    UserId,
    Uuid,
    WorkspaceId,
)
from perdure.domain.layer_fields import FALLBACK_MODELS, FallbackModels
from perdure.domain.memories import Mounts
from perdure.domain.times import CreatedAt, Timestamp, UpdatedAt

UserRole = Literal["owner", "admin", "member"]
RANK: dict[UserRole, int] = {"member": 0, "admin": 1, "owner": 2}
Label = Annotated[str, Meta(min_length=1, max_length=200)]
Email = Annotated[
    str, Meta(min_length=3, max_length=254, pattern=r"^[^\s@]+@[^\s@]+$(?!\n)", examples=["ada@example.com"])
]
"""254 characters is the longest address that RFC 5321 allows."""


class Caller(Struct, frozen=True):
    """Who makes a request, and the organization that everything it touches must belong to (promise P8).

    Attributes:
        bound: whether the token is valid in this organization only, because another user created it.
        makers: the ids of all users who may know the token. Who knows it may know the tokens that it creates.
        token_id: the token; None on a server without a login.
    """

    organization_id: OrgId
    user_id: UserId
    role: UserRole = "owner"
    bound: bool = False
    makers: str = ""
    token_id: TokenId | None = None

    def own_workspace(self, session_id: SessionId) -> WorkspaceId | None:
        """None: a caller is not a session's own tool."""
        return None

    def own_memories(self, session_id: SessionId) -> Mounts | None:
        """None: a caller is not a session's own tool."""
        return None


def require(caller: Caller, role: UserRole) -> None:
    """Require that the caller has at least this role.

    Raises:
        Forbidden: the caller's role is lower.
    """
    if RANK[caller.role] < RANK[role]:
        raise Forbidden(
            f"this requires the role {role} in the organization; yours is {caller.role}", code="role_required"
        )


def require_above(caller: Caller, role: UserRole) -> None:
    """Require that the caller has a higher role than this one.

    Raises:
        Forbidden: the caller's role is the same or lower.
    """
    if RANK[caller.role] <= RANK[role]:
        raise Forbidden(
            f"this requires a higher role than the user's, which is {role}; yours is {caller.role}",
            code="role_required",
        )


def require_own_token(caller: Caller) -> None:
    """Require a token that the user created, for requests that reach beyond one organization.

    Raises:
        Forbidden: another user created the token.
    """
    if caller.bound:
        raise Forbidden(
            "this requires an access token that you created: yours is valid in one organization only",
            code="own_token_required",
        )


_ORG_NAME = Meta(description="The organization's name, for people.", examples=["Acme"])
_DEFAULT_MODEL_ID = Meta(
    description=(
        "The model to use where neither the message, the session, the agent nor the harness names one."
    )
)
_DEFAULT_HARNESS_ID = Meta(description="The harness of sessions that name neither a harness nor an agent.")
_USER_NAME = Meta(description="The user's name.", examples=["Ada"])
_EMAIL = Meta(description="The user's e-mail address.", examples=["ada@example.com"])
_TOKEN_NAME = Meta(description="What the token is used for.", examples=["build server"])
_ORG_ID = Meta(description="The organization.")
_EXPIRES_AT = Meta(description="When the token expires. Without it, the token does not expire.")


class CreateOrganization(Struct, frozen=True):
    """The body of `POST /v1/orgs`."""

    name: Annotated[Label, _ORG_NAME]


class UpdateOrganization(Struct, frozen=True):
    """The body of `PATCH /v1/orgs/{org}`."""

    name: Annotated[Label | UnsetType, _ORG_NAME] = UNSET
    default_model_id: Annotated[ModelIdText | None | UnsetType, _DEFAULT_MODEL_ID] = UNSET
    default_harness_id: Annotated[str | None | UnsetType, _DEFAULT_HARNESS_ID] = UNSET
    fallback_models: Annotated[FallbackModels | None | UnsetType, FALLBACK_MODELS] = UNSET
    default_harness_name: Annotated[
        Annotated[str, Meta(max_length=64)] | UnsetType,
        Meta(description="The name of the default harness. Give this or `default_harness_id`, not both."),
    ] = UNSET


class Organization(Struct, frozen=True, omit_defaults=True):
    """An organization."""

    id: Annotated[OrgId, Meta(description="The organization's id.")]
    name: Annotated[str, _ORG_NAME]
    created_at: CreatedAt
    updated_at: UpdatedAt
    default_provider_per_service: Annotated[dict[str, str], Meta(description="Always empty.", examples=[{}])]
    default_model_id: Annotated[
        ModelId | None, _DEFAULT_MODEL_ID, Meta(examples=["model_0192f0c1b2a37b5c8d4e5f60718293a4"])
    ] = None
    default_harness_id: Annotated[HarnessId | None, _DEFAULT_HARNESS_ID] = None
    base_harness_id: Annotated[
        HarnessId | None, Meta(description="The id of the built-in harness `base`.")
    ] = None
    onboarding_completed_at: Annotated[
        Timestamp | None, Meta(description="When the setup of the organization was marked as completed.")
    ] = None
    fallback_models: Annotated[tuple[ModelId, ...], FALLBACK_MODELS] = ()


class User(Struct, frozen=True, omit_defaults=True):
    """A member of the organization."""

    id: Annotated[UserId, Meta(description="The user's id.")]
    name: Annotated[str, _USER_NAME]
    email: Annotated[str, _EMAIL]
    roles: Annotated[
        tuple[str, ...],
        Meta(
            description="The user's roles in the organization: `owner`, `admin` or `member`.",
            examples=[["member"]],
        ),
    ]
    created_at: CreatedAt


class PrincipalSummary(Struct, frozen=True, omit_defaults=True):
    """The owner of a resource: always a user, whose id contains the same UUID as the principal's id."""

    id: Annotated[
        PrincipalId, Meta(description="The principal's id. It contains the same UUID as the user's id.")
    ]
    kind: Annotated[
        Literal["user", "agent_identity", "system"], Meta(description="The kind of principal: always `user`.")
    ]
    subject_id: Annotated[
        Uuid | None,
        Meta(description="The UUID in the user's id.", examples=["0192f0c1-b2a3-7b5c-8d4e-5f60718293a4"]),
    ] = None


class AddUser(Struct, frozen=True):
    """The body of `POST /v1/users`, which adds a new or an existing user to the organization."""

    email: Annotated[Email, _EMAIL]
    name: Annotated[Label, _USER_NAME]
    role: Annotated[UserRole, Meta(description="The role to give to the user.")] = "member"


class UpdateUser(Struct, frozen=True):
    """The body of `PATCH /v1/users/{user_id}`."""

    role: Annotated[UserRole | UnsetType, Meta(description="The user's new role.")] = UNSET


class UpdateProfile(Struct, frozen=True):
    """The body of `PATCH /v1/users/me`. Omitted fields do not change."""

    name: Annotated[Label | UnsetType, _USER_NAME] = UNSET


class Profile(Struct, frozen=True):
    """The caller's own account."""

    id: Annotated[UserId, Meta(description="The user's id.")]
    name: Annotated[str, _USER_NAME]
    email: Annotated[str, _EMAIL]


class Identity(Struct, frozen=True):
    """Who the caller is, and what the caller may do."""

    id: Annotated[UserId, Meta(description="The user's id.")]
    name: Annotated[str, _USER_NAME]
    email: Annotated[str, _EMAIL]
    organization_id: Annotated[OrgId, Meta(description="The organization that the request is about.")]
    organization_name: Annotated[str, _ORG_NAME]
    role: Annotated[UserRole, Meta(description="The user's role in the organization.", examples=["owner"])]
    scopes: Annotated[
        tuple[str, ...],
        Meta(
            description='What the access token allows: always `["*"]`, all that the role allows.',
            examples=[["*"]],
        ),
    ]


class CreateToken(Struct, frozen=True, omit_defaults=True):
    """The body of `POST /v1/users/me/tokens`."""

    name: Annotated[Label, _TOKEN_NAME]
    expires_at: Annotated[Timestamp | None, _EXPIRES_AT] = None


class Token(Struct, frozen=True, omit_defaults=True):
    """An access token. `token` is the secret itself, present only in the answer that creates the token."""

    id: Annotated[TokenId, Meta(description="The token's id.")]
    name: Annotated[str, _TOKEN_NAME]
    hint: Annotated[
        str, Meta(description="The last characters of the secret, to tell tokens apart.", examples=["x8Qd"])
    ]
    created_at: CreatedAt
    token: Annotated[
        str | None, Meta(description="The secret. It is returned only once, when the token is created.")
    ] = None
    expires_at: Annotated[Timestamp | None, _EXPIRES_AT, Meta(examples=["2026-03-14T09:26:54.731204Z"])] = (
        None
    )
    last_used_at: Annotated[Timestamp | None, Meta(description="When the token was last used.")] = None
    revoked_at: Annotated[Timestamp | None, Meta(description="When the token was revoked.")] = None
    organization_id: Annotated[
        OrgId | None,
        Meta(
            description=(
                "The only organization in which the token is valid. Set when another user created the token."
            )
        ),
    ] = None
    created_by: Annotated[
        UserId | None,
        Meta(
            description=(
                "The user who created the token. The token stops working when that user is removed, or gets "
                "a lower role than the token's user. Missing if unknown."
            ),
            examples=["user_01920000000070008000000000000001"],
        ),
    ] = None


class CreateInvitation(Struct, frozen=True):
    """The body of `POST /v1/invitations`."""

    email: Annotated[
        Email | None,
        Meta(description="A note about who should accept it. Nothing is sent, and nothing is looked up."),
    ] = None
    role: Annotated[UserRole, Meta(description="The role to give to the user who accepts.")] = "member"


class Invitation(Struct, frozen=True, omit_defaults=True):
    """An open invitation. `code` is present only in the answer that creates the invitation."""

    id: Annotated[InvitationId, Meta(description="The invitation's id.")]
    role: Annotated[
        UserRole, Meta(description="The role that the user who accepts gets.", examples=["member"])
    ]
    created_by: Annotated[UserId, Meta(description="The user who created the invitation.")]
    created_at: CreatedAt
    expires_at: Annotated[
        Timestamp, Meta(description="When it expires.", examples=["2026-03-21T09:26:54.731204Z"])
    ]
    email: Annotated[str | None, Meta(description="A note about who should accept it.")] = None
    code: Annotated[
        str | None,
        Meta(description="The secret that accepts the invitation. It is returned only once."),
    ] = None


class AcceptInvitation(Struct, frozen=True):
    """The body of `POST /v1/invitations/{invitation_id}/accept`."""

    code: Annotated[
        str,
        Meta(
            description="The invitation's code.",
            min_length=1,
            max_length=200,
            examples=["pdr_inv_dRTDbMGh0cVvWFmmCkjq9xRkeW6h3rOBVN0y5qXUfBM"],
        ),
    ]


class SwitchOrganization(Struct, frozen=True):
    """The body of `POST /v1/users/me/switch-org`."""

    org_id: Annotated[OrgId, Meta(description="The organization to switch to.")]


class SwitchedOrganization(Struct, frozen=True):
    """The organization to name in `X-Org-Id` from now on."""

    org_id: Annotated[OrgId, Meta(description="The organization that was switched to.")]
    success: Annotated[
        bool, Meta(description="Always `true`: a failure is an error response.", examples=[True])
    ]


class ResolvedOrganization(Struct, frozen=True):
    """The organization that a resource belongs to."""

    org_id: Annotated[OrgId, Meta(description="The organization that the resource belongs to.")]
    org_name: Annotated[str, Meta(description="The organization's name.", examples=["Acme"])]


class DeletedAccount(Struct, frozen=True):
    deleted: Annotated[
        bool, Meta(description="Always `true`: a failure is an error response.", examples=[True])
    ]


class ExportedOrganization(Struct, frozen=True):
    id: Annotated[OrgId, Meta(description="The organization's id.")]
    name: Annotated[str, _ORG_NAME]
    role: Annotated[str, Meta(description="The user's role in the organization.", examples=["owner"])]


class ExportedUser(Struct, frozen=True):
    """All stored data about the caller's account."""

    exported_at: Annotated[Timestamp, Meta(description="When the export was written.")]
    user: Annotated[User, Meta(description="The user's account.")]
    organizations: Annotated[
        tuple[ExportedOrganization, ...], Meta(description="The organizations that the user belongs to.")
    ]
    personal_access_tokens: Annotated[
        tuple[Token, ...], Meta(description="The user's access tokens, without the secrets.", examples=[[]])
    ]
