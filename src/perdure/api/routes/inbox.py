"""Routes of the inbox."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.api.kernel.call import Call, Stream
from perdure.api.kernel.route import Route, route
from perdure.api.kernel.sse import EventStream
from perdure.api.routes.deciders import decider_of
from perdure.api.routes.messages import StreamSettings
from perdure.api.routes.sessions import Limit, Offset
from perdure.app import inbox as use
from perdure.app import inbox_lists
from perdure.app.edited_arguments import MAX_EDITED
from perdure.app.inbox_feed import open_inbox_follower
from perdure.app.inbox_lists import InboxFilter
from perdure.app.login import may_continue
from perdure.domain.ids import check_id, id_schema
from perdure.domain.inbox import DecideItem, InboxCount, InboxItem, InboxKind
from perdure.domain.paging import Page


class FilterInbox(Struct, frozen=True):
    """Query parameters that say which items are meant."""

    kind: Annotated[InboxKind | None, Meta(description="Return only items of this kind.")] = None
    session_id: Annotated[
        Annotated[str, id_schema("session")] | None, Meta(description="Return only items of this session.")
    ] = None
    agent: Annotated[
        Annotated[str, Meta(max_length=100)] | None,
        Meta(description="Return only items of sessions of this agent: its id or name."),
    ] = None
    tool_name: Annotated[
        Annotated[str, Meta(max_length=200)] | None, Meta(description="Return only calls of this tool.")
    ] = None
    mine: Annotated[bool, Meta(description="Whether to return only what you may decide.")] = False

    def filters(self) -> InboxFilter:
        """The conditions. Raises InvalidId."""
        session_id = None if self.session_id is None else check_id(self.session_id, "session", "session_id")
        return InboxFilter(self.kind, session_id, self.agent, self.tool_name, self.mine)


class ListInbox(FilterInbox, frozen=True):
    """Query parameters of the list of items."""

    offset: Offset = 0
    limit: Limit = 20


class FollowInbox(FilterInbox, frozen=True):
    """Query parameters of the live inbox."""

    initial: Annotated[
        bool, Meta(description="Whether what is in the inbox now comes first, as if it were added.")
    ] = False


@route("GET", "/v1/inbox", "inbox")
async def list_inbox(call: Call, query: ListInbox) -> Page[InboxItem]:
    """List what waits for people, in all sessions of the organization.

    The next deadline comes first. An item must match all filters. Long arguments are cut: `truncated` says
    so, and the item itself has all of them. The 20,000 oldest sessions with parked calls are looked at.
    A page ends after about 4 MB: its `limit` is then its number of items.
    """
    return await inbox_lists.list_inbox(call.app, call.caller, query.filters(), query.offset, query.limit)


@route("GET", "/v1/inbox/count", "inbox")
async def count_inbox(call: Call, query: FilterInbox) -> InboxCount:
    """Count what waits for people.

    Takes the filters of the list.
    """
    return await inbox_lists.count_inbox(call.app, call.caller, query.filters())


@route("GET", "/v1/inbox/{item_id}", "inbox", errors=(404,))
async def get_inbox_item(call: Call, item_id: str) -> InboxItem:
    """Get an item, with all arguments and their schema.

    Of an item that left the inbox, `outcome` says how.
    """
    return await use.read_item(call.app, call.caller, item_id)


@route(
    "POST",
    "/v1/inbox/{item_id}/decision",
    "inbox",
    errors=(403, 404, 409, 410),
    body_example={"decision": "allow", "arguments": {"to": "ada@example.com"}, "reason": "Only to Ada."},
    body_limit=2 * MAX_EDITED,
)
async def decide_inbox_item(call: Call, item_id: str, body: DecideItem) -> InboxItem:
    """Decide on an approval, or answer the agent's questions.

    Returns the item with the decision as its `outcome`. `arguments` replace the model's: they must fit the
    tool's schema, the log has both, and the model is told. The model gets the `reason`, too. 409 with the
    code `already_decided` if somebody was faster: the message says what was decided. 410 if the deadline has
    passed, or a new message or a cancel came first.

    Items of the kind `question` take `answers` instead: one for each of their `questions`, by its id. The
    value of a secret becomes a secret of the session, and is never shown again.
    """
    return await use.decide_item(call.app, decider_of(call), item_id, body)


def inbox_stream_route(settings: StreamSettings) -> Route:
    """Build the route of the live inbox."""

    @route("GET", "/v1/inbox/sse", "inbox", content="text/event-stream")
    async def stream_inbox(call: Call, query: FollowInbox) -> Stream:
        """Follow the inbox live.

        A stream of server-sent events: `inbox.listening` with the `count` of what matches, then
        `inbox.item_added` with the `item`, and `inbox.item_removed` with its `id`, `kind` and `session_id`.
        With `initial`, the items that are there come first, as added, and then `inbox.listening`. There are
        no ids to resume from: after you reconnect, begin again. The server ends connections from time to
        time with a `disconnecting` frame.
        """
        follower = await open_inbox_follower(call.app, call.caller, query.filters(), initial=query.initial)
        return Stream(
            EventStream(
                follower,
                settings.closing,
                cycle=settings.cycle,
                heartbeat=settings.heartbeat,
                allowed=lambda: may_continue(call.app, call.caller),
                metrics=call.app.metrics,
            )
        )

    return stream_inbox


ROUTES = (list_inbox, count_inbox, get_inbox_item, decide_inbox_item)
