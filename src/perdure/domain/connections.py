"""Connections: the sign-ins of users, and of an organization's service, at MCP servers."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from msgspec import Meta, Struct

from perdure.domain.ids import OrgId, SessionId, UserId
from perdure.domain.mcp_servers import ActsAs
from perdure.domain.oauth import Authority, OAuthClient
from perdure.domain.times import CreatedAt, Timestamp

SERVICE = "service"
"""The identity of an organization's own sign-ins. It is no user's id."""
SIGN_IN_SECONDS = 600
"""Seconds for a sign-in, once it has begun."""
MAX_SIGN_INS = 50
"""The most sign-ins of one identity that are under way."""
MAX_CONNECTIONS = 500
"""The most sign-ins of one identity that are stored."""
TOKEN_PREFIX = "pdr_si_"  # noqa: S105 (a prefix, not a token)
STATE_PREFIX = "pdr_st_"
INLINE = "inline_"
"""The beginning of the key of a server that is not registered."""

_PROVIDER = Meta(
    description="The server: the id of a registered one, or the key that pending sign-ins have.",
    examples=["mcp_0195a1b2c3d47e5f8a9b0c1d2e3f4a5b"],
)
_NAME = Meta(description="The server's name.", examples=["crm"])
_URL = Meta(description="The server's URL.", examples=["https://mcp.example.com/mcp"])


class SignInServer(Struct, frozen=True):
    """An MCP server that wants a sign-in.

    Attributes:
        key: its id, or for one that is not registered, `inline_key(url)`.
    """

    key: str
    name: str
    url: str
    acts_as: ActsAs = "user"


def identities_of(acts_as: ActsAs, user: UserId) -> tuple[str, ...]:
    """Return whose sign-ins may be used for a user, the preferred one first."""
    match acts_as:
        case "none":
            return ()
        case "service":
            return (SERVICE,)
        case "user":
            return (user,)
        case "user_or_service":
            return (user, SERVICE)


def inline_key(url: str) -> str:
    """Return the key of a server that is not registered: the same for the same URL."""
    return f"{INLINE}{hashlib.sha256(url.encode()).hexdigest()[:32]}"


class Attempt(Struct, frozen=True):
    """A sign-in that has begun. It is stored encrypted.

    Attributes:
        scopes: those that are asked for.
        url: where the person grants access.
    """

    server: SignInServer
    authority: Authority
    client: OAuthClient
    verifier: str
    redirect_uri: str
    scopes: tuple[str, ...]
    url: str


class Connection(Struct, frozen=True, omit_defaults=True):
    """A sign-in at a server: one that is stored, or one that calls wait for. It never has tokens."""

    provider: Annotated[str, _PROVIDER]
    server: Annotated[str, _NAME]
    url: Annotated[str, _URL]
    acts_as: Annotated[
        Literal["user", "service"], Meta(description="Whose sign-in it is.", examples=["user"])
    ]
    status: Annotated[
        Literal["connected", "pending"],
        Meta(description="`pending`: calls wait for the sign-in.", examples=["connected"]),
    ]
    created_at: CreatedAt
    scopes: Annotated[tuple[str, ...], Meta(description="What was granted.")] = ()
    signed_in_at: Annotated[Timestamp | None, Meta(description="The last sign-in.")] = None
    expires_at: Annotated[
        Timestamp | None,
        Meta(description="The end of the access token, which is refreshed; or until when the calls wait."),
    ] = None
    sign_in_url: Annotated[str | None, Meta(description="With `pending`: the page to begin at.")] = None
    session_ids: Annotated[
        tuple[SessionId, ...], Meta(description="With `pending`: the sessions that wait.")
    ] = ()


class SignInProvider(Struct, frozen=True, omit_defaults=True):
    """A registered server at which users, or the organization, can sign in."""

    provider: Annotated[str, _PROVIDER]
    server: Annotated[str, _NAME]
    url: Annotated[str, _URL]
    acts_as: Annotated[ActsAs, Meta(description="Whose sign-ins its tools use.", examples=["user"])]
    connected: Annotated[bool, Meta(description="Whether the caller has signed in.", examples=[False])]


class SignInLink(Struct, frozen=True):
    """Where a sign-in begins. Whoever has the URL can sign in for the caller: open it yourself."""

    url: Annotated[
        str,
        Meta(
            description="The page to open in a browser.",
            examples=["http://127.0.0.1:9300/v1/oauth/start/pdr_si_..."],
        ),
    ]
    expires_at: Annotated[
        Timestamp, Meta(description="The end of its time.", examples=["2026-03-15T09:36:53.589793Z"])
    ]


class ClientDocument(Struct, frozen=True):
    """This server as an OAuth client, for authorization servers that read such documents."""

    client_id: Annotated[
        str,
        Meta(
            description="The URL of this document.",
            examples=["https://perdure.example.com/.well-known/oauth-client"],
        ),
    ]
    client_name: Annotated[str, Meta(description="The client's name.", examples=["Perdure"])]
    redirect_uris: Annotated[
        tuple[str, ...],
        Meta(
            description="Where codes are sent.",
            examples=[["https://perdure.example.com/v1/oauth/callback"]],
        ),
    ]
    grant_types: Annotated[tuple[str, ...], Meta(description="How the client gets tokens.")] = (
        "authorization_code",
        "refresh_token",
    )
    response_types: Annotated[tuple[str, ...], Meta(description="What it asks for.")] = ("code",)
    token_endpoint_auth_method: Annotated[
        str, Meta(description="How it authenticates: it has no secret.")
    ] = "none"  # noqa: S105 (no password)
    application_type: Annotated[str, Meta(description="The kind of client.")] = "web"


class Identity(Struct, frozen=True):
    """Whose sign-in it is. `name` is None if the identity is not known any more."""

    org_id: OrgId
    identity: str

    @property
    def user_id(self) -> UserId | None:
        """The user; None for the organization's service."""
        return None if self.identity == SERVICE else UserId(self.identity)
