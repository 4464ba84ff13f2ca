"""Answer the questions of agents: what a person says ends the call that asks, in one transaction.

A secret goes into the session's secrets in the same transaction. Its value is in no event and no error.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct, ValidationError, convert
from msgspec.structs import replace

from perdure.app.approvals import is_overdue
from perdure.app.at_head import tell_followers, write_at_head
from perdure.app.content_checks import check_result
from perdure.app.context import App
from perdure.app.guarded import Checked, checked_results, session_guard
from perdure.app.messages import result_event, submit_tool_results
from perdure.app.running_turns import see_to_runner
from perdure.app.storage import redactor_of
from perdure.capabilities.guarding import Guard
from perdure.capabilities.layers import acting
from perdure.domain.accounts import Caller
from perdure.domain.calls import CallState, Parked
from perdure.domain.decisions import AnsweredBy
from perdure.domain.errors import Gone, InvalidInput
from perdure.domain.events import NewEvent, ToolCompletedData
from perdure.domain.ids import SessionId, ToolCallId
from perdure.domain.inbox import Decider
from perdure.domain.messages import JsonObject, TextPart
from perdure.domain.questions import (
    ASK_USER,
    Answers,
    AskedQuestion,
    QuestionAnswers,
    given_answers,
    with_texts,
)
from perdure.domain.redaction import Redactor, redact_events
from perdure.domain.session_answers import OpenQuestions
from perdure.domain.spans import tool_context
from perdure.domain.storage import check_room
from perdure.domain.times import Micros, to_rfc3339
from perdure.domain.tools import SubmittedToolResults, SubmitToolResults, ToolCallResult
from perdure.domain.turn import Calling, TurnState, parked_calls
from perdure.store.database import Tx
from perdure.store.parked_turns import read_turn
from perdure.store.questions import questions_at
from perdure.store.sessions import SessionRow, append, get_session
from perdure.store.storage import secret_sizes, set_secret


class Wanted(Struct, frozen=True):
    """What a request answers.

    Attributes:
        answers: None with an `error` instead, as a client reports it.
        field: the name of the answers in the request.
    """

    call_id: str
    answers: Answers | None
    field: str
    error: str | None = None


class Answered(Struct, frozen=True):
    """Checked answers to the questions of a call.

    Attributes:
        asked_at: the sequence of the event that asks.
        secrets: what the session stores, by name.
        checked: what the model reads, as the session's guardrails let it.
        questions: what was asked; empty if guardrails have changed what the model reads.
    """

    call_id: ToolCallId
    asked_at: int
    secrets: dict[str, str]
    checked: Checked
    questions: tuple[AskedQuestion, ...] = ()


async def questions_of(tx: Tx, row: SessionRow) -> tuple[OpenQuestions, ...]:
    """Read the questions that a session waits for."""
    found = []
    for call in row.parked_calls():
        if call.kind == "question":
            asked = await questions_at(tx, row.id, call.asked_at)
            found.append(OpenQuestions(row.id, call.tool_call_id, asked, to_rfc3339(call.until)))
    return tuple(found)


async def answer_call(
    app: App, decider: Decider, session_id: SessionId, call_id: str, answers: Answers
) -> SubmittedToolResults:
    """Answer the questions of a call. Raises as `submit_results`."""
    given: JsonObject = {"answers": {**answers}}
    return await submit_results(
        app, decider, session_id, SubmitToolResults((ToolCallResult(call_id, given),))
    )


def waiting_question(state: TurnState, call_id: str, now: Micros) -> tuple[CallState, int] | None:
    """Return the call that waits for answers, and the sequence of the event that asks; None for none."""
    for call in parked_calls(state, "question"):
        if call.id == call_id and isinstance(call.status, Parked):
            return None if is_overdue(call, now) else (call, call.status.asked_at)
    return None


async def check_answers(
    app: App, caller: Caller, session_id: SessionId, wanted: Sequence[Wanted]
) -> list[Answered]:
    """Check answers, outside of the transaction that stores them: guardrails may ask others.

    Raises:
        InvalidInput: they do not fit the questions; the message says why, without what was entered.
        Gone: nothing waits for them.
    """

    async def work(tx: Tx) -> tuple[Guard | None, list[tuple[int, tuple[AskedQuestion, ...]]]]:
        row = await get_session(tx, caller.organization_id, session_id)
        state, found = await read_turn(tx, row, app.turns), []
        for each in wanted:
            waits = waiting_question(state, each.call_id, app.now())
            if waits is None:
                raise over()
            found.append((waits[1], await questions_at(tx, session_id, waits[1])))
        return await session_guard(app, tx, acting(row, state)), found

    guard, found = await app.database.read(work)
    return [
        await _checked(guard, each, asked_at, questions)
        for each, (asked_at, questions) in zip(wanted, found, strict=True)
    ]


async def _checked(
    guard: Guard | None, wanted: Wanted, asked_at: int, questions: tuple[AskedQuestion, ...]
) -> Answered:
    call_id, secrets = ToolCallId(wanted.call_id), dict[str, str]()
    result = ToolCallResult(call_id, error=wanted.error)
    if wanted.answers is not None:
        given = given_answers(questions, wanted.answers, wanted.field)
        # A person may have entered the secret twice: guardrails must not see it either.
        secrets = given.secrets
        result = ToolCallResult(call_id, with_texts(given.result, questions, Redactor(secrets).text))
    checked = await checked_results(guard, (result,), {call_id: ASK_USER})
    kept = wanted.answers is not None and checked.results == (result,)
    return Answered(call_id, asked_at, secrets, checked, questions if kept else ())


async def end_calls(
    app: App,
    tx: Tx,
    row: SessionRow,
    state: Calling,
    answered: Sequence[Answered],
    decider: Decider,
    now: Micros,
) -> SessionRow:
    """Store answers in a locked session, and see to it that somebody continues the turn.

    Raises:
        Gone: nothing waits for them any more.
        InvalidInput: the session has no room for the secret.
    """
    events: list[NewEvent] = []
    redactor = await redactor_of(app, tx, row)
    results: list[tuple[CallState, Answered]] = []
    for each in answered:
        waits = waiting_question(state, each.call_id, now)
        if waits is None or waits[1] != each.asked_at:
            raise over()
        events += [*each.checked.events(tool_context(state, each.call_id), now)]
        check_room(await secret_sizes(tx, row.id), each.secrets)
        for name, value in each.secrets.items():
            await set_secret(tx, app.vault, row.org_id, row.id, name, value, now)
        redactor.learn(each.secrets)
        results.append((waits[0], each))
    for call, each in results:
        event, known = _event(state, call, each, redactor, decider, now)
        redactor.known |= known
        events.append(event)
    after, stored = await append(tx, row, redact_events(events, redactor), now=now)
    rested = bool(row.resting) or row.status != "active"
    if after.status == "active":
        await see_to_runner(app, tx, row, is_new=rested)
    tell_followers(app, tx, after, stored)
    return after


def _event(
    state: Calling, call: CallState, answered: Answered, redactor: Redactor, decider: Decider, now: Micros
) -> tuple[NewEvent, frozenset[str]]:
    """The event that ends a call, and the texts in it that need no further redaction."""
    result = answered.checked.results[0]
    if answered.questions:
        result = replace(result, result=with_texts(result.result, answered.questions, redactor.text))
    event = result_event(state, call, result, now)
    by = AnsweredBy(
        decider.via, decider.user_id, decider.address, decider.user_agent, decider.shown, decider.link
    )
    data = event.read(ToolCompletedData)
    clean = answered.questions and data.result
    known = frozenset(part.text for part in clean or () if isinstance(part, TextPart))
    return replace(event, data=replace(data, answered=by)), known


def over() -> Gone:
    """Return the error for answers that nothing waits for."""
    return Gone(
        "nothing waits for these answers any more: somebody answered, the time is over, or a new message or "
        "a cancel came first",
        code="questions_closed",
    )


async def submit_results(
    app: App, decider: Decider, session_id: SessionId, body: SubmitToolResults
) -> SubmittedToolResults:
    """Append a client's results: of its own calls all at once, of calls that ask questions any of them.

    Raises:
        NotFound: the session does not exist.
        Conflict: the session does not wait for results.
        InvalidInput: a result is about another call, or does not fit.
        Gone: somebody was faster with the answers, or the time is over.
    """
    caller = decider.caller
    row = await app.database.read(lambda tx: get_session(tx, caller.organization_id, session_id))
    asking = {call.tool_call_id for call in row.parked_calls() if call.kind == "question"}
    if not any(each.tool_call_id in asking for each in body.tool_results):
        return await submit_tool_results(app, caller, session_id, body)
    wanted: dict[str, Wanted] = {}
    for index, result in enumerate(body.tool_results):
        where = f"tool_results[{index}]"
        if result.tool_call_id not in asking or result.tool_call_id in wanted:
            raise InvalidInput(
                f"`{where}.tool_call_id`: no open call has this id, or it has two results",
                code="unknown_tool_call",
                field=f"{where}.tool_call_id",
            )
        check_result(result, where)
        wanted[result.tool_call_id] = _wanted(result, where)
    answered = await check_answers(app, caller, session_id, tuple(wanted.values()))

    async def work(tx: Tx) -> SessionRow:
        locked = await get_session(tx, caller.organization_id, session_id, lock=True)
        state = await read_turn(tx, locked, app.turns)
        if not isinstance(state, Calling):
            raise over()
        return await end_calls(app, tx, locked, state, answered, decider, app.now())

    after = await write_at_head(app, work)
    return SubmittedToolResults(len(answered), after.status)


def _wanted(result: ToolCallResult, where: str) -> Wanted:
    field = f"{where}.result"
    if result.error is not None:
        return Wanted(result.tool_call_id, None, field, result.error)
    try:
        answers = convert(result.result, QuestionAnswers).answers
    except ValidationError:
        # Its message is left out: it could show what was entered.
        raise InvalidInput(
            f"`{field}`: this call asks questions, so its result must be "
            '{"answers": {"<the question\'s id>": <a text or null>, ...}}',
            code="invalid_answer",
            field=field,
        ) from None
    return Wanted(result.tool_call_id, answers, f"{field}.answers")
