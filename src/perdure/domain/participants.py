"""Participants: the agents and users of a session."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Annotated, Literal

from msgspec import Meta, Struct

from perdure.domain.events.agents import ParticipantKind
from perdure.domain.ids import AgentId, AgentIdText, AgentVersionId, ParticipantId, PrincipalId, SessionId
from perdure.domain.times import Timestamp

MAX_AGENTS = 20
MAX_USERS = 50
"""The most agents and users of a session besides its hosts."""

Role = Literal["host", "member"]

_KIND = Meta(description="`agent` or `user`.", examples=["agent"])


class AddSessionParticipant(Struct, frozen=True, omit_defaults=True):
    """The body of `POST /v1/sessions/{session_id}/participants`."""

    kind: Annotated[
        ParticipantKind,
        Meta(description="`agent`: the agent of `agent_id` joins; `user`: the caller joins."),
    ]
    agent_id: Annotated[AgentIdText | None, Meta(description="The agent that joins.")] = None
    role: Annotated[
        Role | None,
        Meta(description="`member`. The only hosts are the session's owner and its own agent."),
    ] = None


class SessionParticipant(Struct, frozen=True, omit_defaults=True):
    """An agent or a user that takes part in a session."""

    id: Annotated[ParticipantId, Meta(description="The participant's id.")]
    session_id: Annotated[SessionId, Meta(description="The session.")]
    kind: Annotated[ParticipantKind, _KIND]
    principal_id: Annotated[PrincipalId, Meta(description="The agent or user, as a principal.")]
    role: Annotated[
        Role,
        Meta(
            description="`host` for the session's owner and its own agent, which cannot leave.",
            examples=["member"],
        ),
    ]
    joined_at: Annotated[Timestamp, Meta(description="When it joined.")]
    agent_id: Annotated[AgentId | None, Meta(description="The agent, if it is one.")] = None
    agent_version_id: Annotated[
        AgentVersionId | None,
        Meta(description="The version of the agent that runs. Without one, it is its current configuration."),
    ] = None
    name: Annotated[
        str | None,
        Meta(description="The agent's name: `@name` at the beginning of a message addresses it."),
    ] = None
    left_at: Annotated[Timestamp | None, Meta(description="When it left.")] = None


def host_id(session_id: SessionId, kind: ParticipantKind) -> ParticipantId:
    """The id of a session's host of this kind, which has no row: always the same."""
    identity = blake2b(f"{session_id}/host/{kind}".encode(), digest_size=16).hexdigest()
    return ParticipantId(f"participant_{identity}")


_MENTION = re.compile(r"@([a-z0-9-]{1,64})(?![\w-])", re.IGNORECASE)


def mentioned(text: str) -> str | None:
    """The name that a message begins with, as in `@billing, what is the total?`, in lower case."""
    match = _MENTION.match(text.lstrip())
    return None if match is None else match[1].lower()
