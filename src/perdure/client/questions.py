"""Answers the questions of agents by a function of the program."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

from perdure.client.errors import ApiError, Unreachable
from perdure.client.events import EventMethods, data_of
from perdure.client.follow import PATIENCE
from perdure.client.routes import path_of
from perdure.client.transport import FIRST_WAIT, MOST_WAIT, is_busy
from perdure.domain.backoff import backoff
from perdure.domain.events import ENDED_TURN, WireEvent
from perdure.domain.ids import SessionId
from perdure.domain.messages import JsonObject
from perdure.domain.parked import deadline_of
from perdure.domain.session_answers import OpenQuestions
from perdure.domain.times import from_rfc3339, to_rfc3339
from perdure.domain.tools import SubmittedToolResults, SubmitToolResults, ToolCallResult

Given = Mapping[str, str | None] | None
AnswerHandler = Callable[[OpenQuestions], Given | Awaitable[Given]]
"""Answers the questions of a call, by their ids; None leaves them to others. It may be async, and must be if
it takes long."""

_CLOSED = frozenset({"questions_closed", "not_waiting_for_tool_results", "unknown_tool_call"})
"""The codes of a server that does not wait for the answers any more."""


def questions_in(session_id: str, event: WireEvent) -> OpenQuestions | None:
    """Return the questions that an event asks; None if it asks none."""
    if event.type != "tool.parked" or data_of(event).parked_kind != "question":
        return None
    data = data_of(event)
    until = to_rfc3339(deadline_of(from_rfc3339(event.ts), data.timeout_ms))
    return OpenQuestions(SessionId(event.session_id or session_id), data.tool_call_id, data.questions, until)


async def submit_answers(
    client: EventMethods, session_id: str, tool_call_id: str, answers: Mapping[str, str | None]
) -> SubmittedToolResults:
    """Answer the questions of a call."""
    given: JsonObject = {"answers": dict(answers)}
    body = SubmitToolResults((ToolCallResult(tool_call_id, given),))
    return await client.call(
        "POST", path_of("/v1/sessions/{}/tool-results", session_id), SubmittedToolResults, body=body
    )


async def answering_questions(
    client: EventMethods,
    session_id: str,
    events: AsyncGenerator[WireEvent, None],
    handler: AnswerHandler,
) -> AsyncGenerator[WireEvent, None]:
    """Yield the events, and answer the questions among them meanwhile.

    Raises:
        ApiError: an answer does not fit its question.
        Unreachable: the answers could not be sent.
    """
    answers: dict[str, asyncio.Task[None]] = {}
    following = asyncio.create_task(_next(events))
    try:
        while True:
            await asyncio.wait({following, *answers.values()}, return_when=asyncio.FIRST_COMPLETED)
            for call_id, task in tuple(answers.items()):
                if task.done():
                    del answers[call_id]
                    task.result()
            if not following.done():
                continue
            event = following.result()
            if event is None:
                return
            if (asked := questions_in(session_id, event)) is not None:
                answers[asked.tool_call_id] = asyncio.create_task(_answer(client, event, asked, handler))
            _withdraw(answers, event)
            yield event
            following = asyncio.create_task(_next(events))
    finally:
        following.cancel()
        for task in answers.values():
            task.cancel()
        await asyncio.gather(following, *answers.values(), return_exceptions=True)


async def _next(events: AsyncGenerator[WireEvent, None]) -> WireEvent | None:
    return await anext(events, None)


def _withdraw(answers: dict[str, asyncio.Task[None]], event: WireEvent) -> None:
    """Cancel the handlers of calls that have ended."""
    if event.type == "tool.completed":
        ended = [data_of(event).tool_call_id]
    else:
        ended = list(answers) if event.type in ENDED_TURN else []
    for call_id in ended:
        if (task := answers.pop(call_id, None)) is not None:
            task.cancel()


async def _answer(
    client: EventMethods, event: WireEvent, asked: OpenQuestions, handler: AnswerHandler
) -> None:
    later = await client.list_events(
        asked.session_id,
        types=("tool.completed", *sorted(ENDED_TURN)),
        after_sequence=event.sequence or 0,
        limit=500,
    )
    if any(each.type in ENDED_TURN or data_of(each).tool_call_id == asked.tool_call_id for each in later):
        return  # an old event: the call has ended
    found = handler(asked)
    given = await found if inspect.isawaitable(found) else found
    if given is None:
        return
    clock, attempt = asyncio.get_running_loop().time, 0
    deadline = clock() + PATIENCE
    while True:
        try:
            await submit_answers(client, asked.session_id, asked.tool_call_id, given)
            return
        except (Unreachable, ApiError) as error:
            if isinstance(error, ApiError) and error.code in _CLOSED:
                return  # an earlier attempt arrived, or somebody was faster
            if (isinstance(error, ApiError) and not is_busy(error)) or clock() > deadline:
                raise
        attempt += 1
        await asyncio.sleep(backoff(attempt, first=FIRST_WAIT, most=MOST_WAIT))
