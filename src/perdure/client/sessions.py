"""Sessions: create, change, find, fork, export."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Iterable, Mapping
from typing import Any, TypedDict, Unpack

import msgspec

from perdure.client import routes
from perdure.client.errors import BadAnswer
from perdure.client.routes import Caller, every, path_of
from perdure.domain.cancels import CancelledTurn
from perdure.domain.context_reports import SessionContextReport
from perdure.domain.feedback import MessageFeedback, Rating, SetFeedback
from perdure.domain.messages import Message
from perdure.domain.paging import Page
from perdure.domain.participants import AddSessionParticipant, SessionParticipant
from perdure.domain.session_counts import SessionFacets, SessionStats
from perdure.domain.sessions import CreateSession, ForkSession, ListOrder, Session, Status, UpdateSession

_SESSION = "/v1/sessions/{}"
_ARCHIVE = f"{_SESSION}/archive"
_PARTICIPANTS = f"{_SESSION}/participants"


class SessionFilters(TypedDict, total=False):
    """Which sessions to list, and in which order.

    Attributes:
        agent_id: only sessions of this agent.
        search: a part of the title, case-insensitive.
        tags: only sessions that have all these tags.
        status: only sessions with this status, or one of these.
        pinned: only sessions that the calling user has pinned, or has not.
        created_after: an RFC 3339 time.
        created_before: an RFC 3339 time.
        source: only sessions from this source (`chat`, `api`, `subagent`), or one of these.
        metadata: only sessions that have all these entries.
        mine: only sessions that the calling user created.
        feedback: only sessions with a message that somebody has rated so.
        parent_session_id: only sessions that this one has begun as sub-agents.
        root_session_id: only sessions below this one, which is at the top of its tree.
        include_archived: archived sessions as well.
        archived_only: archived sessions only.
        order: `last_activity` for the last changed first.
    """

    agent_id: str | None
    search: str | None
    tags: Iterable[str]
    status: Status | Iterable[Status]
    pinned: bool | None
    created_after: str | None
    created_before: str | None
    source: str | Iterable[str]
    metadata: Mapping[str, str] | None
    mine: bool | None
    feedback: Rating | None
    parent_session_id: str | None
    root_session_id: str | None
    include_archived: bool | None
    archived_only: bool | None
    order: ListOrder | None


class SessionMethods(Caller):
    """The client's methods about sessions."""

    create_session = routes.creates("/v1/sessions", CreateSession, Session, "Create a session.")
    get_session = routes.reads(_SESSION, Session, "Return a session.")
    update_session = routes.updates(
        _SESSION, UpdateSession, Session, "Change a session, at any time, even during a turn."
    )
    delete_session = routes.sends(
        "DELETE", _SESSION, "Delete a session permanently, after cancelling its running turn."
    )
    pin_session = routes.sends("PUT", f"{_SESSION}/pin", "Pin a session for the calling user.")
    unpin_session = routes.sends("DELETE", f"{_SESSION}/pin", "Unpin a session for the calling user.")
    archive_session = routes.acts(
        "PUT", _ARCHIVE, Session, "Archive a session: lists leave it out until a message brings it back."
    )
    unarchive_session = routes.acts("DELETE", _ARCHIVE, Session, "Bring a session back from the archive.")
    fork_session = routes.creates_under(
        f"{_SESSION}/fork", ForkSession, Session, "Copy a session, with its log up to `from_sequence`."
    )
    cancel = routes.acts(
        "POST",
        f"{_SESSION}/cancel",
        CancelledTurn,
        "Cancel the running turn. The result's `status` is `no_op` if no turn was running.",
    )
    get_context_report = routes.reads(
        f"{_SESSION}/context-report", SessionContextReport, "Return what fills the model's context window."
    )
    get_session_stats = routes.fetches("/v1/sessions/stats", SessionStats, "Count the sessions by status.")

    add_participant = routes.creates_under(
        _PARTICIPANTS,
        AddSessionParticipant,
        SessionParticipant,
        "Add an agent, or the calling user, to a session.",
    )

    async def list_participants(self, session_id: str) -> tuple[SessionParticipant, ...]:
        """List the agents and users of a session, its hosts first."""
        return await self.call("GET", path_of(_PARTICIPANTS, session_id), tuple[SessionParticipant, ...])

    async def remove_participant(self, session_id: str, participant_id: str) -> SessionParticipant:
        """Remove a participant from a session. The hosts cannot leave."""
        path = path_of(f"{_PARTICIPANTS}/{{}}", session_id, participant_id)
        return await self.call("DELETE", path, SessionParticipant)

    async def set_feedback(
        self, session_id: str, message_id: str, *, rating: Rating | None = None, comment: str | None = None
    ) -> MessageFeedback:
        """Replace the calling user's feedback on a message of the agent; without both, remove it."""
        path = path_of(f"{_SESSION}/messages/{{}}/feedback", session_id, message_id)
        return await self.call("PUT", path, MessageFeedback, body=SetFeedback(rating, comment))

    async def list_feedback(
        self,
        session_id: str,
        *,
        rating: Rating | None = None,
        message_id: str | None = None,
        user_id: str | None = None,
        offset: int = 0,
        limit: int = 20,
    ) -> Page[MessageFeedback]:
        """List the feedback on a session's messages, newest first.

        Args:
            session_id: the session's id.
            rating: only feedback with this rating.
            message_id: only feedback on this message.
            user_id: only feedback of this user.
            offset: how many to skip.
            limit: the page size, 1 to 100.
        """
        params = {"rating": rating, "message_id": message_id, "user_id": user_id}
        return await self.call(
            "GET",
            path_of(f"{_SESSION}/feedback", session_id),
            Page[MessageFeedback],
            params=[*params.items(), ("offset", offset), ("limit", limit)],
        )

    async def export_session(self, session_id: str) -> tuple[Message, ...]:
        """Return all messages of a session, oldest first.

        The route sends one JSON document per line; `msgspec.json.encode_lines` (`msgspec.json.Encoder`)
        writes this tuple in the same form.
        """
        lines = await self.transport.request("GET", path_of(f"{_SESSION}/export", session_id))
        try:
            return tuple(msgspec.json.Decoder(Message).decode_lines(lines))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadAnswer(f"the export of {session_id} is not valid: {error}") from error

    async def list_sessions(
        self, *, offset: int = 0, limit: int = 20, **filters: Unpack[SessionFilters]
    ) -> Page[Session]:
        """List sessions, newest first, without archived ones.

        Args:
            offset: how many sessions to skip.
            limit: the page size, 1 to 100.
            filters: see `SessionFilters`.
        """
        params = [*_filters(**filters), ("offset", offset), ("limit", limit)]
        return await self.call("GET", "/v1/sessions", Page[Session], params=params)

    def iterate_sessions(self, **filters: Any) -> AsyncGenerator[Session, None]:
        """Iterate over all sessions that match the filters of `list_sessions`, page by page.

        This does not return sessions that are created meanwhile. If one is deleted meanwhile, another may be
        skipped.
        """

        def fetch(offset: int) -> Coroutine[Any, Any, Page[Session]]:
            return self.list_sessions(**{"limit": 100, **filters, "offset": offset})

        return every(fetch, lambda session: session.id)

    async def get_session_facets(self, **filters: Any) -> SessionFacets:
        """Count the sessions that match the filters of `list_sessions`, by status, source and agent."""
        return await self.call("GET", "/v1/sessions/facets", SessionFacets, params=_filters(**filters))


def _filters(
    *,
    tags: Iterable[str] = (),
    status: Status | Iterable[Status] = (),
    source: str | Iterable[str] = (),
    metadata: Mapping[str, str] | None = None,
    **others: str | int | bool | None,
) -> list[tuple[str, str | int | bool | None]]:
    """The query parameters of a list of sessions."""
    return [
        *(("tags", tag) for tag in tags),
        *(("status", each) for each in _several(status)),
        *(("source", each) for each in _several(source)),
        *((f"metadata[{name}]", text) for name, text in (metadata or {}).items()),
        *others.items(),
    ]


def _several(values: str | Iterable[str]) -> tuple[str, ...]:
    return (values,) if isinstance(values, str) else tuple(values)
