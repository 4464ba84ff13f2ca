"""Feedback: what people say about an agent's messages."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from perdure.domain.ids import MessageId, SessionId, UserId
from perdure.domain.times import CreatedAt, UpdatedAt

MAX_COMMENT = 4_000
"""Characters of a comment."""

Rating = Literal["up", "down"]
RATING = Meta(description="Whether the message was good (`up`) or bad (`down`). Absent: only a comment.")
COMMENT = Meta(description="What the user says about the message.")


class SetFeedback(Struct, frozen=True, omit_defaults=True):
    """The body of `PUT .../feedback`: it replaces the caller's feedback. Without both, it removes it."""

    rating: Annotated[
        Rating | None, Meta(description="Whether the message was good (`up`) or bad (`down`).")
    ] = None
    comment: Annotated[Annotated[str, Meta(max_length=MAX_COMMENT)] | None, COMMENT] = None


class MessageFeedback(Struct, frozen=True, omit_defaults=True):
    """What a user says about a message."""

    session_id: Annotated[SessionId, Meta(description="The session that the message belongs to.")]
    message_id: Annotated[MessageId, Meta(description="The message's id.")]
    message_sequence: Annotated[
        int,
        Meta(
            description="The sequence number of the message's event in the session's log.", examples=[7], ge=1
        ),
    ]
    user_id: Annotated[UserId, Meta(description="The user that gave the feedback.")]
    created_at: CreatedAt
    updated_at: UpdatedAt
    rating: Annotated[Rating | None, RATING, Meta(examples=["down"])] = None
    comment: Annotated[str | None, COMMENT, Meta(examples=["The order number is wrong."])] = None
