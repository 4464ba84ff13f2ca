"""Callbacks: answer one by its token, list a session's open ones, cancel one."""

from __future__ import annotations

from perdure.app.at_head import append_aside, tell_followers, write_at_head
from perdure.app.content_checks import check_result
from perdure.app.context import App
from perdure.app.guarded import Checked, checked_results, session_guard
from perdure.app.messages import append_message, result_event
from perdure.app.participants import speaker_of_turn
from perdure.app.running_turns import see_to_runner
from perdure.app.storage import without_secrets
from perdure.capabilities.guarding import Guard
from perdure.capabilities.layers import acting
from perdure.domain.accounts import Caller
from perdure.domain.callbacks import (
    CallbackResult,
    OpenCallback,
    hash_of_answer,
    hash_of_token,
    is_signed,
    late_metadata,
)
from perdure.domain.calls import CallState, Parked
from perdure.domain.data_flow import CALLBACK, External
from perdure.domain.effects import UNCERTAIN
from perdure.domain.errors import Gone, NotFound, TooLarge
from perdure.domain.events import EventContext, NewEvent, ToolCompletedData, ToolParkedData
from perdure.domain.ids import CallbackId, SessionId
from perdure.domain.messages import InputPart, Message, TextPart
from perdure.domain.spans import tool_context
from perdure.domain.steps import Started
from perdure.domain.times import Micros, to_rfc3339
from perdure.domain.tool_content import content_of_result
from perdure.domain.tools import MAX_RESULT, ToolCallResult
from perdure.domain.turn import Calling, TurnState
from perdure.store.callbacks import (
    CallbackRow,
    add_callback,
    callback_by_hash,
    callbacks_of_call,
    list_callbacks,
    remove_callback,
    remove_callbacks_of_call,
)
from perdure.store.database import Tx
from perdure.store.parked_turns import read_turn
from perdure.store.rows import to_json
from perdure.store.sessions import SessionRow, append, get_session

CANCELLED = f"The callback was cancelled before it brought a result. {UNCERTAIN}"


def admit_answer(app: App, token: str) -> None:
    """Check a token before anything is read for it, the request's body included.

    A guess is refused by arithmetic alone, so guesses can neither reach the database nor keep others from it.
    What is left are tokens that we have issued, and each of them has its own limit.

    Raises:
        Gone: nobody has issued this token.
        RateLimited: it is used too often.
    """
    _check_issued(app, token)
    app.callback_limit.take(hash_of_token(token))


async def answer_callback(app: App, token: str, result: CallbackResult) -> None:
    """Give a call its result, and let the turn continue; after the turn went on, send it as a message.

    The same answer again, by a sender that got no response, changes nothing and is no error for a day.

    Raises:
        TooLarge, InvalidInput: the result cannot be accepted; the token stays valid.
        Gone: the token was never valid or is not valid any more; the error does not tell which.
    """
    _check_issued(app, token)
    _check(result)
    digest, answer = hash_of_token(token), hash_of_answer(token, result)
    found = await app.database.read(lambda tx: _find(tx, digest, answer))
    if found is None:
        raise _gone()
    if found.answered_at is not None:
        return
    checked = await _checked_answer(app, found, result)

    async def work(tx: Tx) -> None:
        try:
            row = await get_session(tx, found.org_id, found.session_id, lock=True)
        except NotFound:
            raise _gone() from None
        callback, now = await _find(tx, digest, answer), app.now()
        if callback is None:
            raise _gone()
        if callback.answered_at is not None:  # the same request, which came at the same time
            return
        # Under the lock: a repeated request must not be late if the first one was in time.
        if callback.deadline <= now:
            raise _gone()
        await remove_callbacks_of_call(tx, callback)
        await add_callback(tx, callback.answered(answer, now))
        (submitted,) = checked.results
        if callback.in_background:
            late = _late_message(app, callback, submitted, now)
            speaker = await speaker_of_turn(tx, row, callback.turn_id)
            events = checked.events(EventContext(), now)
            row = await append_aside(app, tx, row, events, now) if events else row
            await append_message(
                *(app, tx, row, late, now),
                origin="callback",
                addressed=speaker,
                external=(External(CALLBACK, callback.tool_name),),
            )
            return
        state = await read_turn(tx, row, app.turns)
        call = _open_call(state, callback)
        if call is None or not isinstance(state, Calling):
            raise _gone()
        events = checked.events(tool_context(state, call.id), now)
        await _complete(app, tx, row, [*events, _event(state, call, submitted, now)], now)

    await write_at_head(app, work)


def _event(state: Calling, call: CallState, result: ToolCallResult, now: Micros) -> NewEvent:
    return result_event(state, call, result, now, External(CALLBACK, call.name))


async def _checked_answer(app: App, callback: CallbackRow, result: CallbackResult) -> Checked:
    """Check a result with the session's guardrails, outside of any transaction."""

    async def work(tx: Tx) -> Guard | None:
        try:
            row = await get_session(tx, callback.org_id, callback.session_id)
        except NotFound:
            raise _gone() from None
        if callback.in_background:
            speaker = await speaker_of_turn(tx, row, callback.turn_id)
            return await session_guard(app, tx, row if speaker is None else row.under(speaker.at()))
        return await session_guard(app, tx, acting(row, await read_turn(tx, row, app.turns)))

    guard, call_id = await app.database.read(work), callback.tool_call_id
    submitted = ToolCallResult(call_id, result.value, result.error)
    return await checked_results(guard, (submitted,), {call_id: callback.tool_name})


