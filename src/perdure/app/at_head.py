"""Transactions that append at the head of a session's log."""

from __future__ import annotations

from perdure.app.context import Services
from perdure.app.idempotency import Once, write_once
from perdure.domain.errors import StaleHead
from perdure.store.database import Body, T


async def write_at_head(app: Services, work: Body[T], once: Once | None = None, attempts: int = 20) -> T:
    """Run a transaction that appends at the head of a log, and retry it while it fails with StaleHead."""
    for attempt in range(attempts):
        try:
            return await write_once(app, once, work)
        except StaleHead:
            if attempt == attempts - 1:
                raise
    raise AssertionError("unreachable")
