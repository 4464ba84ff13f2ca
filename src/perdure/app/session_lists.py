"""Lists and counts of sessions."""

from __future__ import annotations

from perdure.app.context import App
from perdure.app.sessions import to_session
from perdure.capabilities.resolve import SessionFeatures
from perdure.domain.accounts import Caller
from perdure.domain.paging import Page
from perdure.domain.sessions import Session, SessionStats
from perdure.store.database import Tx
from perdure.store.schedules import active_counts
from perdure.store.session_lists import SessionFilter, count_by_status, list_sessions
from perdure.store.sessions import pinned_among

FAR = 1000
"""The largest offset for a read on the event loop: skipping so many sessions takes 0.05 ms."""


async def page_of_sessions(
    app: App, caller: Caller, filters: SessionFilter, offset: int, limit: int
) -> Page[Session]:
    """List a page of sessions, newest first."""

    async def work(tx: Tx) -> Page[Session]:
        rows, total = await list_sessions(tx, caller.organization_id, filters, offset, limit)
        pinned = await pinned_among(tx, caller.user_id, [row.id for row in rows])
        features = SessionFeatures(app.registry)
        counts = await active_counts(tx, [row.id for row in rows])
        sessions = [
            to_session(
                row,
                features=await features.of(tx, row),
                pinned=row.id in pinned,
                schedules=counts.get(row.id, 0),
            )
            for row in rows
        ]
        return Page(tuple(sessions), total, offset, limit)

    # The newest sessions are read at once; a filter or a large offset may have to search many rows.
    return await app.database.read(work, long=filters != SessionFilter() or offset > FAR)


async def session_stats(app: App, caller: Caller) -> SessionStats:
    """Count the sessions in each status."""
    counts = await app.database.read(lambda tx: count_by_status(tx, caller.organization_id), long=True)
    return SessionStats(
        total=sum(counts.values()),
        started=counts.get("started", 0),
        active=counts.get("active", 0),
        idle=counts.get("idle", 0),
        waiting_for_tool_results=counts.get("waiting_for_tool_results", 0),
        paused=counts.get("paused", 0),
    )
