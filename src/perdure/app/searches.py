"""Reads that may look at very much: in turn, and with a time limit."""

from __future__ import annotations

from perdure.app.context import Scope, Services
from perdure.store.database import Body, T

SECONDS = 10.0
"""The time limit of such a read."""


async def search(app: Services, scope: Scope, body: Body[T]) -> T:
    """Run such a read in the organization's turn.

    Raises:
        RateLimited: the organization runs too many of them.
        Unavailable: the read was stopped at its time limit.
    """
    async with app.shares.turn(scope.organization_id):
        return await app.database.read(body, seconds=SECONDS)
