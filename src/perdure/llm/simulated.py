"""A model that plays a script (`llmsim`).

For tests, demonstrations and benchmarks, without a key or a network.

The script travels in the newest user message, so it survives restarts and passes through the whole server
unchanged:

    And the weather? [[sim [{"tool_calls": [{"name": "weather", "arguments": {"city": "Rome"}}]}, {"text":
    "Sun."}]]]

It is a JSON array of steps (or one step). The step that is played is the number of agent messages since that
user message; after the last step the model says the script's last text again, or "Done.". Without a script it
says what it is and what it was told. `Step` lists what a step can hold.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from hashlib import blake2b
from json import JSONDecodeError, JSONDecoder
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from perdure.domain.errors import ModelError
from perdure.domain.ids import ToolCallId
from perdure.domain.messages import JsonObject, Message, ToolCallPart, ToolResultPart, Usage, text_of
from perdure.llm.driver import ListedModel, ModelRequest, ModelResponse, OnDelta

PROVIDER_TYPE = "llmsim"
MODEL = "llmsim"

MAX_TOKENS = 1_000_000
"""Words in one simulated answer."""

_TRANSIENT = frozenset(
    {"provider_rate_limited", "provider_unavailable", "provider_timeout", "provider_bad_response"}
)
_OPEN = "[[sim "
_WORDS = re.compile(r"\s*\S+\s*")
# Words between two chances for the event loop, when they cost no time.
_BREATH = 64
_REMEMBERED = 10_000

Millis = Annotated[float, Meta(ge=0, le=86_400_000)]
Count = Annotated[int, Meta(ge=0, le=MAX_TOKENS)]


class SimulatedCall(Struct, frozen=True, forbid_unknown_fields=True):
    """A tool call to make. Without an id it gets one that is the same on every attempt."""

    name: str
    arguments: Any = {}
    id: str | None = None


class SimulatedFailure(Struct, frozen=True, forbid_unknown_fields=True):
    """A failure before the first word.

    Attributes:
        code: a code of `ModelError`.
        message: what the vendor says.
        status: the vendor's HTTP status.
        transient: whether trying again may help; by default what the code usually means.
        retry_after: seconds that the vendor asks to wait.
        times: how many attempts fail, counted in this process; None for all.
    """

    code: str = "provider_unavailable"
    message: str = "simulated failure"
    status: int | None = None
    transient: bool | None = None
    retry_after: float | None = None
    times: Count | None = None


class Step(Struct, frozen=True, forbid_unknown_fields=True):
    """One answer of the simulated model.

    Attributes:
        text: what it says.
        tokens: that many words are said after the text, the last one `END.`.
        thinking: what it thinks first.
        tool_calls: what it asks for.
        first_ms: milliseconds before anything happens, the failure included.
        delay_ms: milliseconds before each word.
        fail: a failure in place of the answer.
        cut_after: the stream breaks after that many words.
        cut_times: how many attempts break, counted in this process; None for all.
        usage: token counts that replace the counted words, by name.
        finish_reason: in place of `stop` or `tool_calls`.
    """

    text: str = ""
    tokens: Count = 0
    thinking: str | None = None
    tool_calls: tuple[SimulatedCall, ...] = ()
    first_ms: Millis = 0
    delay_ms: Millis = 0
    fail: SimulatedFailure | None = None
    cut_after: Count | None = None
    cut_times: Count | None = None
    usage: JsonObject | None = None
    finish_reason: str | None = None


Script = Sequence[Step | JsonObject] | Callable[[ModelRequest], Step | JsonObject]


class SimulatedDriver:
    """The simulated model. Every user message may carry a script; `script` is for those that carry none.

    Args:
        script: steps, played by the same rule as one in a message; or a function that makes the step from the
            request.
        record: keep the requests in `requests`; by default when there is a script.
        sleep: waits that many seconds; simulations bring their own.

    Attributes:
        requests: the requests received, oldest first, when recorded.
    """

    provider_type = PROVIDER_TYPE

    def __init__(
        self,
        script: Script | None = None,
        *,
        record: bool | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._make = script if callable(script) else None
        self._script = None if script is None or callable(script) else [_step(step) for step in script]
        self._record = script is not None if record is None else record
        self._sleep = sleep
        self._attempts: dict[tuple[str, int, str], int] = {}
        self.requests: list[ModelRequest] = []

    async def generate(self, request: ModelRequest, on_delta: OnDelta) -> ModelResponse:
        """Play one step. Raises: ModelError: the step says so, or the script is wrong."""
        if self._record:
            self.requests.append(request)
        asked, number = _place(request.messages)
        step = self._step_for(request, asked, number)
        key = asked.id if asked is not None else ""
        await self._sleep(step.first_ms / 1000)
        if step.fail is not None and self._due(key, number, "fail", step.fail.times):
            raise _failure(step.fail)
        if step.thinking:
            on_delta("thinking", step.thinking)
        cut = (
            step.cut_after
            if step.cut_after is not None and self._due(key, number, "cut", step.cut_times)
            else None
        )
        text = await self._say(step, cut, on_delta)
        calls = tuple(_call(call, key, number, index) for index, call in enumerate(step.tool_calls))
        return ModelResponse(
            text=text,
            tool_calls=calls,
            thinking=step.thinking or None,
            usage=_usage(request, step, text),
            finish_reason=step.finish_reason or ("tool_calls" if calls else "stop"),
            response_id=f"llmsim_{_digest(key, number)}",
            model=request.model,
        )

    async def list_models(self) -> list[ListedModel]:
        """The one model there is; any name will do."""
        return [ListedModel(MODEL, "Simulated model")]

    def _step_for(self, request: ModelRequest, asked: Message | None, number: int) -> Step:
        if self._make is not None:
            return _step(self._make(request))
        said = text_of(asked.content) if asked is not None else ""
        script = _script_in(said) if _OPEN in said else self._script
        if script is None:
            return Step(text=_echo(said))
        if number < len(script):
            return script[number]
        return Step(text=next((step.text for step in reversed(script) if step.text), "Done."))

    async def _say(self, step: Step, cut: int | None, on_delta: OnDelta) -> str:
        words = _WORDS.findall(step.text) or ([step.text] if step.text else [])
        if step.tokens:
            gap = [" "] if words and not words[-1][-1].isspace() else []
            words += [*gap, *("word " for _ in range(step.tokens - 1)), "END."]
        delay = step.delay_ms / 1000
        for count, word in enumerate(words):
            if count == cut:
                break
            if delay or count % _BREATH == 0:
                await self._sleep(delay)
            on_delta("text", word)
        if cut is not None:
            raise ModelError("simulated: the stream was cut", code="provider_bad_response", transient=True)
        return "".join(words)

    def _due(self, message: str, number: int, what: str, times: int | None) -> bool:
        """Whether this attempt is one of the first `times`."""
        if times is None:
            return True
        key = (message, number, what)
        seen = self._attempts.get(key, 0)
        self._attempts[key] = seen + 1
        if len(self._attempts) > _REMEMBERED:
            del self._attempts[next(iter(self._attempts))]
        return seen < times


def _place(messages: Sequence[Message]) -> tuple[Message | None, int]:
    """The newest user message, and how many agent messages came after it."""
    answers = 0
    for message in reversed(messages):
        if message.role == "user":
            return message, answers
        if message.role == "agent":
            answers += 1
    return None, answers


def _step(value: Step | JsonObject) -> Step:
    if isinstance(value, Step):
        return value
    try:
        return msgspec.convert(value, Step)
    except msgspec.ValidationError as error:
        raise _wrong(str(error)) from None


def _script_in(said: str) -> list[Step]:
    start = said.rindex(_OPEN) + len(_OPEN)
    try:
        value, end = JSONDecoder().raw_decode(said, len(said) - len(said[start:].lstrip()))
    except (JSONDecodeError, RecursionError) as error:
        raise _wrong(str(error)) from None
    if not said[end:].lstrip().startswith("]]"):
        raise _wrong("`]]` must follow the JSON")
    return [_step(step) for step in (value if isinstance(value, list) else [value])]


def _wrong(why: str) -> ModelError:
    return ModelError(f"the simulated model's script is wrong: {why}", code="invalid_model_request")


def _failure(failure: SimulatedFailure) -> ModelError:
    return ModelError(
        failure.message,
        code=failure.code,
        transient=failure.code in _TRANSIENT if failure.transient is None else failure.transient,
        retry_after=failure.retry_after,
        status=failure.status,
    )


def _call(call: SimulatedCall, message: str, number: int, index: int) -> ToolCallPart:
    call_id = ToolCallId(call.id or f"call_{_digest(message, number, index)}")
    return ToolCallPart(call_id, call.name, call.arguments)


def _digest(*parts: str | int) -> str:
    return blake2b("/".join(map(str, parts)).encode(), digest_size=12).hexdigest()


def _echo(said: str) -> str:
    words = " ".join(said.split())
    shown = words if len(words) <= 200 else words[:199] + "…"
    quoted = f" You said: “{shown}”" if shown else ""
    return f"Hello! I am Perdure's simulated model: I follow scripts and do not think.{quoted}"


def _usage(request: ModelRequest, step: Step, text: str) -> Usage:
    """Words of the system prompt, the newest messages and the answer.

    The work does not grow with the session.
    """
    given = len(request.system.split()) + sum(_words(message) for message in request.messages[-_BREATH:])
    made = len(text.split()) + len((step.thinking or "").split()) + len(step.tool_calls)
    counted = {"input_tokens": given, "output_tokens": made, **(step.usage or {})}
    try:
        return msgspec.convert(counted, Usage)
    except msgspec.ValidationError as error:
        raise _wrong(f"usage: {error}") from None


def _words(message: Message) -> int:
    words = len(text_of(message.content).split())
    for part in message.content:
        if isinstance(part, ToolResultPart) and isinstance(part.result, str):
            words += len(part.result.split())
    return words
