"""What parked calls ask people for: list it, answer it, and resume the calls."""

from __future__ import annotations

from msgspec.structs import replace

from perdure.app.at_head import tell_followers, write_at_head
from perdure.app.context import App
from perdure.app.running_turns import see_to_runner
from perdure.app.storage import without_secrets
from perdure.domain.accounts import Caller
from perdure.domain.calls import CallState, Parked
from perdure.domain.errors import Conflict, Gone, InvalidInput, NotFound
from perdure.domain.events import NewEvent, SessionActivatedData, ToolCompletedData, ToolResumedData
from perdure.domain.ids import InputRequestId, SessionId
from perdure.domain.input_requests import AnswerInput, InputRequest, StoredInput, check_content
from perdure.domain.messages import JsonObject
from perdure.domain.parked import ASKED, CONSENT
from perdure.domain.spans import tool_context, turn_context
from perdure.domain.steps import Started
from perdure.domain.times import to_rfc3339
from perdure.domain.turn import Calling, TurnState, parked_calls
from perdure.store.database import Tx
from perdure.store.input_requests import (
    InputRequestRow,
    find_input_request,
    open_input,
    open_requests,
    requests_of_call,
    seal_input,
    signed_in_since,
    update_input_request,
)
from perdure.store.parked_turns import read_turn
from perdure.store.sessions import SessionRow, append, get_session

DECLINED = "The user declined, so this call was not completed."
NOT_SIGNED_IN = "The user declined to sign in, so this call was not made."


async def list_input_requests(app: App, caller: Caller, session_id: SessionId) -> list[InputRequest]:
    """List what the session's parked calls ask for, oldest first. Raises NotFound."""

    async def work(tx: Tx) -> list[InputRequest]:
        return await input_requests_of(app, tx, await get_session(tx, caller.organization_id, session_id))

    return await app.database.read(work)


async def input_requests_of(app: App, tx: Tx, session: SessionRow) -> list[InputRequest]:
    """Read what a session's parked calls ask for, oldest first."""
    if not any(call.kind in CONSENT for call in session.parked_calls()):
        return []
    rows = [row for row in await open_requests(tx, session.id, app.now()) if is_waited_for(session, row)]
    return [_to_request(app, row, await open_input(app.vault, tx, row)) for row in rows]


def is_waited_for(session: SessionRow, row: InputRequestRow) -> bool:
    """Whether the session has a call that is parked for this request."""
    return any(
        call.tool_call_id == row.tool_call_id and call.kind == row.kind for call in session.parked_calls()
    )


def _to_request(app: App, row: InputRequestRow, stored: StoredInput) -> InputRequest:
    asked = stored.asked(row.id, app.public.url)
    return InputRequest(
        row.id,
        row.session_id,
        row.tool_call_id,
        row.tool_name,
        asked.mode,
        asked.server,
        to_rfc3339(row.created_at),
        to_rfc3339(row.deadline),
        asked.message,
        asked.schema,
        asked.url,
    )


async def answer_input(
    app: App, caller: Caller, session_id: SessionId, request_id: InputRequestId, body: AnswerInput
) -> None:
    """Answer what a call asks for. With the last answer, the call is made again.

    Raises:
        NotFound: the session has no such request.
        Conflict: it asks for a sign-in, which happens at its URL.
        InvalidInput: the content does not fit the form.
        Gone: it was answered, or nothing waits for it any more.
    """

    async def work(tx: Tx) -> None:
        session = await get_session(tx, caller.organization_id, session_id, lock=True)
        row = await find_input_request(tx, caller.organization_id, request_id)
        if row is None or row.session_id != session.id:
            raise NotFound("input request")
        stored = await open_input(app.vault, tx, row)
        answer = _answer(stored, body)
        state = await read_turn(tx, session, app.turns)
        call = _waiting_call(state, row)
        if (
            row.status != "open"
            or row.deadline <= app.now()
            or call is None
            or not isinstance(state, Calling)
        ):
            raise Gone("nothing waits for this answer: it was given, or the call has ended")
        sealed = await seal_input(app.vault, tx, row.org_id, row.id, replace(stored, answer=answer))
        await update_input_request(tx, row, "answered", sealed)
        if body.action != "accept" and (row.kind == "sign_in" or stored.again):
            await _end(app, tx, session, state, call, NOT_SIGNED_IN if row.kind == "sign_in" else DECLINED)
        else:
            await _go_on(app, tx, session, state, call, row)

    await write_at_head(app, work)


