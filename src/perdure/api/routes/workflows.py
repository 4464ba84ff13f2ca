"""Routes of turns as workflows, and of those that are stuck."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from perdure.api.kernel.call import Call
from perdure.api.kernel.route import route
from perdure.api.routes.messages import Sequence
from perdure.api.routes.sessions import Limit, Offset
from perdure.app import dead_letters, workflows
from perdure.app.workflows import Listed
from perdure.domain.cancels import CancelledTurn
from perdure.domain.workflows import DeadLetters, Retried, Workflow, WorkflowEvents, Workflows


class ListWorkflows(Struct, frozen=True):
    """Query parameters of the list of turns."""

    status: Annotated[Listed | None, Meta(description="Return only turns in this status.")] = None
    offset: Offset = 0
    limit: Limit = 50


class ListWorkflowEvents(Struct, frozen=True):
    """Query parameters of the events of a turn."""

    after_sequence: Annotated[
        Sequence | None, Meta(description="Return only events after this sequence.")
    ] = None
    limit: Annotated[int, Meta(description="The maximum number of events.", ge=1, le=1000)] = 200


class ListDeadLetters(Struct, frozen=True):
    """Query parameters of the list of dead letters."""

    offset: Offset = 0
    limit: Limit = 50


@route("GET", "/v1/durable/workflows", "operations", errors=(403,))
async def list_workflows(call: Call, query: ListWorkflows) -> Workflows:
    """List the turns of the organization that run, wait or were sealed.

    Oldest first. A sealed turn is listed until its session goes on. Turns that have ended otherwise are in
    the logs of their sessions. Requires the role `admin`.
    """
    return await workflows.all_workflows(call.app, call.caller, query.status, query.offset, query.limit)


@route("GET", "/v1/durable/workflows/{workflow_id}", "operations", errors=(403, 404))
async def get_workflow(call: Call, workflow_id: str) -> Workflow:
    """Get a turn.

    Any turn, also one that has ended, by the id of its session, a dot, and its id. Requires the role `admin`.
    """
    return await workflows.read_workflow(call.app, call.caller, workflow_id)


@route("GET", "/v1/durable/workflows/{workflow_id}/events", "operations", errors=(403, 404))
async def list_workflow_events(call: Call, workflow_id: str, query: ListWorkflowEvents) -> WorkflowEvents:
    """List the events of a turn.

    Oldest first: the part of its session's log that belongs to it. An answer ends after 4 MB with `has_more`.
    Requires the role `admin`.
    """
    return await workflows.events_of_workflow(
        call.app, call.caller, workflow_id, query.after_sequence, query.limit
    )


@route("POST", "/v1/durable/workflows/{workflow_id}/cancel", "operations", errors=(403, 404, 409))
async def cancel_workflow(call: Call, workflow_id: str) -> CancelledTurn:
    """Cancel a turn that runs or is parked.

    Also cancels the tasks of its session, as `POST /v1/sessions/{session_id}/cancel` does. 409 if the turn
    has ended or has not begun. Requires the role `admin`.
    """
    return await workflows.cancel_workflow(call.app, call.caller, workflow_id)


@route("GET", "/v1/durable/dlq", "operations", errors=(403,))
async def list_dead_letters(call: Call, query: ListDeadLetters) -> DeadLetters:
    """List the turns of the organization that were sealed or are stuck.

    A sealed turn is listed until its session goes on. Requires the role `admin`.
    """
    return await dead_letters.all_dead_letters(call.app, call.caller, query.offset, query.limit)


@route("POST", "/v1/durable/dlq/{dlq_id}/retry", "operations", errors=(403, 404, 409))
async def retry_dead_letter(call: Call, dlq_id: str) -> Retried:
    """Try a dead letter again.

    Of a sealed turn, the message with which it began is posted again: the new turn knows what the sealed one
    did. A stuck turn is tried again from the last event of its log, with as many attempts as a new one.
    Requires the role `admin`.
    """
    return await dead_letters.retry_dead_letter(call.app, call.caller, dlq_id)


ROUTES = (
    list_workflows,
    get_workflow,
    list_workflow_events,
    cancel_workflow,
    list_dead_letters,
    retry_dead_letter,
)
