"""Routes of erasures, and of legal holds, which nothing is erased against."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.api.kernel.call import Call
from perdure.api.kernel.route import route
from perdure.api.routes.sessions import Offset
from perdure.app import erasures as use
from perdure.app.holds import hold_session as hold
from perdure.domain.erasures import CreateErasure, Erasure
from perdure.domain.ids import ErasureId, SessionId
from perdure.domain.paging import Page
from perdure.domain.sessions import Session

_PageSize = Annotated[int, Meta(description="The maximum number of items to return.", ge=1, le=100)]


class ListErasures(Struct, frozen=True):
    """Query parameters of the list of erasures."""

    offset: Offset = 0
    limit: _PageSize = 20


@route(
    "POST",
    "/v1/erasures",
    "erasure",
    status=201,
    errors=(403, 404, 409),
    replayable=False,
    body_example={"session_id": "session_0192f0c1b2a37b5c8d4e5f60718293a4"},
)
async def create_erasure(call: Call, body: CreateErasure) -> Erasure:
    """Erase a session or a user.

    The session, or the user's membership with all of the user's sessions, is gone at once: their routes are
    404. The server then removes what they have left everywhere, and says so in the erasure: read it until its
    `status` is `finished`. Idempotent: asked again, it answers the same erasure. The owner of a session may
    erase it, and everybody may erase themselves; admins may erase sessions, and users with at most their
    role. 409 for sessions under legal hold, and for an organization's last owner.
    """
    return await use.create_erasure(call.app, call.caller, body)


@route("GET", "/v1/erasures", "erasure")
async def list_erasures(call: Call, query: ListErasures) -> Page[Erasure]:
    """List erasures.

    Newest first. Admins see those of the organization, others those that they asked for.
    """
    return await use.all_erasures(call.app, call.caller, query.offset, query.limit)


@route("GET", "/v1/erasures/{erasure_id}", "erasure", errors=(404,))
async def get_erasure(call: Call, erasure_id: ErasureId) -> Erasure:
    """Get an erasure.

    What was erased so far, by kind, and what remains and why. It is kept as a receipt; it names ids only.
    """
    return await use.read_erasure(call.app, call.caller, erasure_id)


@route("PUT", "/v1/sessions/{session_id}/hold", "erasure", errors=(403, 404, 409))
async def hold_session(call: Call, session_id: SessionId) -> Session:
    """Put a session under legal hold.

    Nobody can delete or erase it, or a session below it, and retention leaves them alone. It can be used as
    before. 409 for the session of a sub-agent: hold the one at the top. Requires the role `admin`.
    Idempotent: `held_at` keeps its first time.
    """
    return await hold(call.app, call.caller, session_id, held=True)


@route("DELETE", "/v1/sessions/{session_id}/hold", "erasure", errors=(403, 404, 409))
async def release_session(call: Call, session_id: SessionId) -> Session:
    """Release a session from legal hold.

    Requires the role `admin`. Idempotent.
    """
    return await hold(call.app, call.caller, session_id, held=False)


ROUTES = (create_erasure, list_erasures, get_erasure, hold_session, release_session)
