"""Answer what a server of the era of sessions asks while it works on a call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

import msgspec

from perdure.domain import mcp_wire as wire
from perdure.domain.mcp import McpAnswers, McpInputRequired
from perdure.domain.mcp_results import question, question_key
from perdure.domain.mcp_servers import ElicitationPolicy
from perdure.domain.mcp_wire import Incoming, Malformed
from perdure.domain.messages import JsonObject
from perdure.net.mcp.requests import Wanted

_INVALID_PARAMS = -32602

CANCELLED = (
    "The server asked the user a question, which was cancelled: the call would have to be made again with "
    "the answer, and the tool does not say that it is idempotent."
)


class UserAsked(Exception):
    """The server asks a user, whose answer is not there yet: the call ends here, and is made again with it.

    Attributes:
        required: the question, and as its state the answers to those before it.
    """

    def __init__(self, required: McpInputRequired) -> None:
        super().__init__("the server asks a user")
        self.required = required


class Desk:
    """Answers the requests of a server during one call.

    Pings are answered, questions to users get their answers if there are any; sampling, roots and others
    are refused. A question ends the call, which is made again with the answer: a call that must not be made
    twice has its questions cancelled instead.

    Args:
        policy: which questions to users are passed on.
        wanted: the call, with what users have answered.
        send: sends a response.
    """

    def __init__(
        self, policy: ElicitationPolicy, wanted: Wanted, send: Callable[[bytes], Awaitable[None]]
    ) -> None:
        self._policy: ElicitationPolicy = policy
        self._wanted = wanted
        self._answers = _all_answers(wanted.answers)
        self._send = send
        self._seen: Counter[str] = Counter()

    async def take(self, message: Incoming) -> None:
        """Answer a request.

        Raises:
            UserAsked: it is a question that no answer is there for.
        """
        if message.id is None:
            return
        if message.method == "ping":
            body = wire.response(message.id, {})
        elif message.method == "elicitation/create" and self._policy != "none":
            try:
                body = self._elicited(message.id, message.params)
            except Malformed as error:
                body = wire.error_response(message.id, _INVALID_PARAMS, str(error))
        else:
            said = f"this client has no method {wire.text_in(message.method, 40)!r}"
            body = wire.error_response(message.id, wire.METHOD_NOT_FOUND, said)
        await self._send(body)

    def _elicited(self, key: wire.RpcId, params: JsonObject) -> bytes:
        """The response to a question. Raises Malformed: it is not passed on."""
        named = question_key(params)
        self._seen[named] += 1
        named = f"{named}-{self._seen[named]}"  # a server may repeat a question
        given = self._answers.get(named)
        if given is not None:
            return wire.response(key, given)
        if not self._wanted.idempotent:
            if self._wanted.progress is not None:
                self._wanted.progress.say(CANCELLED)
            return wire.response(key, {"action": "cancel"})
        asked = question(named, params, self._policy)
        state = msgspec.json.encode(self._answers).decode() if self._answers else None
        raise UserAsked(McpInputRequired((asked,), state))


def _all_answers(answers: McpAnswers | None) -> dict[str, JsonObject]:
    """The answers to the last questions, and to those before them, which their state holds."""
    if answers is None:
        return {}
    earlier: dict[str, JsonObject] = {}
    if answers.state is not None:
        try:
            earlier = msgspec.json.decode(answers.state, type=dict[str, JsonObject])
        except msgspec.MsgspecError:
            earlier = {}  # the state of a server that has changed its era
    given = {key: each for key, each in answers.responses.items() if isinstance(each, dict)}
    return {**earlier, **given}
