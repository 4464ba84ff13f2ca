"""The errors that the client raises.

PerdureError (perdure.domain.errors)
├── ApiError         the server refused the request: `status`, `code`, `message`, `problem`
│   ├── NotFound     404  does not exist, or belongs to another organization
│   ├── Conflict     409  the resource's state does not allow the request
│   └── RateLimited  429  `retry_after` in seconds, if the server named it
├── Unreachable      no server answered, even after retries
├── BadAnswer        the answer does not follow Perdure's protocol
├── TurnFailed       a turn ended without an answer: failed, cancelled or sealed
└── TurnWaits        a turn waits for an approval, or for the result of a client-side tool
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

import msgspec

from perdure.domain.errors import PerdureError
from perdure.domain.events import ToolCall, WireEvent
from perdure.domain.messages import JsonObject
from perdure.domain.retry_after import retry_after
from perdure.domain.session_answers import OpenQuestions
from perdure.domain.tools import APPROVE, ApprovalQuestion


class ApiError(PerdureError):
    """The server refused a request.

    Attributes:
        status: the HTTP status.
        code: a stable error code (`invalid_id`, `session_not_found` ...).
        message: what is wrong and how to fix it, for people.
        problem: the whole `application/problem+json` body; empty if the answer had none.
        retry_after: seconds to wait before a retry, if the server named them.
    """

    def __init__(
        self, status: int, code: str, message: str, problem: JsonObject, *, retry_after: float | None = None
    ) -> None:
        super().__init__(message, code=code, retry_after=retry_after)
        self.status = status
        self.problem = problem


class NotFound(ApiError):
    """404: the resource does not exist, or belongs to another organization."""


class Conflict(ApiError):
    """409: the resource's state does not allow the request."""


class RateLimited(ApiError):
    """429: too many requests."""


class Unreachable(PerdureError):
    """No server answered at the base URL, or the connection broke, in every attempt."""

    code = "unreachable"


class BadAnswer(PerdureError):
    """The answer is not from a Perdure server: the base URL may belong to another program."""

    code = "bad_answer"


class TurnFailed(PerdureError):
    """A turn ended without an answer.

    Attributes:
        ended_by: the event that ended it: `turn.failed`, `turn.cancelled` or `turn.sealed`.
        turn_id: the turn's id.
        code: the error code of `turn.failed` (`provider_auth`, `model_not_configured` ...), else
            `turn_cancelled` or `turn_sealed`.
    """

    def __init__(self, ended_by: str, turn_id: str, message: str, code: str) -> None:
        super().__init__(message, code=code)
        self.ended_by = ended_by
        self.turn_id = turn_id


class TurnWaits(PerdureError):
    """A turn waits for a person or a client, and goes on once somebody answers.

    Attributes:
        session_id: the session's id.
        request: the event that asked: `tool.call_requested` or, with questions, `tool.parked`.
        calls: the client-side tool calls that wait for a result, for `submit_tool_results`.
        approvals: the tool calls that wait for a decision, for `submit_tool_approvals`.
        questions: the agent's questions that wait for answers, for `answer_questions`.
    """

    code = "turn_waits"

    def __init__(
        self,
        session_id: str,
        request: WireEvent,
        open_calls: Iterable[ToolCall],
        questions: tuple[OpenQuestions, ...] = (),
    ) -> None:
        asked = tuple(open_calls)
        self.questions = questions
        self.session_id = session_id
        self.request = request
        self.calls = tuple(call for call in asked if call.name != APPROVE)
        self.approvals = tuple(
            msgspec.convert(call.arguments, ApprovalQuestion) for call in asked if call.name == APPROVE
        )
        waits = [f"the result of the client-side tool {call.name}" for call in self.calls]
        waits += [f"approval of {question.tool_name}" for question in self.approvals]
        waits += [f"an answer to {question.question!r}" for each in questions for question in each.questions]
        ways = ["`submit_tool_results`"] if self.calls else []
        ways += ["`answer_questions`"] if questions else []
        ways += ["`submit_tool_approvals`"] if self.approvals else []
        super().__init__(
            f"the turn waits for {', and for '.join(waits)}: answer with {' and '.join(ways)}, then call "
            "`resume`"
        )


class TurnPaused(PerdureError):
    """A turn waits for a budget, and goes on by itself once it has money: where it stopped.

    Attributes:
        session_id: the session's id.
        budget_id: the budget that has no money for the next model call.
        until: when the turn tries again at the latest, RFC 3339.
    """

    code = "turn_paused"

    def __init__(self, session_id: str, budget_id: str, until: str, why: str) -> None:
        self.session_id = session_id
        self.budget_id = budget_id
        self.until = until
        super().__init__(f"the turn waits for a budget: {why}")


_BY_STATUS: dict[int, type[ApiError]] = {404: NotFound, 409: Conflict, 429: RateLimited}


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> ApiError:
    """Build the error for an answer with this status. Accepts any body, even a proxy's HTML."""
    problem = _problem(body)
    code = problem.get("code")
    message = problem.get("detail") or problem.get("title") or f"the server answered with status {status}"
    kind = _BY_STATUS.get(status, ApiError)
    return kind(
        status,
        code if isinstance(code, str) else f"http_{status}",
        str(message),
        problem,
        retry_after=_wait(headers, problem),
    )


def _problem(body: bytes) -> JsonObject:
    try:
        return msgspec.json.decode(body, type=JsonObject)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}


def _wait(headers: Mapping[str, str], problem: JsonObject) -> float | None:
    """Return the seconds to wait, from the body if it names them, else from the header."""
    seconds = problem.get("retry_after_seconds")
    if isinstance(seconds, int | float):
        return max(0.0, float(seconds))
    return retry_after(headers, time.time())
