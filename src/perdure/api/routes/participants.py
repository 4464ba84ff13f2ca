"""Routes of a session's participants."""

from __future__ import annotations

from perdure.api.kernel.call import Call
from perdure.api.kernel.route import route
from perdure.app import participants as use
from perdure.domain.ids import ParticipantId, SessionId
from perdure.domain.participants import AddSessionParticipant, SessionParticipant


@route("GET", "/v1/sessions/{session_id}/participants", "sessions", errors=(404,))
async def list_session_participants(call: Call, session_id: SessionId) -> tuple[SessionParticipant, ...]:
    """List a session's participants.

    The hosts come first: the session's owner and its own agent. Then come the agents and users that were
    added, in the order of joining, without those that have left.
    """
    return tuple(await use.session_participants(call.app, call.caller, session_id))


@route(
    "POST",
    "/v1/sessions/{session_id}/participants",
    "sessions",
    status=201,
    errors=(404, 409),
    body_example={"kind": "agent", "agent_id": "agent_0192f0c1b2a37b5c8d4e5f60718293a4"},
)
async def add_session_participant(
    call: Call, session_id: SessionId, body: AddSessionParticipant
) -> SessionParticipant:
    """Add an agent or yourself to a session.

    A message that begins with `@` and the agent's name, or has its `addressed_participant_id`, begins a turn
    of that agent. All others are for the session's own agent. A session can have 20 agents and 50 users
    besides its hosts.
    """
    return await use.add_participant(call.app, call.caller, session_id, body, call.once)


@route("DELETE", "/v1/sessions/{session_id}/participants/{participant_id}", "sessions", errors=(404, 409))
async def leave_session_participant(
    call: Call, session_id: SessionId, participant_id: ParticipantId
) -> SessionParticipant:
    """Remove a participant from a session.

    Its messages stay, and it can be added again. The hosts cannot leave. Idempotent.
    """
    return await use.remove_participant(call.app, call.caller, session_id, participant_id)


ROUTES = (list_session_participants, add_session_participant, leave_session_participant)
