"""Lists and counts of sessions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec

from perdure.app.context import App
from perdure.app.searches import search
from perdure.app.sessions import described
from perdure.capabilities.features import SessionFeatures, layers_of
from perdure.domain.accounts import Caller
from perdure.domain.ids import AgentId
from perdure.domain.paging import Page, page_of
from perdure.domain.session_counts import AgentFacet, SessionFacets, SessionStats
from perdure.domain.sessions import ListOrder, Session
from perdure.store.confidential import others_have_some
from perdure.store.database import Tx
from perdure.store.pins import pinned_among
from perdure.store.schedules import active_counts
from perdure.store.session_lists import LONG, SessionFilter, count_by, count_by_status, list_sessions
from perdure.store.sessions import SessionRow

FEW = 10
"""Agents and harnesses of a page up to which it is read on the event loop."""
FAR = 1000
"""The largest offset for a read on the event loop: skipping so many sessions takes 0.05 ms."""


async def page_of_sessions(
    app: App,
    caller: Caller,
    filters: SessionFilter,
    offset: int,
    limit: int,
    order: ListOrder = "created_at",
) -> Page[Session]:
    """List a page of sessions, without their initial files and hints."""
    read = partial(_read_page, app, caller, filters, offset, limit, order)
    page = None
    if order == "created_at" and not filters.slow():
        # The newest sessions are read at once; a filter or a large offset may have to search many rows.
        page = await app.database.read(read, long=filters != SessionFilter() or offset > FAR)
    if page is None:
        page = await search(app, caller, partial(read, long=True))
    if page is None:
        raise AssertionError("a page that is read with `long` is there")
    return page


async def _read_page(
    app: App,
    caller: Caller,
    filters: SessionFilter,
    offset: int,
    limit: int,
    order: ListOrder,
    tx: Tx,
    *,
    long: bool = False,
) -> Page[Session] | None:
    """Read a page. Without `long`, return None if that would take long on the event loop."""
    if await others_have_some(tx, caller.organization_id, caller.user_id):
        if not long:
            return None
        filters = msgspec.structs.replace(filters, reader_id=caller.user_id)
    rows, total = await list_sessions(tx, caller.organization_id, filters, offset, limit, order, long=long)
    if not long and _is_heavy(rows):
        return None
    pinned = await pinned_among(tx, caller.user_id, [row.id for row in rows])
    features = SessionFeatures(app.registry, app.features)
    await features.read(tx, rows)
    counts = await active_counts(tx, [row.id for row in rows])
    sessions = [
        described(row, features, pinned=row.id in pinned, schedules=counts.get(row.id, 0), listed=True)
        for row in rows
    ]
    return page_of(sessions, total, offset, limit)


def _is_heavy(rows: Sequence[SessionRow]) -> bool:
    """Whether these sessions have long configurations, or very many agents, whose capabilities are read."""
    return LONG in [row.config for row in rows] or (len(set(map(layers_of, rows))) > FEW)


async def session_stats(app: App, caller: Caller) -> SessionStats:
    """Count the sessions in each status."""
    counts = await app.database.read(lambda tx: count_by_status(tx, caller.organization_id), long=True)
    return SessionStats(
        total=sum(counts.values()) - counts.get("archived", 0),
        started=counts.get("started", 0),
        active=counts.get("active", 0),
        idle=counts.get("idle", 0),
        waiting_for_tool_results=counts.get("waiting_for_tool_results", 0),
        paused=counts.get("paused", 0),
        archived=counts.get("archived", 0),
    )


async def session_facets(app: App, caller: Caller, filters: SessionFilter) -> SessionFacets:
    """Count the sessions that match the filters, by what a list can be narrowed down to."""
    org_id = caller.organization_id
    archived = msgspec.structs.replace(filters, archived="only")
    mine = msgspec.structs.replace(filters, owner_id=caller.user_id)

    async def work(tx: Tx) -> SessionFacets:
        statuses = await count_by(tx, org_id, filters, "status")
        agents = await count_by(tx, org_id, filters, "agent_id")
        return SessionFacets(
            total=sum(statuses.values()),
            statuses=statuses,
            sources=await count_by(tx, org_id, filters, "source"),
            agents=tuple(AgentFacet(AgentId(each), count) for each, count in agents.items()),
            mine=sum((await count_by(tx, org_id, mine, "status")).values()),
            archived=sum((await count_by(tx, org_id, archived, "status")).values()),
        )

    return await search(app, caller, work)
