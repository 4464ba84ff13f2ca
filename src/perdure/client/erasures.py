"""Erasures of sessions and users, and legal holds."""

from __future__ import annotations

import asyncio

from perdure.client import routes
from perdure.client.routes import Caller
from perdure.domain.erasures import CreateErasure, Erasure
from perdure.domain.paging import Page
from perdure.domain.sessions import Session

_ERASURES = "/v1/erasures"
_HOLD = "/v1/sessions/{}/hold"
LOOK_EVERY = 0.5
"""Seconds between two looks at an erasure."""


class ErasureMethods(Caller):
    """The client's methods about erasures."""

    create_erasure = routes.posts(
        _ERASURES, CreateErasure, Erasure, "Begin to erase a session or a user, and return the erasure."
    )
    get_erasure = routes.reads(
        f"{_ERASURES}/{{}}", Erasure, "Return an erasure: what was erased so far, and what remains."
    )
    hold_session = routes.acts(
        "PUT", _HOLD, Session, "Put a session under legal hold: nobody can delete or erase it."
    )
    release_session = routes.acts("DELETE", _HOLD, Session, "Release a session from legal hold.")

    async def list_erasures(self, *, offset: int = 0, limit: int = 20) -> Page[Erasure]:
        """List erasures, newest first: for admins all of the organization, else one's own."""
        params = [("offset", str(offset)), ("limit", str(limit))]
        return await self.call("GET", _ERASURES, Page[Erasure], params=params)

    async def wait_for_erasure(self, erasure_id: str) -> Erasure:
        """Wait until an erasure is finished; return the receipt."""
        erasure = await self.get_erasure(erasure_id)
        while erasure.status != "finished":
            await asyncio.sleep(LOOK_EVERY)
            erasure = await self.get_erasure(erasure_id)
        return erasure
