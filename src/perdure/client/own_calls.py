"""Answers the requests of sessions for tools that this program runs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping

from perdure.client.errors import ApiError, Unreachable
from perdure.client.events import EventMethods, data_of
from perdure.client.follow import PATIENCE
from perdure.client.own_tools import Runnable, result_of
from perdure.client.routes import path_of
from perdure.client.transport import FIRST_WAIT, MOST_WAIT, is_busy
from perdure.domain.backoff import backoff
from perdure.domain.events import ENDED_TURN, ToolCall, WireEvent
from perdure.domain.tools import APPROVE, SubmittedToolResults, SubmitToolResults, ToolCallResult

_ANSWERED = frozenset({"not_waiting_for_tool_results", "unknown_tool_call"})
"""The codes of a server that does not wait for a result any more: it has it, or went on without it."""

_INDEX = re.compile(r"tool_results\[(\d+)\]")


class _Request:
    """A `tool.call_requested` event: its open calls, and the results as they come."""

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.lock = asyncio.Lock()
        self.calls: tuple[ToolCall, ...] | None = None
        self.results: dict[str, asyncio.Task[ToolCallResult]] = {}
        self.submission: asyncio.Task[None] | None = None


class OwnCalls:
    """The calls that run in this program, of all sessions.

    A call runs once, however many followers see its request. It runs to its end even if nobody follows the
    session any more, unless the server withdraws it or `close` is called.
    """

    def __init__(self, client: EventMethods) -> None:
        self._client = client
        self._requests: dict[tuple[str, str], _Request] = {}
        self._answers: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Cancel all calls."""
        calls = [task for key in tuple(self._requests) for task in self._cancel(key)]
        answers = tuple(self._answers)
        for answer in answers:
            answer.cancel()
        await asyncio.gather(*calls, *answers, return_exceptions=True)

    async def answering(
        self, session_id: str, events: AsyncGenerator[WireEvent, None], tools: Mapping[str, Runnable]
    ) -> AsyncGenerator[WireEvent, None]:
        """Yield the events, and answer the session's requests for these tools meanwhile.

        Raises:
            ApiError, Unreachable: the results could not be submitted.
        """
        answers: set[asyncio.Task[None]] = set()
        following = asyncio.create_task(_next(events))
        try:
            while True:
                await asyncio.wait({following, *answers}, return_when=asyncio.FIRST_COMPLETED)
                for done in [task for task in answers if task.done()]:
                    answers.discard(done)
                    done.result()
                if not following.done():
                    continue
                event = following.result()
                if event is None:
                    return
                if event.type == "tool.call_requested":
                    answer = asyncio.create_task(self._answer(session_id, event, tools))
                    answers.add(answer)
                    self._answers.add(answer)
                    answer.add_done_callback(self._answers.discard)
                self._note(session_id, event)
                yield event
                following = asyncio.create_task(_next(events))
        finally:
            following.cancel()
            for answer in answers:
                answer.add_done_callback(_failed)  # nobody is left to hear of its failure
            await asyncio.gather(following, return_exceptions=True)

    async def open_calls(self, session_id: str, request: WireEvent) -> tuple[ToolCall, ...]:
        """Return the calls of a `tool.call_requested` event that still wait for their results."""
        later = await self._client.list_events(
            session_id,
            types=("tool.completed", *sorted(ENDED_TURN)),
            after_sequence=request.sequence,
            limit=500,
        )
        if any(event.type in ENDED_TURN for event in later):
            return ()
        done = {data_of(event).tool_call_id for event in later}
        return tuple(call for call in data_of(request).tool_calls if call.id not in done)

    async def submit(self, session_id: str, given: tuple[ToolCallResult, ...]) -> SubmittedToolResults:
        """Submit results, together with those of the calls of the same request that run here."""
        ids = {result.tool_call_id for result in given}
        own: list[asyncio.Task[ToolCallResult]] = []
        for (owner, _), request in tuple(self._requests.items()):
            if owner == session_id:
                async with request.lock:  # its calls have been started
                    if ids & {call.id for call in request.calls or ()}:
                        own += [task for each, task in request.results.items() if each not in ids]
        return await self._post(session_id, (*given, *await asyncio.gather(*map(asyncio.shield, own))))

    async def _post(self, session_id: str, results: tuple[ToolCallResult, ...]) -> SubmittedToolResults:
        path = path_of("/v1/sessions/{}/tool-results", session_id)
        return await self._client.call("POST", path, SubmittedToolResults, body=SubmitToolResults(results))

    async def _answer(self, session_id: str, event: WireEvent, tools: Mapping[str, Runnable]) -> None:
        """Run the calls of these tools, and submit the results if all calls have one."""
        asked = {call.name for call in data_of(event).tool_calls}
        if not asked & tools.keys():
            return
        key = (session_id, event.id)
        request = self._requests.setdefault(key, _Request(event.sequence or 0))
        async with request.lock:
            if request.calls is None:
                calls = await self.open_calls(session_id, event)
                request.calls = tuple(call for call in calls if call.name != APPROVE)
            for call in request.calls:
                if call.name in tools and call.id not in request.results:
                    running = asyncio.create_task(result_of(tools[call.name], session_id, call))
                    request.results[call.id] = running
            if not request.calls or any(call.id not in request.results for call in request.calls):
                return  # others have results to add
            if request.submission is None or _failed(request.submission):
                request.submission = asyncio.create_task(self._submit_all(key, request))
                # Its error is raised below, unless nobody follows any more.
                request.submission.add_done_callback(_failed)
        await asyncio.shield(request.submission)

    async def _submit_all(self, key: tuple[str, str], request: _Request) -> None:
        """Submit the results of a request once all calls have ended. An interrupted attempt is repeated."""
        tasks = request.results.values()
        await asyncio.wait(tasks)
        if any(task.cancelled() for task in tasks):
            return  # withdrawn: the server has ended the calls
        results = [task.result() for task in tasks]
        clock = asyncio.get_running_loop().time
        deadline = clock() + PATIENCE
        attempt = 0
        while True:
            try:
                await self._post(key[0], tuple(results))
                break
            except (Unreachable, ApiError) as error:
                if isinstance(error, ApiError) and error.code in _ANSWERED:
                    break  # an earlier attempt arrived, or the server went on without the results
                if isinstance(error, ApiError) and _replaced(results, error):
                    continue
                if (isinstance(error, ApiError) and not is_busy(error)) or clock() > deadline:
                    raise
            attempt += 1
            await asyncio.sleep(backoff(attempt, first=FIRST_WAIT, most=MOST_WAIT))
        # Whoever sees the request from now on finds its calls answered in the log.
        self._requests.pop(key, None)

    def _note(self, session_id: str, event: WireEvent) -> None:
        """Cancel the calls that the server has ended."""
        if event.type not in ENDED_TURN and event.type != "tool.completed":
            return
        for key, request in tuple(self._requests.items()):
            if key[0] != session_id or request.sequence > (event.sequence or 0):
                continue
            if event.type in ENDED_TURN:
                self._cancel(key)
            elif (running := request.results.get(data_of(event).tool_call_id)) is not None:
                running.cancel()

    def _cancel(self, key: tuple[str, str]) -> list[asyncio.Task[ToolCallResult]]:
        tasks = list(self._requests.pop(key).results.values())
        for task in tasks:
            task.cancel()
        return tasks


async def _next(events: AsyncGenerator[WireEvent, None]) -> WireEvent | None:
    return await anext(events, None)


def _failed(task: asyncio.Task[None]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


def _replaced(results: list[ToolCallResult], refusal: ApiError) -> bool:
    """Replace the results that the server refuses by errors; return whether there are any.

    If it refuses the request without naming one of them, it may be about any.
    """
    if refusal.status not in {400, 413, 422} or refusal.code == "missing_tool_call":
        return False
    found = _INDEX.search(f"{refusal.problem.get('field', '')} {refusal.message}")
    refused = [int(found[1])] if found else range(len(results))
    text = f"The tool has a result, but the server refused it: {refusal.message}"
    indexes = [each for each in refused if each < len(results) and results[each].error is None]
    for index in indexes:
        results[index] = ToolCallResult(results[index].tool_call_id, error=text)
    return bool(indexes)
