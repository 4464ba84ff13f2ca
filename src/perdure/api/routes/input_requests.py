"""Routes of what tool calls ask people for."""

from __future__ import annotations

from perdure.api.kernel.call import Call
from perdure.api.kernel.route import route
from perdure.app import input_requests as use
from perdure.domain.ids import InputRequestId, SessionId
from perdure.domain.input_requests import MAX_FORM, AnsweredInput, AnswerInput, InputRequest
from perdure.domain.paging import Listing


@route("GET", "/v1/sessions/{session_id}/input-requests", "messages", errors=(404,))
async def list_input_requests(call: Call, session_id: SessionId) -> Listing[InputRequest]:
    """List what a session's tool calls ask for.

    Oldest first: sign-ins, forms and visits to URLs that calls of MCP servers wait for.
    """
    return Listing(tuple(await use.list_input_requests(call.app, call.caller, session_id)))


@route(
    "POST",
    "/v1/sessions/{session_id}/input-requests/{input_id}",
    "messages",
    errors=(404, 409, 410),
    body_example={"action": "accept", "content": {"name": "Ada"}},
    body_limit=4 * MAX_FORM,
)
async def answer_input_request(
    call: Call, session_id: SessionId, input_id: InputRequestId, body: AnswerInput
) -> AnsweredInput:
    """Answer what a tool call asks for.

    `accept` with the form's fields in `content`, or after the URL was visited; `decline` or `cancel`
    otherwise. The call then goes on, under the same effect key. 410 if it was answered, or nothing waits for
    it any more. 409 if it asks for a sign-in, which can only be declined here.
    """
    await use.answer_input(call.app, call.caller, session_id, input_id, body)
    return AnsweredInput("accepted")


ROUTES = (list_input_requests, answer_input_request)
