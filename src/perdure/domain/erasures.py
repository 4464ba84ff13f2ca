"""Erasures of sessions and users: requests, receipts, and what is known to remain."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from perdure.domain.errors import InvalidInput
from perdure.domain.ids import ErasureId, OrgId, UserId, check_id, id_schema
from perdure.domain.times import CreatedAt, Timestamp, UpdatedAt

ErasureKind = Literal["session", "user"]
Stage = Literal["sessions", "user", "index", "contents", "files", "finished"]
"""What is being erased: sessions, then a user's other data, the search index, contents, and the files of the
database."""

_SESSION_ID = Meta(description="The session to erase, with all sessions of its sub-agents.")
_USER_ID = Meta(description="The user to erase from the organization.")


class CreateErasure(Struct, frozen=True, omit_defaults=True):
    """The body of `POST /v1/erasures`: either a session or a user."""

    session_id: Annotated[Annotated[str, id_schema("session")] | None, _SESSION_ID] = None
    user_id: Annotated[Annotated[str, id_schema("user")] | None, _USER_ID] = None

    def subject(self) -> tuple[ErasureKind, str]:
        """Return what is to be erased. Raises InvalidInput, InvalidId."""
        if self.session_id is not None and self.user_id is None:
            return "session", check_id(self.session_id, "session", "session_id")
        if self.user_id is not None and self.session_id is None:
            return "user", check_id(self.user_id, "user", "user_id")
        raise InvalidInput("set either `session_id` or `user_id`", field="session_id")


class Erased(Struct, frozen=True):
    """How much of a kind was erased."""

    kind: Annotated[
        str,
        Meta(
            description=(
                "What it was, such as `sessions`, `events`, `files` or `secrets`. `contents` are contents of"
                " files that nothing else referred to;"
                " `pseudonymized` are rows that keep their figures, with another id in place of the user's."
            ),
            examples=["events"],
        ),
    ]
    items: Annotated[int, Meta(description="How many.", examples=[214])]
    bytes: Annotated[int, Meta(description="Their bytes; 0 where nobody counts them.", examples=[81_344])] = 0


class Remaining(Struct, frozen=True, omit_defaults=True):
    """Something that an erasure does not reach."""

    kind: Annotated[str, Meta(description="What remains.", examples=["model_calls"])]
    reason: Annotated[
        str,
        Meta(
            description="Why, and what to do about it.",
            examples=["the ledger keeps what model calls have cost; it has no content"],
        ),
    ]
    items: Annotated[int | None, Meta(description="How many, if they are counted.", examples=[12])] = None


class Erasure(Struct, frozen=True, omit_defaults=True):
    """An erasure: the receipt of what was erased, and what remains."""

    id: Annotated[ErasureId, Meta(description="The erasure's id.")]
    organization_id: Annotated[OrgId, Meta(description="The organization.")]
    kind: Annotated[ErasureKind, Meta(description="What is erased.")]
    subject_id: Annotated[
        str,
        Meta(
            description="The id of the session or user.",
            examples=["session_0192f0c1b2a37b5c8d4e5f60718293a4"],
        ),
    ]
    requested_by: Annotated[UserId, Meta(description="Who asked for it.")]
    status: Annotated[
        Literal["running", "finished"],
        Meta(description="Whether it is finished. A server that was killed goes on with it."),
    ]
    stage: Annotated[
        Stage,
        Meta(
            description=(
                "What is being erased now: `sessions`, then the other data of a `user`, the search `index`,"
                " `contents` of files, and remnants in the database's `files`."
            )
        ),
    ]
    created_at: CreatedAt
    updated_at: UpdatedAt
    erased: Annotated[tuple[Erased, ...], Meta(description="What was erased so far, by kind.")] = ()
    remains: Annotated[
        tuple[Remaining, ...], Meta(description="What the erasure does not reach; complete at the end.")
    ] = ()
    finished_at: Annotated[Timestamp | None, Meta(description="When it finished.")] = None
