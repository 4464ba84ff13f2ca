"""Talk with a session: send messages, run turns, answer what they ask."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence

from msgspec import UNSET, Struct

from perdure.client import routes
from perdure.client.errors import TurnFailed, TurnPaused, TurnWaits
from perdure.client.events import EventMethods, data_of
from perdure.client.own_calls import OwnCalls
from perdure.client.questions import questions_in, submit_answers
from perdure.client.routes import path_of
from perdure.domain.callbacks import OpenCallback
from perdure.domain.events import ENDED_TURN, WireEvent
from perdure.domain.messages import (
    Controls,
    CreateMessage,
    ExternalActor,
    InputMessage,
    InputPart,
    JsonObject,
    JsonValue,
    Message,
    TextPart,
)
from perdure.domain.sessions import Session
from perdure.domain.tools import ApprovalDecision, SubmitApprovals, SubmittedToolResults, ToolCallResult

_MESSAGES = "/v1/sessions/{}/messages"


class ConversationMethods(EventMethods):
    """The client's methods about messages, turns, tool results and callbacks."""

    own_calls: OwnCalls

    async def send_message(
        self,
        session_id: str,
        content: str | Sequence[InputPart],
        *,
        controls: Controls | None = None,
        metadata: JsonObject | None = None,
        tags: Sequence[str] | None = None,
        external_actor: ExternalActor | None = None,
        idempotency_key: str | None = None,
        client_message_id: str | None = None,
        addressed_participant_id: str | None = None,
    ) -> Message:
        """Send a message: it starts a turn, or steers the running one.

        The server has stored the message when this returns.

        Args:
            session_id: the session's id.
            content: text, or parts.
            controls: choices for this turn (`model_id`, `reasoning`), and `when_busy`: whether the message
                steers a running turn (the default), waits for its own, is refused, or interrupts it.
            metadata: JSON to store with the message.
            tags: the message's tags.
            external_actor: the author in another system, if the message comes from there.
            idempotency_key: the server accepts a message with the same key once and repeats its first answer
                after that. By default the client generates a key, which makes its own retries safe; pass a
                key to make your retries safe too.
            client_message_id: your own id of the message, which the session remembers for good: sending the
                same message again returns the first one.
            addressed_participant_id: the agent among the session's participants that the message is for.
        """
        parts = (TextPart(content),) if isinstance(content, str) else tuple(content)
        body = CreateMessage(
            InputMessage(parts),
            controls,
            metadata,
            None if tags is None else tuple(tags),
            external_actor,
            client_message_id,
            UNSET if addressed_participant_id is None else addressed_participant_id,
        )
        return await self.call(
            "POST",
            path_of(_MESSAGES, session_id),
            Message,
            body=body,
            once=idempotency_key or routes.new_key(),
        )

    list_messages = routes.lists_under(_MESSAGES, Message, "List a session's messages, oldest first.")

    async def pending(self, session_id: str) -> TurnWaits | None:
        """Return what the session's turn waits for: client-side tool calls, approvals or questions, or None.

        `resume` takes the result.
        """
        newest = await self.list_events(
            session_id, types=("tool.call_requested",), newest_first=True, limit=100
        )
        of_turn = [event for event in newest[::-1] if event.context.turn_id == newest[0].context.turn_id]
        asked = [
            (event, call) for event in of_turn for call in await self.own_calls.open_calls(session_id, event)
        ]
        if asked:
            return TurnWaits(session_id, asked[0][0], [call for _, call in asked])
        parked = await self.list_events(session_id, types=("tool.parked",), newest_first=True, limit=100)
        return await self._asked(session_id, parked[::-1])

    async def _asked(self, session_id: str, parked: Sequence[WireEvent]) -> TurnWaits | None:
        """Return the questions of these events that are still open; None if there are none."""
        found = [(event, asked) for event in parked if (asked := questions_in(session_id, event)) is not None]
        if not found:
            return None
        session = await self.call("GET", path_of("/v1/sessions/{}", session_id), Session)
        waits = {call.tool_call_id for call in session.parked_on if call.kind == "question"}
        still = [(event, asked) for event, asked in found if asked.tool_call_id in waits]
        return TurnWaits(session_id, still[0][0], (), tuple(asked for _, asked in still)) if still else None

    async def answer_questions(
        self, session_id: str, tool_call_id: str, answers: Mapping[str, str | None]
    ) -> SubmittedToolResults:
        """Answer the questions of a call.

        Args:
            session_id: the session's id.
            tool_call_id: the call that asks.
            answers: by the questions' ids: the label of an option, a text, or a secret's value, which becomes
                a secret of the session; None declines.

        Raises:
            ApiError: an answer does not fit its question (`invalid_answer`), or nothing waits for it any more
                (`questions_closed`, `not_waiting_for_tool_results`).
        """
        return await submit_answers(self, session_id, tool_call_id, answers)

    async def _waits(self, session_id: str, request: WireEvent, own: Container[str]) -> TurnWaits | None:
        """Return what a request waits for, apart from the program's own tools; None if there is nothing."""
        if all(call.name in own for call in data_of(request).tool_calls):
            return None
        open_calls = await self.own_calls.open_calls(session_id, request)
        others = tuple(call for call in open_calls if call.name not in own)
        return TurnWaits(session_id, request, others) if others else None

    async def _paused(self, session_id: str, parked: WireEvent) -> TurnPaused | None:
        """Return the budget that a parked turn waits for; None if it waits for something else, or goes on."""
        data = data_of(parked)
        if data.parked_kind != "budget":
            return None
        session = await self.call("GET", path_of("/v1/sessions/{}", session_id), Session)
        if session.status != "paused":
            return None
        return TurnPaused(session_id, data.budget_id or "", data.until, data.error)

    async def submit_tool_results(
        self, session_id: str, results: Iterable[ToolCallResult]
    ) -> SubmittedToolResults:
        """Submit the results of all pending client-side tool calls, each once.

        Results of calls that `run(tools=...)` runs in this program are added.
        """
        return await self.own_calls.submit(session_id, tuple(results))

    async def submit_tool_approvals(
        self, session_id: str, decisions: Iterable[ApprovalDecision]
    ) -> SubmittedToolResults:
        """Decide some or all of the tool calls that wait for approval.

        `tool.call_requested` names them in its calls of `approve_tool_call`.
        """
        path = path_of("/v1/sessions/{}/tool-approvals", session_id)
        return await self.call("POST", path, SubmittedToolResults, body=SubmitApprovals(tuple(decisions)))

    list_callbacks = routes.lists_under(
        "/v1/sessions/{}/callbacks", OpenCallback, "List a session's open callbacks, oldest first."
    )

    async def cancel_callback(self, session_id: str, callback_id: str) -> None:
        """Cancel an open callback: its URL stops working, and the tool call that waits for it fails."""
        await self.transport.request(
            "DELETE", path_of("/v1/sessions/{}/callbacks/{}", session_id, callback_id)
        )

    async def answer_callback(
        self, token: str, result: JsonValue = None, *, error: str | None = None
    ) -> None:
        """Give a tool call the result that it waits for.

        It works once. Only the same result can be given again, for a day, which has no further effect; so a
        request whose response is lost is repeated.

        Args:
            token: the token of the callback's URL, or the whole URL. The request always goes to this
                client's server.
            result: the result: any JSON value, at most 100 KB.
            error: what went wrong instead, in words for the model.

        Raises:
            ApiError: status 410: it was answered otherwise or cancelled before, or its time is over.
        """
        path = path_of("/v1/callbacks/{}", token.rstrip("/").rpartition("/")[2])
        body = _Answer(result) if error is None else _Failure(error)
        await self.transport.request("POST", path, body=body, repeatable=True)


class _Answer(Struct, frozen=True):
    result: JsonValue


class _Failure(Struct, frozen=True):
    error: str


def turn_failure(event: WireEvent) -> TurnFailed | None:
    """Return the failure if this event ends a turn without an answer, else None."""
    if event.type not in ENDED_TURN or event.type == "turn.completed":
        return None
    data = data_of(event)
    if event.type == "turn.failed":
        return TurnFailed(event.type, data.turn_id, data.error, data.error_code or "turn_failed")
    reason = data.reason or "a caller requested it"
    ending = event.type.removeprefix("turn.")
    return TurnFailed(event.type, data.turn_id, f"the turn was {ending}: {reason}", f"turn_{ending}")