async def _find(tx: Tx, digest: str, answer: str) -> CallbackRow | None:
    """The callback with this token: one that is not answered, or was answered with this answer."""
    return await callback_by_hash(tx, digest) or await callback_by_hash(tx, answer)


def _check_issued(app: App, token: str) -> None:
    if not is_signed(app.callback_key, token):
        raise _gone()


def _gone() -> Gone:
    return Gone("this callback is not open: it was answered, cancelled or too late, or never existed")


def _check(result: CallbackResult) -> None:
    """Check the limits of a client's tool result."""
    if result.error is not None and len(result.error.encode()) > MAX_RESULT:
        raise TooLarge(f"`error` is larger than {MAX_RESULT} bytes: shorten it", code="tool_result_too_large")
    check_result(ToolCallResult("", result.value, result.error), "callback")


def _open_call(state: TurnState, callback: CallbackRow) -> CallState | None:
    """The call that waits for this callback, or still runs; None if nothing does."""
    if not isinstance(state, Calling) or state.exec_id != callback.exec_id:
        return None
    call = next((call for call in state.calls if call.id == callback.tool_call_id), None)
    if call is None:
        return None
    waits = isinstance(call.status, Parked) and call.status.kind == "callback"
    return call if waits or isinstance(call.status, Started) else None


async def _complete(app: App, tx: Tx, row: SessionRow, events: list[NewEvent], now: Micros) -> None:
    """End a call, and see to it that somebody continues the turn."""
    after, stored = await append(tx, row, await without_secrets(app, tx, row, events), now=now)
    if row.resting or after.status == "active":
        await see_to_runner(app, tx, row, is_new=bool(row.resting))
    tell_followers(app, tx, after, stored)


def _late_message(app: App, callback: CallbackRow, result: ToolCallResult, now: Micros) -> Message:
    """The message with a result that comes after the turn went on without it."""
    about = f"the call {callback.tool_call_id} of {callback.tool_name}, which continued in the background"
    content: tuple[InputPart, ...]
    if result.error is not None:
        content = (TextPart(f"[An error ended {about}:]\n{result.error}"),)
    else:
        heading = f"[The result of {about}:]\n"
        parts = content_of_result(result.result)
        text = result.result if isinstance(result.result, str) else to_json(result.result)
        content = (TextPart(heading + text),) if parts is None else (TextPart(heading), *parts)
    metadata = late_metadata(callback.id, callback.tool_call_id, callback.tool_name)
    return Message(app.new_id("message"), "user", content, to_rfc3339(now), metadata=metadata)


async def open_callbacks(app: App, caller: Caller, session_id: SessionId) -> list[OpenCallback]:
    """List the session's open callbacks, oldest first, without their tokens. Raises NotFound."""
    now = app.now()

    async def work(tx: Tx) -> list[OpenCallback]:
        row = await get_session(tx, caller.organization_id, session_id)
        callbacks = await list_callbacks(tx, row.id, now)
        waiting = any(not callback.in_background for callback in callbacks)
        state = await read_turn(tx, row, app.turns) if waiting else None
        return [
            _to_open_callback(callback)
            for callback in callbacks
            if callback.in_background or (state is not None and _open_call(state, callback) is not None)
        ]

    return await app.database.read(work, long=True)


def _to_open_callback(row: CallbackRow) -> OpenCallback:
    return OpenCallback(
        row.id,
        row.session_id,
        row.tool_call_id,
        row.tool_name,
        bool(row.in_background),
        to_rfc3339(row.created_at),
        to_rfc3339(row.deadline),
    )


async def cancel_callback(app: App, caller: Caller, session_id: SessionId, callback_id: CallbackId) -> None:
    """Cancel an open callback. The call fails, unless another callback can still bring its result.

    Nobody knows then whether the call took effect. A call that waits for another callback waits no longer
    than that one is open.

    Raises:
        NotFound: the session does not exist, or has no such open callback.
    """
    now = app.now()

    async def work(tx: Tx) -> None:
        row = await get_session(tx, caller.organization_id, session_id, lock=True)
        callbacks = await list_callbacks(tx, row.id, now)
        callback = next((each for each in callbacks if each.id == callback_id), None)
        if callback is None:
            raise NotFound("callback")
        await remove_callback(tx, callback)
        if callback.in_background:
            return
        state = await read_turn(tx, row, app.turns)
        call = _open_call(state, callback)
        if call is None or not isinstance(state, Calling):
            raise NotFound("callback")
        others = await callbacks_of_call(tx, row.id, callback.exec_id, callback.tool_call_id)
        if others and others[0].deadline > now:
            await _wait_until(app, tx, row, state, call, others[0].deadline, now)
            return
        # Whoever has the URL, or the tool that still runs, may have done the work.
        data = ToolCompletedData(
            call.id, call.name, False, "cancelled", error=CANCELLED, outcome_unknown=True
        )
        await _complete(app, tx, row, [NewEvent(data, tool_context(state, call.id), now)], now)

    await write_at_head(app, work)


async def _wait_until(
    app: App, tx: Tx, row: SessionRow, state: Calling, call: CallState, until: Micros, now: Micros
) -> None:
    """Have a parked call wait no longer than until then.

    One that still runs learns it when it is parked.
    """
    if not isinstance(call.status, Parked) or call.status.until <= until:
        return
    data = ToolParkedData(call.id, call.name, call.status.kind, (until - now) // 1000)
    await append_aside(app, tx, row, [NewEvent(data, tool_context(state, call.id), now)], now)
