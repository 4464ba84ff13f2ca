"""Routes of feedback on messages."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.api.kernel.call import Call
from perdure.api.kernel.route import route
from perdure.api.routes.sessions import Limit, Offset
from perdure.app import feedback as use
from perdure.domain.feedback import MessageFeedback, Rating, SetFeedback
from perdure.domain.ids import MessageId, SessionId, check_id, id_schema
from perdure.domain.paging import Page
from perdure.store.feedback import FeedbackFilter


class ListFeedback(Struct, frozen=True):
    """Query parameters of the list of feedback."""

    rating: Annotated[Rating | None, Meta(description="Return only feedback with this rating.")] = None
    message_id: Annotated[
        Annotated[str, id_schema("message")] | None,
        Meta(description="Return only feedback on this message."),
    ] = None
    user_id: Annotated[
        Annotated[str, id_schema("user")] | None, Meta(description="Return only feedback of this user.")
    ] = None
    offset: Offset = 0
    limit: Limit = 20


@route(
    "PUT",
    "/v1/sessions/{session_id}/messages/{message_id}/feedback",
    "messages",
    errors=(404,),
    body_example={"rating": "down", "comment": "The order number is wrong."},
)
async def set_message_feedback(
    call: Call, session_id: SessionId, message_id: MessageId, body: SetFeedback
) -> MessageFeedback:
    """Rate a message of the agent.

    Each user has one rating and one comment on a message; both are replaced. Without both, they are removed.
    The log keeps every change, as `message.feedback` events. Idempotent.
    """
    return await use.set_feedback(call.app, call.caller, session_id, message_id, body)


@route("GET", "/v1/sessions/{session_id}/feedback", "messages", errors=(404,))
async def list_message_feedback(
    call: Call, session_id: SessionId, query: ListFeedback
) -> Page[MessageFeedback]:
    """List the feedback on a session's messages.

    Newest first, of all users. Feedback must match all filters.
    """
    filters = FeedbackFilter(
        query.rating,
        None if query.message_id is None else check_id(query.message_id, "message", "message_id"),
        None if query.user_id is None else check_id(query.user_id, "user", "user_id"),
    )
    return await use.page_of_feedback(call.app, call.caller, session_id, filters, query.offset, query.limit)


ROUTES = (set_message_feedback, list_message_feedback)
