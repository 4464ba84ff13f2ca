"""Run turns: send a message, and follow its turn to the end, or to its answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypedDict, TypeVar, Unpack, overload

import msgspec

from perdure.client import routes
from perdure.client.conversation import ConversationMethods, turn_failure
from perdure.client.errors import TurnWaits
from perdure.client.events import data_of
from perdure.client.outputs import Schema, schema_of, value_of, with_schema
from perdure.client.own_tools import OwnTool, Runnable, runnable_tools
from perdure.client.questions import AnswerHandler, answering_questions
from perdure.client.routes import path_of
from perdure.client.tasks import TaskMethods
from perdure.client.trees import Open, TreeFollower
from perdure.domain.events import ENDED_TURN, WireEvent
from perdure.domain.ids import sequence_of
from perdure.domain.messages import Controls, InputMessage, InputPart, JsonObject, JsonValue, text_of
from perdure.domain.runs import CreateRun, RunResult
from perdure.domain.sessions import InitialFile
from perdure.domain.turn_watch import TurnWatch
from perdure.domain.variables import VariableValue

T = TypeVar("T")

_DECIDE = (*sorted(ENDED_TURN), "tool.call_requested", "tool.parked", "act.completed", "turn.parked")
"""The types of event after which a turn may have ended, or may wait for somebody."""


class TurnOptions(TypedDict, total=False):
    """How a message's turn runs.

    Attributes:
        tools: client-side tools that this program runs: functions below `@tool`, or pairs of a
            `ClientSideTool` and an async function that takes the arguments. The session must have their
            definitions (`client_side_tool`). Calls run concurrently. Errors become results.
        controls: choices for this turn (`model_id`, `reasoning`).
        idempotency_key: as for `send_message`. If the message was sent before, its turn is followed from the
            beginning, and only the calls that are still open are answered.
        client_message_id: as for `send_message`, with the same effect.
        answers: answers the agent's questions: a function, async or not, that takes an `OpenQuestions` and
            returns the answers by the questions' ids, or None to leave them to others.
    """

    tools: Iterable[OwnTool]
    answers: AnswerHandler | None
    controls: Controls | None
    idempotency_key: str | None
    client_message_id: str | None


class FollowOptions(TurnOptions, total=False):
    """How the turn of `run(session_id, ...)` runs, and what is told of it.

    Attributes:
        tree: also yield the events of the sessions below this one: of the sub-agents that work for it, and of
            theirs. `session_id` of an event says whose it is. `tools` also answer the calls of sub-agents.
    """

    tree: bool


class RunFields(TypedDict, total=False):
    """The fields of `CreateRun`, apart from the message and the schema.

    Attributes:
        idempotency_key: the server starts a run with the same key once; a repetition gets its result.
    """

    agent: str | None
    harness: str | None
    files: Sequence[InitialFile]
    variables: Mapping[str, VariableValue]
    metadata: Mapping[str, str]
    title: str | None
    tags: Sequence[str]
    model_id: str | None
    idempotency_key: str | None


class TurnMethods(ConversationMethods, TaskMethods):
    """The client's methods that run turns."""

    @overload
    def run(
        self, session_id: str, content: str | Sequence[InputPart], **options: Unpack[FollowOptions]
    ) -> AsyncGenerator[WireEvent, None]: ...
    @overload
    def run(
        self,
        *,
        message: str | InputMessage,
        schema: None = None,
        answers: AnswerHandler | None = None,
        **fields: Unpack[RunFields],
    ) -> Coroutine[Any, Any, str]: ...
    @overload
    def run(
        self,
        *,
        message: str | InputMessage,
        schema: type[T],
        answers: AnswerHandler | None = None,
        **fields: Unpack[RunFields],
    ) -> Coroutine[Any, Any, T]: ...
    @overload
    def run(
        self,
        *,
        message: str | InputMessage,
        schema: JsonObject,
        answers: AnswerHandler | None = None,
        **fields: Unpack[RunFields],
    ) -> Coroutine[Any, Any, JsonValue]: ...
    def run(
        self, session_id: str | None = None, content: str | Sequence[InputPart] = "", **options: Any
    ) -> Any:
        """Run a turn: in a session, as events; or in a new session, to its answer.

        `run(session_id, "text")` sends a message and returns an iterator over the events, from the message
        itself to the event that ends its turn. When the session waits for its client, it yields
        `tool.call_requested`. Calls of `tools` are answered without your doing. Answer others with
        `submit_tool_results`, or with `submit_tool_approvals` if they ask for approval, inside the loop or
        elsewhere; then the turn continues.

        `await run(agent="helper", message="text")` starts a session with this message and returns the answer:
        its text or, with `schema`, its value. It raises as `ask` does.

        Args:
            session_id: the session's id.
            content: text, or parts.
            options: of the first form: see `FollowOptions`. Of the second: `message`, `schema` as for `ask`,
                and `RunFields`.
        """
        if session_id is not None:
            return self._turn(session_id, content, **options)
        return self._answered_run(**options)

    @overload
    async def ask(
        self,
        session_id: str,
        content: str | Sequence[InputPart],
        *,
        schema: None = None,
        **options: Unpack[TurnOptions],
    ) -> str: ...
    @overload
    async def ask(
        self,
        session_id: str,
        content: str | Sequence[InputPart],
        *,
        schema: type[T],
        **options: Unpack[TurnOptions],
    ) -> T: ...
    @overload
    async def ask(
        self,
        session_id: str,
        content: str | Sequence[InputPart],
        *,
        schema: JsonObject,
        **options: Unpack[TurnOptions],
    ) -> JsonValue: ...
    async def ask(
        self,
        session_id: str,
        content: str | Sequence[InputPart],
        *,
        schema: Schema[Any] | None = None,
        **options: Unpack[TurnOptions],
    ) -> Any:
        """Send a message and return the answer: its text or, with `schema`, its value.

        Args:
            session_id: the session's id.
            content: text, or parts.
            schema: what the answer must match: a msgspec struct, a dataclass, a TypedDict, a built-in type or
                a type of pydantic, of which this returns a value; or a JSON Schema.
            options: see `TurnOptions`.

        Raises:
            TurnFailed: the turn failed, was cancelled or was sealed; `output_invalid` if the model gave no
                answer that matches.
            TurnWaits: the turn waits for an approval, for the result of a tool that is not in `tools`, or,
                without `answers`, for answers to the agent's questions.
            TurnPaused: the turn waits for a budget.
            ValueError: the value breaks a rule of the type that JSON Schema cannot express.
        """
        own = tuple(options.get("tools", ()))
        options["tools"], options["controls"] = own, with_schema(options.get("controls"), schema)
        turn = self._turn(session_id, content, **options)
        return await self._answer_of(session_id, turn, own, schema, options.get("answers"))

    @overload
    async def resume(
        self,
        waits: TurnWaits,
        *,
        tools: Iterable[OwnTool] = (),
        schema: None = None,
        answers: AnswerHandler | None = None,
    ) -> str: ...
    @overload
    async def resume(
        self,
        waits: TurnWaits,
        *,
        tools: Iterable[OwnTool] = (),
        schema: type[T],
        answers: AnswerHandler | None = None,
    ) -> T: ...
    @overload
    async def resume(
        self,
        waits: TurnWaits,
        *,
        tools: Iterable[OwnTool] = (),
        schema: JsonObject,
        answers: AnswerHandler | None = None,
    ) -> JsonValue: ...
    async def resume(
        self,
        waits: TurnWaits,
        *,
        tools: Iterable[OwnTool] = (),
        schema: Schema[Any] | None = None,
        answers: AnswerHandler | None = None,
    ) -> Any:
        """Return the answer of a turn that waited, once you have answered what it asked.

        Args:
            waits: what it waited for.
            tools: as for `run`.
            schema: that of the `ask` or `run` that raised `waits`.
            answers: as for `ask`.

        Raises:
            TurnFailed: the turn failed, was cancelled or was sealed.
            TurnWaits: it waits again, or still.
            TurnPaused: it waits for a budget.
        """
        given = tuple(tools)
        own = runnable_tools(given)
        # From the request itself, because a call of `tools` may be open.
        since = await self._event_before(waits.session_id, waits.request.sequence or 1)
        events = until_turn_ends(self._opened(own, answers)(waits.session_id, since))
        return await self._answer_of(waits.session_id, events, given, schema, answers)

    async def create_run(
        self,
        message: str | InputMessage,
        *,
        output_schema: JsonObject | None = None,
        **fields: Unpack[RunFields],
    ) -> RunResult:
        """Start a session with its first message, and return without waiting.

        Args:
            message: text, or a message with parts.
            output_schema: a JSON Schema of the answer.
            fields: see `RunFields`.

        Raises:
            TypeError: there is no such field.
        """
        if unknown := fields.keys() - RunFields.__annotations__.keys():
            raise TypeError(f"a run has no field {min(unknown)!r}: see `RunFields`")
        once = fields.pop("idempotency_key", None) or routes.new_key()
        given = {name: value for name, value in fields.items() if value is not None}
        body = msgspec.convert({"message": message, "output_schema": output_schema, **given}, CreateRun)
        return await self.call("POST", "/v1/runs", RunResult, body=body, once=once)

    async def get_result(self, session_id: str, sequence: int | None = None) -> RunResult:
        """Return the result of a message's turn, as far as it is known now.

        Args:
            session_id: the session's id.
            sequence: the message's sequence; by default that of the session's newest message.
        """
        path = path_of("/v1/sessions/{}/result", session_id)
        return await self.call("GET", path, RunResult, params=[("sequence", sequence)])

    async def wait_for_run(self, run: RunResult) -> RunResult:
        """Wait until the turn of a run has ended or somebody must answer, and return the result.

        This follows the session's stream, and survives a restart of the server.
        """
        sequence = run.message.sequence
        since = await self._event_before(run.session_id, (sequence or 0) + 1)
        followed = self.follow(run.session_id, since, types=_DECIDE)
        async with aclosing(followed) as events:
            result = await self.get_result(run.session_id, sequence)
            while not (result.has_ended or result.status == "waiting"):
                await anext(events)
                result = await self.get_result(run.session_id, sequence)
        return result

    async def _answered_run(
        self,
        message: str | InputMessage,
        *,
        schema: Schema[Any] | None = None,
        answers: AnswerHandler | None = None,
        **fields: Unpack[RunFields],
    ) -> Any:
        wanted = None if schema is None else schema_of(schema)
        run = await self.create_run(message, output_schema=wanted, **fields)
        events = self._until_end(run.session_id, run.message.id, None, self._opened({}, answers))
        return await self._answer_of(run.session_id, events, (), schema, answers)

    async def _turn(
        self,
        session_id: str,
        content: str | Sequence[InputPart],
        *,
        tools: Iterable[OwnTool] = (),
        controls: Controls | None = None,
        idempotency_key: str | None = None,
        client_message_id: str | None = None,
        answers: AnswerHandler | None = None,
        tree: bool = False,
    ) -> AsyncGenerator[WireEvent, None]:
        """Send a message, and yield the events of its turn."""
        own = runnable_tools(tools)
        since = await self.last_event_id(session_id)
        message = await self.send_message(
            session_id,
            content,
            controls=controls,
            idempotency_key=idempotency_key,
            client_message_id=client_message_id,
        )
        if since is not None and message.sequence is not None and message.sequence <= sequence_of(since):
            since = await self._event_before(session_id, message.sequence)
        opened = self._opened(own, answers)
        turn = self._until_end(session_id, message.id, since, opened)
        if tree:
            turn = TreeFollower(self, session_id, opened).merged(turn, since)
        async with aclosing(turn) as events:
            async for event in events:
                yield event

    def follow_tree(self, session_id: str, since_id: str | None = None) -> AsyncGenerator[WireEvent, None]:
        """Yield the events of a session after `since_id`, and those of all sessions below it, endlessly.

        `session_id` of an event says whose it is; those of each session come in order. Of sub-agents that are
        at work already, the events from now on are yielded. It leaves out `llm.generation`, as `run` does.

        Args:
            session_id: the session's id.
            since_id: the id of the last event of this session that the caller has seen.
        """
        opened = self._opened({}, None)
        return TreeFollower(self, session_id, opened).merged(opened(session_id, since_id), since_id)

    def _opened(self, own: Mapping[str, Runnable], answers: AnswerHandler | None) -> Open:
        """Follow a session, and answer the calls of these tools, and the agent's questions."""

        async def opened(session_id: str, since_id: str | None) -> AsyncGenerator[WireEvent, None]:
            # The server adds the whole prompt to each `llm.generation` that it sends; callers rarely need it.
            followed = self.follow(session_id, since_id, exclude=("llm.generation",))
            async with aclosing(followed):
                answered = self.own_calls.answering(session_id, followed, own) if own else followed
                if answers is not None:
                    answered = answering_questions(self, session_id, answered, answers)
                async with aclosing(answered) as events:
                    async for event in events:
                        yield event

        return opened

    async def _until_end(
        self, session_id: str, message_id: str, since: str | None, opened: Open
    ) -> AsyncGenerator[WireEvent, None]:
        """Yield the events from a message to the end of its turn."""
        watch = TurnWatch(message_id)
        async with aclosing(opened(session_id, since)) as events:
            async for event in events:
                if watch.take(event):
                    yield event
                    if watch.is_last(event):
                        return

    async def _event_before(self, session_id: str, sequence: int) -> str | None:
        before = await self.list_events(session_id, before_sequence=sequence, newest_first=True, limit=1)
        return before[0].id if before else None

    async def _answer_of(
        self,
        session_id: str,
        events: AsyncGenerator[WireEvent, None],
        tools: Iterable[OwnTool],
        schema: Schema[Any] | None,
        answers: AnswerHandler | None,
    ) -> Any:
        """Return the answer of a turn's events, which end with it."""
        names = runnable_tools(tools).keys()
        answer: Any = ""
        parked: list[WireEvent] = []
        async with aclosing(events):
            async for event in events:
                if event.type == "output.message.completed":
                    answer = text_of(data_of(event).message.content)
                elif event.type == "tool.call_requested":
                    if waits := await self._waits(session_id, event, names):
                        raise waits
                elif event.type == "tool.parked" and answers is None:
                    parked.append(event)
                elif event.type == "act.completed" and parked:
                    if waits := await self._asked(session_id, parked):
                        raise waits
                elif event.type == "turn.parked":
                    if paused := await self._paused(session_id, event):
                        raise paused
                elif (failure := turn_failure(event)) is not None:
                    raise failure
                elif event.type == "turn.completed" and schema is not None:
                    return value_of(schema, data_of(event).output)
        return answer


async def until_turn_ends(events: AsyncGenerator[WireEvent, None]) -> AsyncGenerator[WireEvent, None]:
    """The events up to the first end of a turn; then `events` is closed."""
    async with aclosing(events):
        async for event in events:
            yield event
            if event.type in ENDED_TURN:
                return