def _answer(stored: StoredInput, body: AnswerInput) -> JsonObject:
    """The answer, as the server gets it."""
    if body.action != "accept":
        return {"action": body.action}
    if stored.mode == "sign_in":
        raise Conflict(
            "this request asks for a sign-in: open its `url`, or POST "
            "/v1/user/connections/{provider}/sign-in; or decline it",
            code="sign_in_required",
        )
    if stored.mode == "url":
        if body.content is not None:
            raise InvalidInput("`content`: a visit to a URL has none", field="content")
        return {"action": "accept"}
    return {"action": "accept", "content": check_content(stored.schema or {}, body.content)}


def _waiting_call(state: TurnState, row: InputRequestRow) -> CallState | None:
    if not isinstance(state, Calling) or state.exec_id != row.exec_id:
        return None
    return next((call for call in parked_calls(state, row.kind) if call.id == row.tool_call_id), None)


async def _go_on(
    app: App, tx: Tx, session: SessionRow, state: Calling, call: CallState, row: InputRequestRow
) -> None:
    """Make the call again, unless it waits for more answers."""
    others = await requests_of_call(tx, session.id, row.exec_id, row.tool_call_id)
    if any(each.status == "open" and each.id != row.id for each in others):
        return
    data = ToolResumedData(call.id, call.name, row.kind)
    await _append(app, tx, session, [NewEvent(data, tool_context(state, call.id), app.now())])


async def _end(app: App, tx: Tx, session: SessionRow, state: Calling, call: CallState, error: str) -> None:
    """Refuse the call. Its other questions need no answers any more."""
    now = app.now()
    data = ToolCompletedData(call.id, call.name, False, "rejected", error=error)
    events = [NewEvent(data, tool_context(state, call.id), now)]
    if len(parked_calls(state, *ASKED)) == 1:
        activated = SessionActivatedData(state.turn.id, state.turn.message_id)
        events.append(NewEvent(activated, turn_context(state.turn), now))
    for row in await requests_of_call(tx, session.id, state.exec_id, call.id):
        await update_input_request(tx, row, "ended")
    await _append(app, tx, session, events)


async def _append(app: App, tx: Tx, session: SessionRow, events: list[NewEvent]) -> None:
    """Append, and see to it that somebody continues the turn."""
    logged = await without_secrets(app, tx, session, events)
    after, stored = await append(tx, session, logged, now=app.now())
    rested = bool(session.resting) or session.status != "active"
    if after.status == "active":
        await see_to_runner(app, tx, session, is_new=rested)
    tell_followers(app, tx, after, stored)


async def resume_signed_in(app: App) -> int:
    """Resume all calls whose sign-in has happened; return how many there were.

    Each is resumed in a transaction of its own, so that no two sessions are locked at the same time. What a
    crash leaves is found again by the sweep.
    """
    now = app.now()
    found = await app.database.read(lambda tx: signed_in_since(tx, now))
    resumed = 0
    for row in found:
        resumed += await _resume(app, row)
    return resumed


async def _resume(app: App, found: InputRequestRow) -> bool:
    async def work(tx: Tx) -> bool:
        try:
            session = await get_session(tx, found.org_id, found.session_id, lock=True)
        except NotFound:
            return False
        row = await find_input_request(tx, found.org_id, found.id)
        if row is None or row.status != "open" or row.deadline <= app.now():
            return False
        state = await read_turn(tx, session, app.turns)
        call = _waiting_call(state, row)
        if call is not None and isinstance(state, Calling):
            await update_input_request(tx, row, "answered")
            await _go_on(app, tx, session, state, call, row)
            return True
        if not _may_park(state, row):
            await update_input_request(tx, row, "ended")
        return False

    return await write_at_head(app, work)


def _may_park(state: TurnState, row: InputRequestRow) -> bool:
    """Whether the call still runs, and is about to be parked."""
    if not isinstance(state, Calling) or state.exec_id != row.exec_id:
        return False
    status = next((call.status for call in state.calls if call.id == row.tool_call_id), None)
    return isinstance(status, Started | Parked)
