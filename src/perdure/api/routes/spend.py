"""Routes of the ledger: what was spent on model calls."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.api.kernel.call import Call, Chunked
from perdure.api.kernel.route import route
from perdure.api.routes.sessions import parse_time
from perdure.app import spend as use
from perdure.domain.ids import check_id, id_schema
from perdure.domain.spend import ModelCall, SpendKey, SpendReport
from perdure.domain.times import Timestamp
from perdure.store.model_calls import CallFilter

_SESSION = Annotated[str, id_schema("session")] | None


class FilterCalls(Struct, frozen=True):
    """Query parameters that say which model calls are meant. They must match all of them."""

    from_ts: Annotated[Timestamp | None, Meta(description="Only calls that ended at this time or later.")] = (
        None
    )
    to_ts: Annotated[Timestamp | None, Meta(description="Only calls that ended before this time.")] = None
    session_id: Annotated[_SESSION, Meta(description="Only calls of this session.")] = None
    root_session_id: Annotated[
        _SESSION,
        Meta(description="Only calls of the session at the top of a tree, and of all below it."),
    ] = None
    agent_id: Annotated[
        Annotated[str, id_schema("agent")] | None, Meta(description="Only calls of this agent.")
    ] = None
    user_id: Annotated[
        Annotated[str, id_schema("user")] | None, Meta(description="Only calls of this user's sessions.")
    ] = None
    model: Annotated[
        Annotated[str, Meta(max_length=200)] | None, Meta(description="Only calls of this model.")
    ] = None

    def filters(self) -> CallFilter:
        """The conditions. Raises InvalidInput."""
        return CallFilter(
            parse_time(self.from_ts, "from_ts"),
            parse_time(self.to_ts, "to_ts"),
            None if self.session_id is None else check_id(self.session_id, "session", "session_id"),
            None
            if self.root_session_id is None
            else check_id(self.root_session_id, "session", "root_session_id"),
            None if self.agent_id is None else check_id(self.agent_id, "agent", "agent_id"),
            None if self.user_id is None else check_id(self.user_id, "user", "user_id"),
            self.model,
        )


class ReadSpend(FilterCalls, frozen=True):
    """Query parameters of a report."""

    by: Annotated[SpendKey, Meta(description="What the calls of a group share.")] = "model"
    limit: Annotated[int, Meta(description="The maximum number of groups.", ge=1, le=1000)] = 100


class ListCalls(FilterCalls, frozen=True):
    """Query parameters of the list of model calls."""

    before: Annotated[
        Annotated[str, Meta(max_length=64)] | None,
        Meta(description="Only calls before the one with this id: the last of the page before."),
    ] = None
    limit: Annotated[int, Meta(description="The maximum number of calls.", ge=1, le=1000)] = 100


@route("GET", "/v1/spend", "spend", errors=(404,))
async def get_spend(call: Call, query: ReadSpend) -> SpendReport:
    """Sum up what was spent on model calls.

    By default of the last 30 days, by model. Members see their own sessions, admins those of everybody. What
    was spent in deleted sessions is included.
    """
    return await use.spend_report(call.app, call.caller, query.filters(), query.by, query.limit)


@route("GET", "/v1/spend/calls", "spend", errors=(404,))
async def list_model_calls(call: Call, query: ListCalls) -> tuple[ModelCall, ...]:
    """List the ledger: one row for each model call.

    Newest first. Rows are never changed, and stay when their session is deleted.
    """
    return await use.list_model_calls(call.app, call.caller, query.filters(), query.before, query.limit)


@route(
    "GET",
    "/v1/spend/export",
    "spend",
    errors=(404,),
    content="text/csv",
    example=",".join(use.CSV_COLUMNS),
)
async def export_model_calls(call: Call, query: FilterCalls) -> Chunked[bytes]:
    """Export the ledger as CSV.

    One line for each model call, newest first, after a line with the names of the columns.
    """
    return Chunked(use.export_calls(call.app, call.caller, query.filters()), content_type=b"text/csv")


ROUTES = (get_spend, list_model_calls, export_model_calls)
